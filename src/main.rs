//! The command line.
//!
//! Enters: arguments. Leaves: an exit code and messages to the user. Must not touch: anything but the library's public items.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use serde_json::json;
use tokio::sync::mpsc;
use underpass::app::{App, StartError, check_files, memory_budget};
use underpass::check::{routes, world};
use underpass::config::{Config, Loaded, Log, LogFormat, Sources};
use underpass::control::{Format, Order};
use underpass::demo;
use underpass::handover::make_room_early;
use underpass::lifecycle::drain::{Signal, signals};
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
/// through, and everything else is proxied.
#[derive(Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "Signals: SIGTERM drains and exits 0; SIGHUP reads the configuration again; SIGUSR2 hands over to the\n\
                                 process that systemd starts next, and exits 0.\n\
                                 Logs go to standard error; RUST_LOG overrides the configured level.\n\
                                 Each key of the configuration has a variable, as UNDERPASS_SESSION_GRACE=30s for session.grace\n\
                                 and UNDERPASS_ROUTE_0_PATH=/chat for path in the first [[route]]. A flag stands before a variable, that before the file, and that before the default."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
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
    /// Report all errors in a configuration and what does not fit this machine, without starting anything
    #[command(
        after_help = "Exit codes: 0 it can be run (there may be warnings); 1 it cannot; 2 with --strict: it can, with warnings."
    )]
    Check(CheckArgs),
    /// Print completions for a shell: underpass completions bash > /etc/bash_completion.d/underpass
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder, which must exist
        folder: PathBuf,
    },
}

