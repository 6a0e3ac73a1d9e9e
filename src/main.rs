//! The command line.
//!
//! Enters: arguments. Leaves: an exit code and messages to the user. Must not touch: anything but the library's public items.

use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use underpass::app::{App, StartError, check_files, memory_budget};
use underpass::config::{Address, Config, Log, LogFormat};
use underpass::control::Order;
use underpass::demo;
use underpass::lifecycle::drain::signals;
use underpass::lifecycle::log;
use underpass::lifecycle::sockets::Sockets;
use underpass::probe::{ProbeOptions, probe};

/// A session consists of a few dozen small allocations, and thousands of sessions open and close: mimalloc packs these more
/// densely than the C library's allocator and is faster (docs/PERFORMANCE.md has the figures). It needs only the C compiler
/// that ring needs anyway; jemalloc would need make as well. Huge pages are off (`no_thp`), because the kernel clears each one
/// completely on first use.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Carries an unmodified WebSocket backend over networks that break WebSockets.
///
/// underpass stands in front of a WebSocket server and serves its clients by Server-Sent Events, octet streams and long
/// polls as well, each session over one WebSocket of its own to the backend; where WebSocket works it is passed
/// through, and everything else is proxied. Without a command it runs the demo.
#[derive(Parser)]
#[command(
    version,
    after_help = "Signals: SIGTERM drains and exits 0; SIGHUP reads the configuration again.\n\
                                 Logs go to standard error; RUST_LOG overrides the configured level."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a small real WebSocket backend, the sidecar in front of it, and a page to try both
    Demo(DemoArgs),
    /// Run the sidecar
    #[command(
        after_help = "The smallest configuration is two lines:\n\n    listen = \"127.0.0.1:8080\"\n    upstream = \"ws://127.0.0.1:9000\"\n\n\
                            which is what --listen and --upstream say without a file."
    )]
    Run(RunArgs),
    /// Test what the network between here and a running sidecar lets through, transport by transport
    #[command(
        after_help = "It needs nothing at the server, but says more where the configuration has `selftest = true`.\n\n\
                            Exit codes: 0 everything passes; 1 something is blocked, held back or cut; 2 no sidecar was reached,\n\
                            or the arguments are wrong, so nothing was tested. Ctrl-C ends it early with what is known."
    )]
    Probe(ProbeArgs),
    #[command(flatten)]
    Order(Order),
    /// Report all errors in a configuration, without starting anything
    Check {
        /// The TOML file
        config: PathBuf,
    },
}

#[derive(Args, Default)]
struct DemoArgs {
    /// Where to listen [default: 127.0.0.1:8080, or a free port when that is taken]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

#[derive(Args)]
struct RunArgs {
    /// The TOML file; config.example.toml documents every key
    #[arg(required_unless_present = "upstream", conflicts_with_all = ["upstream", "listen"])]
    config: Option<PathBuf>,
    /// The backend, without a file: ws://, wss://, http://, https:// or unix:/path
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Where to listen, without a file
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: String,
}

#[derive(Args)]
struct ProbeArgs {
    /// The sidecar as its users see it: http(s)://host[:port], with the prefix behind it when that is not /_underpass
    #[arg(value_name = "URL")]
    url: String,
    /// Go through this HTTP proxy, as browsers do: http://[user:password@]host:port
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// PEM file of the authorities to trust instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How long connections are kept open: what cuts old or quiet ones is found only by waiting
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=840))]
    seconds: u64,
    /// A WebSocket path of the backend to test with, instead of the self-test's own conversation
    #[arg(long, value_name = "PATH")]
    target: Option<String>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command.unwrap_or(Command::Demo(DemoArgs::default())) {
        Command::Demo(args) => run_demo(&args),
        Command::Run(args) => run(args),
        Command::Check { config } => check(&config),
        Command::Order(order) => give(&order),
        Command::Probe(args) => return run_probe(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn check(path: &PathBuf) -> Result<(), String> {
    let config = Config::load(path).map_err(|errors| errors.to_string())?;
    let warnings = check_files(&config).map_err(|error| format!("{}: {error}", path.display()))?;
    for warning in warnings {
        println!("warning: {warning}");
    }
    println!("{} is fine: {} listener(s), {} route(s)", path.display(), config.listeners.len(), config.routes.len());
    let (bytes, source) = memory_budget(&config);
    println!("memory budget: {} MiB, {source}", bytes >> 20);
    Ok(())
}

fn run(args: RunArgs) -> Result<(), String> {
    let config = match (&args.config, &args.upstream) {
        (Some(path), _) => Config::load(path),
        (None, upstream) => Config::from_flags(&args.listen, upstream.as_deref().unwrap_or_default()),
    };
    let config = config.map_err(|errors| errors.to_string())?;
    log::start(&config.log);
    // Before the runtime starts other threads, because this changes the environment.
    let sockets = Sockets::from_env().map_err(|error| format!("the sockets passed by systemd: {error}"))?;
    on_runtime(async move {
        let app = App::start(config, sockets).map_err(|error| error.to_string())?;
        for address in &app.addresses {
            tracing::info!(address = %text(address), version = env!("CARGO_PKG_VERSION"), "listening");
        }
        if let Some(address) = &app.admin {
            tracing::info!(address = %text(address), "admin listening");
        }
        serve(app, args.config).await
    })
}

fn run_demo(args: &DemoArgs) -> Result<(), String> {
    log::start(&Log { format: LogFormat::Text, level: "warn,underpass=info".into() });
    let address = args.listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)));
    let fixed = args.listen.is_some();
    on_runtime(async move {
        let backend = demo::start().await.map_err(|error| format!("the demo backend: {error}"))?;
        let app = match start_demo(address, backend) {
            Err(_) if !fixed => start_demo(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), backend),
            started => started,
        };
        let app = app.map_err(|error| error.to_string())?;
        print_demo(&app, backend);
        serve(app, None).await
    })
}

