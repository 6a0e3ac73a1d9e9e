//! Programs that nobody here wrote. Enters: which ones a test needs. Leaves: whether it may run, and a word to the reader
//! when it may not: with `UNDERPASS_FULL=1`, as `tests/run` sets it, a missing program is a failure; without, it is a
//! line on standard error. Must not touch: the network beyond this machine.

use std::env;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The proxies of `tests/outside/networks`.
const BOXES: &[&str] =
    &["nginx", "haproxy", "apache2", "varnishd", "lighttpd", "squid", "tinyproxy", "privoxy", "e2guardian", "mitmdump"];

/// Something from outside that a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// What `tests/outside/apps/requirements.txt` names.
    Applications,
    /// The proxies of `tests/outside/networks`.
    Boxes,
    /// What makes Debian packages of crates, and what it asks of Debian.
    CargoDeb,
    Chromium,
    /// Node.js, and what `tests/outside/client/tools/package.json` names: TypeScript and Grafana's types are there too.
    ClientTools,
    /// What reads compose files.
    Compose,
    Curl,
    Firefox,
    /// The judge of Dockerfiles.
    Hadolint,
    /// Debian's judge of packages.
    Lintian,
    Mosquitto,
    /// Node.js, and what `tests/outside/real/package.json` names.
    Node,
    /// Prometheus, and its own judge of metrics and rules.
    Prometheus,
    /// A Python with what `tests/outside/real/requirements.txt` names.
    Python,
    SystemdAnalyze,
}

impl Program {
    pub const ALL: [Self; 15] = [
        Self::Applications,
        Self::Boxes,
        Self::CargoDeb,
        Self::Chromium,
        Self::ClientTools,
        Self::Compose,
        Self::Curl,
        Self::Firefox,
        Self::Hadolint,
        Self::Lintian,
        Self::Mosquitto,
        Self::Node,
        Self::Prometheus,
        Self::Python,
        Self::SystemdAnalyze,
    ];

    /// What cannot be found of it.
    pub fn missing(self) -> Option<String> {
        let commands: &[&str] = match self {
            Self::Boxes => BOXES,
            Self::CargoDeb => &["cargo-deb", "dpkg-deb", "dpkg-shlibdeps"],
            Self::Compose => &["docker-compose"],
            Self::Chromium => &["chromium"],
            Self::Curl => &["bash", "curl"],
            Self::Firefox => &["firefox-esr"],
            Self::Mosquitto => &["mosquitto", "mosquitto_pub", "mosquitto_sub"],
            Self::ClientTools | Self::Node => &["node", "npm"],
            Self::Applications | Self::Hadolint | Self::Python => &[],
            Self::Lintian => &["lintian"],
            Self::Prometheus => &["prometheus", "promtool"],
            Self::SystemdAnalyze => &["systemd-analyze"],
        };
        let place = match self {
            Self::Applications => Some(application("jupyter-lab")),
            Self::ClientTools => {
                Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside/client/tools/node_modules"))
            }
            Self::Hadolint => Some(hadolint()),
            Self::Node => Some(script("node_modules")),
            Self::Python => Some(python()),
            _ => None,
        };
        let command = commands.iter().find(|name| command(name).is_none()).map(|name| (*name).to_owned());
        command.or_else(|| place.filter(|place| !place.exists()).map(|place| place.display().to_string()))
    }
}

/// Whether all of these are there; says so when they are not.
///
/// # Panics
/// One is missing and `UNDERPASS_FULL` is `1`.
pub fn present(programs: &[Program]) -> bool {
    let missing: Vec<String> = programs.iter().filter_map(|program| program.missing()).collect();
    if missing.is_empty() {
        return true;
    }
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let reason = format!("{test}: left out: needs {}; run tests/run", missing.join(", "));
    assert!(!full(), "{reason}");
    say(&reason);
    false
}

/// Whether nothing may be left out.
pub fn full() -> bool {
    env::var_os("UNDERPASS_FULL").is_some_and(|full| full == "1")
}

/// A line to the reader of a test run, who does not see what passing tests print.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Where a command is, as `PATH` says; servers are where only root's leads.
pub fn command(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin".into()]);
    places.map(|place| place.join(name)).find(|file| file.is_file())
}

/// A file beside the tests of this name.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside/real").join(name)
}

/// The interpreter that has our requirements.
pub fn python() -> PathBuf {
    target().join("venv/bin/python")
}

/// The command of that name.
pub fn hadolint() -> PathBuf {
    target().join("venv/bin/hadolint")
}

/// A command of those applications that PyPI has.
pub fn application(name: &str) -> PathBuf {
    target().join("venv-apps/bin").join(name)
}

/// The target directory.
pub fn target() -> &'static Path {
    // CARGO_TARGET_TMPDIR lies directly in it.
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap_or(Path::new("target"))
}