#[derive(Args)]
struct DemoArgs {
    /// Where to listen [default: 127.0.0.1:8080, or a free port when that is taken]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

#[derive(Args)]
struct RunArgs {
    /// The TOML file, or - for standard input; config.example.toml documents every key
    config: Option<PathBuf>,
    /// The backend: ws://, wss://, http://, https:// or unix:/path
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Where to listen [default without a file: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where to look at the process: address:port, unix:/path, or unix for /run/underpass/admin.sock
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Write the browser client into the backend's pages
    #[arg(long)]
    inject: bool,
    /// Serve the self-test under the prefix
    #[arg(long)]
    selftest: bool,
    /// Take over everything from the process that runs with this configuration (`handover.socket`), which then exits
    #[arg(long)]
    take_over: bool,
}

#[derive(Args)]
struct CheckArgs {
    /// The TOML file, or - for standard input
    config: PathBuf,
    /// End with 2 when there are warnings
    #[arg(long)]
    strict: bool,
    /// How to report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
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

/// What is missing when a successor does not know whom to ask.
const NO_SOCKET: &str = "--take-over asks the running process at `handover.socket`, which is not set; write for example\n    \
                         [handover]\n    socket = \"/run/underpass/handover.sock\"\nand restart the running process once: it listens there from then on";

/// What is missing when `run` is given nothing.
const NO_BACKEND: &str = "nothing says where the backend is: name a configuration file, or\n    \
                          underpass run --upstream ws://127.0.0.1:9000";

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(args) => run_demo(&args),
        Command::Run(args) => match args.sources() {
            Ok(sources) if sources.has_backend() => run(&args, sources),
            Ok(_) => {
                complain(NO_BACKEND);
                return ExitCode::from(2);
            }
            Err(message) => Err(message),
        },
        Command::Check(args) => return check(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "underpass", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { folder } => {
            clap_mangen::generate_to(Cli::command(), &folder).map_err(|error| format!("{}: {error}", folder.display()))
        }
        Command::Order(order) => give(&order),
        Command::Probe(args) => return run_probe(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(&message);
            ExitCode::FAILURE
        }
    }
}

fn check(args: &CheckArgs) -> ExitCode {
    let checked = sources(&args.config).and_then(|sources| {
        let loaded = sources.load().map_err(|errors| errors.to_string())?;
        let files = check_files(&loaded.config).map_err(|error| format!("{}: {error}", sources.name()))?;
        let found = world(&loaded.config, true).into_iter().map(|found| format!("`{}`: {}", found.about, found.what));
        let warnings: Vec<String> =
            sources.strange().iter().cloned().chain(loaded.config.warnings()).chain(files).chain(found).collect();
        Ok((sources.name(), loaded.config, warnings))
    });
    let (text, code) = match (&checked, args.format) {
        (Err(errors), Format::Text) => {
            complain(errors);
            (String::new(), 1)
        }
        (Err(errors), Format::Json) => (format!("{}\n", json!({ "ok": false, "errors": errors, "warnings": [] })), 1),
        (Ok((.., warnings)), Format::Json) => {
            (format!("{}\n", json!({ "ok": true, "warnings": warnings })), u8::from(!warnings.is_empty()) * 2)
        }
        (Ok((name, config, warnings)), Format::Text) => {
            let warned: String = warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
            let (bytes, source) = memory_budget(config);
            let fine =
                format!("{name} is fine: {} listener(s), {} route(s)", config.listeners.len(), config.routes.len());
            let routes = routes(config);
            let text = format!("{warned}{fine}\n{routes}memory budget: {} MiB, {source}\n", bytes >> 20);
            (text, u8::from(!warnings.is_empty()) * 2)
        }
    };
    say(&text);
    ExitCode::from(if code == 2 && !args.strict { 0 } else { code })
}

/// A file, or standard input, with the environment over it.
fn sources(config: &Path) -> Result<Sources, String> {
    let sources = if config == Path::new("-") {
        let mut text = Vec::new();
        std::io::stdin().take(1 << 20).read_to_end(&mut text).map_err(|error| format!("standard input: {error}"))?;
        Sources::text(text)
    } else {
        Sources::file(config.to_owned())
    };
    Ok(sources.with_environment(environment()))
}

/// The variables whose names and values are text; no other has the name of a key.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

impl RunArgs {
    fn sources(&self) -> Result<Sources, String> {
        let mut sources = match &self.config {
            Some(config) => sources(config)?,
            None => Sources::default().with_default("listen", "127.0.0.1:8080").with_environment(environment()),
        };
        let texts = [("upstream", &self.upstream), ("listen", &self.listen), ("admin", &self.admin)];
        for (key, value) in texts.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
            sources = sources.with_flag(&format!("--{key}"), key, value);
        }
        for (key, _) in [("inject", self.inject), ("selftest", self.selftest)].into_iter().filter(|(_, set)| *set) {
            sources = sources.with_flag(&format!("--{key}"), key, "true");
        }
        Ok(sources)
    }
}

fn run(args: &RunArgs, sources: Sources) -> Result<(), String> {
    let Loaded { config, settings } = sources.load().map_err(|errors| errors.to_string())?;
    if args.take_over && config.handover.socket.is_none() {
        return Err(NO_SOCKET.to_owned());
    }
    // Before there are other threads: the one changes the environment, the other is slow then.
    let sockets = Sockets::from_env().map_err(|error| format!("the sockets passed by systemd: {error}"))?;
    make_room_early(args.take_over || sockets.has_stored());
    let _log = log::start(&config.log).map_err(|error| format!("the log's thread: {error}"))?;
    for strange in sources.strange() {
        tracing::warn!("{strange}");
    }
    on_runtime(async move {
        // Before the first port opens: whoever gets an answer may send a signal.
        let signals = heard()?;
        let app = App::succeed(config, sockets, args.take_over).await;
        let app = app.map_err(|error| error.to_string())?.with_settings(settings);
        for address in &app.addresses {
            tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
        }
        if let Some(address) = &app.admin {
            tracing::info!(%address, "admin listening");
        }
        app.run(signals, args.config.is_some().then_some(sources)).await;
        Ok(())
    })
}

fn run_demo(args: &DemoArgs) -> Result<(), String> {
    let log = Log { format: LogFormat::Text, level: "warn,underpass=info".into(), requests: false };
    let _log = log::start(&log).map_err(|error| format!("the log's thread: {error}"))?;
    let address = args.listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)));
    let fixed = args.listen.is_some();
    on_runtime(async move {
        let signals = heard()?;
        let backend = demo::start().await.map_err(|error| format!("the demo backend: {error}"))?;
        let app = match start_demo(address, backend) {
            Err(_) if !fixed => start_demo(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), backend),
            started => started,
        };
        let app = app.map_err(|error| error.to_string())?;
        print_demo(&app, backend);
        app.run(signals, None).await;
        Ok(())
    })
}