fn give(order: &Order) -> Result<(), String> {
    on_runtime(async {
        print!("{}", order.carry_out().await.map_err(|error| error.to_string())?);
        Ok(())
    })
}

fn run_probe(args: ProbeArgs) -> ExitCode {
    let ProbeArgs { url, proxy, ca, seconds, target } = args;
    let options = ProbeOptions { url, proxy, ca, time: std::time::Duration::from_secs(seconds), target };
    let mut exit = ExitCode::from(2);
    let done = on_runtime(async {
        if std::io::stderr().is_terminal() {
            eprintln!("Testing for {seconds} s …");
        }
        let report = probe(&options, tokio::signal::ctrl_c()).await.map_err(|error| error.to_string())?;
        print!("{report}");
        exit = ExitCode::from(u8::from(!report.is_clean()));
        Ok(())
    });
    if let Err(message) = done {
        eprintln!("{message}");
    }
    exit
}

fn start_demo(listen: SocketAddr, backend: SocketAddr) -> Result<App, StartError> {
    let mut config = Config::from_flags(&listen.to_string(), &format!("ws://{backend}")).unwrap_or_default();
    config.selftest = true;
    // A demo is stopped by hand, and nobody wants to wait for it.
    config.drain.pre = std::time::Duration::ZERO;
    config.drain.spread = std::time::Duration::from_millis(500);
    config.drain.timeout = std::time::Duration::from_secs(3);
    App::start(config, Sockets::none())
}

fn print_demo(app: &App, backend: SocketAddr) {
    let url = app.addresses.first().map(|address| format!("http://{}", text(address))).unwrap_or_default();
    println!(
        "\
underpass {version} demo

  backend   ws://{backend}   an ordinary WebSocket server: /echo, /clock, /chat
  sidecar   {url}   in front of it
  page      {url}/   the same conversation over WebSocket, SSE, stream and poll
  self-test {url}/_underpass/selftest   what the network on the way lets through

To paste into another terminal:

  curl -N '{url}/clock?underpass=sse'
  S={url}/$(curl -sX POST '{url}/echo?underpass=open' | sed 's/.*\"url\":\"\\([^\"]*\\)\".*/\\1/'); curl \"$S/send?as=text\" -d hello
  curl \"$S/poll?wait=5\"

Ctrl-C stops it.
",
        version = env!("CARGO_PKG_VERSION"),
    );
}

async fn serve(app: App, source: Option<PathBuf>) -> Result<(), String> {
    let signals = signals().map_err(|error| format!("signals: {error}"))?;
    app.run(signals, source).await;
    Ok(())
}

/// Runs `work` on a runtime of this thread only. This thread is the first worker; the application starts the others.
fn on_runtime(work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("the runtime: {error}"))?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

fn text(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
        Address::Activated(name) => format!("systemd:{name}"),
    }
}
