//! The command line.
//!
//! Enters: arguments. Leaves: an exit code, and words to whoever started us. Must not touch: anything but the doors of
//! the library.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use underpass::app::{App, StartError, check_files};
use underpass::config::{Address, Config, Log, LogFormat};
use underpass::demo;
use underpass::lifecycle::drain::signals;
use underpass::lifecycle::log;
use underpass::lifecycle::sockets::Sockets;

/// A session is a few dozen small pieces, opened and closed by the thousand: jemalloc keeps them closer together than
/// the C library's allocator, and is faster at it (docs/PERFORMANCE.md has the figures).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
    /// Report all mistakes of a configuration, without starting anything
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

fn main() -> ExitCode {
    let done = match Cli::parse().command.unwrap_or(Command::Demo(DemoArgs::default())) {
        Command::Demo(args) => run_demo(&args),
        Command::Run(args) => run(args),
        Command::Check { config } => check(&config),
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
    let config = Config::load(path).map_err(|mistakes| mistakes.to_string())?;
    check_files(&config).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("{} is fine: {} listener(s), {} route(s)", path.display(), config.listeners.len(), config.routes.len());
    Ok(())
}

fn run(args: RunArgs) -> Result<(), String> {
    let config = match (&args.config, &args.upstream) {
        (Some(path), _) => Config::load(path),
        (None, upstream) => Config::from_flags(&args.listen, upstream.as_deref().unwrap_or_default()),
    };
    let config = config.map_err(|mistakes| mistakes.to_string())?;
    log::start(&config.log);
    // Before the runtime: it changes the environment, which only a lone thread may.
    let sockets = Sockets::from_env().map_err(|error| format!("the sockets passed by systemd: {error}"))?;
    on_runtime(async move {
        let app = App::start(config, sockets).map_err(|error| error.to_string())?;
        for address in &app.addresses {
            tracing::info!(address = %shown(address), version = env!("CARGO_PKG_VERSION"), "listening");
        }
        if let Some(address) = &app.admin {
            tracing::info!(address = %shown(address), "admin listening");
        }
        serve(app, args.config).await
    })
}

fn run_demo(args: &DemoArgs) -> Result<(), String> {
    log::start(&Log { format: LogFormat::Text, level: "warn,underpass=info".into() });
    let wanted = args.listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)));
    let fixed = args.listen.is_some();
    on_runtime(async move {
        let backend = demo::start().await.map_err(|error| format!("the demo backend: {error}"))?;
        let app = match start_demo(wanted, backend) {
            Err(_) if !fixed => start_demo(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), backend),
            started => started,
        };
        let app = app.map_err(|error| error.to_string())?;
        print_demo(&app, backend);
        serve(app, None).await
    })
}

fn start_demo(listen: SocketAddr, backend: SocketAddr) -> Result<App, StartError> {
    let mut config = Config::from_flags(&listen.to_string(), &format!("ws://{backend}")).unwrap_or_default();
    // A demo is stopped by hand: nobody wants to wait.
    config.drain.pre = std::time::Duration::ZERO;
    config.drain.spread = std::time::Duration::from_millis(500);
    config.drain.timeout = std::time::Duration::from_secs(3);
    App::start(config, Sockets::none())
}

fn print_demo(app: &App, backend: SocketAddr) {
    let url = app.addresses.first().map(|address| format!("http://{}", shown(address))).unwrap_or_default();
    println!(
        "\
underpass {version} demo

  backend   ws://{backend}   an ordinary WebSocket server: /echo, /clock, /chat
  sidecar   {url}   in front of it
  page      {url}/   the same conversation over WebSocket, SSE, stream and poll

To paste into another terminal:

  curl -N {url}/_underpass/sse/clock
  S={url}$(curl -sX POST {url}/_underpass/open/echo | sed 's/.*\"url\":\"\\([^\"]*\\)\".*/\\1/'); curl \"$S/send?as=text\" -d hello
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

/// Runs on a runtime of this thread alone, which is the first worker; the application starts the others.
fn on_runtime(work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("the runtime: {error}"))?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

fn shown(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
        Address::Activated(name) => format!("systemd:{name}"),
    }
}