fn give(order: &Order) -> Result<(), String> {
    on_runtime(async {
        say(&order.carry_out().await.map_err(|error| error.to_string())?);
        Ok(())
    })
}

fn run_probe(args: ProbeArgs) -> ExitCode {
    let ProbeArgs { url, proxy, ca, seconds, target } = args;
    let options = ProbeOptions { url, proxy, ca, time: std::time::Duration::from_secs(seconds), target };
    let mut exit = ExitCode::from(2);
    let done = on_runtime(async {
        if std::io::stderr().is_terminal() {
            complain(&format!("Testing for {seconds} s …"));
        }
        let report = probe(&options, tokio::signal::ctrl_c()).await.map_err(|error| error.to_string())?;
        say(&report.to_string());
        exit = ExitCode::from(u8::from(!report.is_clean()));
        Ok(())
    });
    if let Err(message) = done {
        complain(&message);
    }
    exit
}

fn start_demo(listen: SocketAddr, backend: SocketAddr) -> Result<App, StartError> {
    let mut config = Config::from_flags(&listen.to_string(), &format!("ws://{backend}")).unwrap_or_default();
    config.selftest = true;
    if listen.ip().is_loopback() {
        config.hosts = vec![
            "localhost".into(),
            match listen.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            },
        ];
    }
    // A demo is stopped by hand, and nobody wants to wait for it.
    config.drain.pre = std::time::Duration::ZERO;
    config.drain.spread = std::time::Duration::from_millis(500);
    config.drain.timeout = std::time::Duration::from_secs(3);
    App::start(config, Sockets::none())
}

fn print_demo(app: &App, backend: SocketAddr) {
    let url = app.addresses.first().map(|address| format!("http://{address}")).unwrap_or_default();
    say(&format!(
        "\
underpass {version} demo

  backend   ws://{backend}   an ordinary WebSocket server: /echo, /clock, /chat
  sidecar   {url}   in front of it
  page      {url}/   the same conversation over WebSocket, SSE, stream and poll
  self-test {url}/_underpass/selftest   what the network on the way lets through

To paste into another terminal:

  curl -N '{url}/clock?underpass=sse'
  S={url}/$(curl -sX POST '{url}/echo?underpass=open' | sed 's/.*\"url\":\"\\([^\"]*\\)\".*/\\1/'); curl \"$S/send?as=text\" -d hello
  curl \"$S/poll?wait=5\"; curl \"$S/poll?wait=5&after=1\"

Ctrl-C stops it.
",
        version = env!("CARGO_PKG_VERSION"),
    ));
}

/// Prints what was asked for. Nothing fails for a standard output that takes nothing: the exit code says what it says.
fn say(text: &str) {
    let mut to = std::io::stdout().lock();
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}

/// Prints a message on standard error, which may take nothing, or never: then the process goes on to its exit without.
fn complain(message: &str) {
    let line = format!("{message}\n");
    let (said, end) = std::sync::mpsc::channel();
    let write = move || {
        let _ = std::io::stderr().write_all(line.as_bytes());
        let _ = said.send(());
    };
    let _ = std::thread::Builder::new().spawn(write);
    let _ = end.recv_timeout(std::time::Duration::from_secs(1));
}

/// The process's signals, from now on. Those that come before somebody waits for them are kept.
fn heard() -> Result<mpsc::Receiver<Signal>, String> {
    signals().map_err(|error| format!("signals: {error}"))
}

/// Runs `work` on a runtime of this thread only. This thread is the first worker; the application starts the others.
fn on_runtime(work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("the runtime: {error}"))?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}
