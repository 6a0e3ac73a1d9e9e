//! The configuration in force, key by key, each with its origin.
//!
//! Enters: a checked configuration, and where its keys were set. Leaves: a list for people. Must not touch: how values are
//! read.

use std::time::Duration;

use super::reader::Span;
use super::values::{show_duration, show_size};
use super::{Config, LogFormat};

/// A configuration, and where each value comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What is to be run.
    pub config: Config,
    /// Every key that was set, and every other one that has a default.
    pub settings: Vec<Setting>,
}

/// One key of the configuration in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// As `session.grace`; of a table that may be there several times as `route[0].upstream`, counted from 0.
    pub key: String,
    /// As it would be written in the file.
    pub value: String,
    /// `default`, file and line, a variable of the environment, or a flag.
    pub origin: String,
}

/// All of them in the order of their names. `told` gives value and origin of what was set.
pub(super) fn of(config: &Config, set: &[(String, Span)], told: impl Fn(Span) -> (String, String)) -> Vec<Setting> {
    let mut all: Vec<_> = set
        .iter()
        .map(|(key, span)| {
            let (value, origin) = told(span.clone());
            Setting { key: key.clone(), value, origin }
        })
        .collect();
    for (key, value) in in_force(config) {
        if !set.iter().any(|(known, _)| known == key) {
            all.push(Setting { key: key.to_owned(), value, origin: "default".to_owned() });
        }
    }
    all.sort_by(|one, other| one.key.cmp(&other.key));
    all
}

/// What counts of each key that has a default, which may follow from other keys.
fn in_force(config: &Config) -> Vec<(&'static str, String)> {
    let [subject, fingerprint] = &config.identity;
    vec![
        ("node", text(&config.node)),
        ("prefix", text(&config.prefix)),
        ("selftest", config.selftest.to_string()),
        ("workers", config.workers.to_string()),
        ("allow_credentials", config.origins.credentials.to_string()),
        ("require_origin", config.origins.require.to_string()),
        ("trust_unnamed_origin", config.origins.trust_unnamed.to_string()),
        ("client_subject_field", text(subject)),
        ("client_fingerprint_field", text(fingerprint)),
        ("session.max", config.session.max.to_string()),
        ("session.message", size(config.session.message)),
        ("session.batch", size(config.session.batch)),
        ("session.body", size(config.session.body)),
        ("session.buffer", size(config.session.buffer)),
        ("session.replay", size(config.session.replay)),
        ("session.held", config.session.held.to_string()),
        ("session.queue", size(config.session.queue)),
        ("session.ack_bytes", size(config.session.ack_bytes)),
        ("session.heartbeat", time(config.session.heartbeat)),
        ("session.probe", time(config.session.probe)),
        ("session.wait", time(config.session.wait)),
        ("session.wait_max", time(config.session.wait_max)),
        ("session.grace", time(config.session.grace)),
        ("session.recycle", time(config.session.recycle)),
        ("session.pause", time(config.session.pause)),
        ("session.close_wait", time(config.session.close_wait)),
        ("session.busy", time(config.session.busy)),
        ("session.nonce", time(config.session.nonce)),
        ("session.ended", time(config.session.ended)),
        ("session.ended_max", config.session.ended_max.to_string()),
        ("session.identity", config.session.identity.to_string()),
        ("client.connections", config.client.connections.to_string()),
        ("client.header_bytes", size(config.client.header_bytes)),
        ("client.header_fields", config.client.header_fields.to_string()),
        ("client.handshake", time(config.client.handshake)),
        ("client.header", time(config.client.header)),
        ("client.body", time(config.client.body)),
        ("client.write", time(config.client.write)),
        ("client.idle", time(config.client.idle)),
        ("client.streams", config.client.streams.to_string()),
        ("client.stream_window", size(config.client.stream_window as usize)),
        ("client.connection_window", size(config.client.connection_window as usize)),
        ("client.tunnel_idle", time(config.client.tunnel_idle)),
        ("client.body_rate", config.client.body_rate.to_string()),
        ("limits.connections", config.limits.connections.to_string()),
        ("limits.sessions", config.limits.sessions.to_string()),
        ("limits.handshakes", config.limits.handshakes.to_string()),
        ("limits.opens", config.limits.opens.to_string()),
        ("limits.requests", config.limits.requests.to_string()),
        ("limits.exempt", list(&config.limits.exempt)),
        ("backend.connect", time(config.backend.connect)),
        ("backend.handshake", time(config.backend.handshake)),
        ("backend.response", time(config.backend.response)),
        ("backend.ping", time(config.backend.ping)),
        ("backend.pong", time(config.backend.pong)),
        ("backend.idle", time(config.backend.idle)),
        ("backend.max_age", time(config.backend.max_age)),
        ("backend.pool", config.backend.pool.to_string()),
        ("backend.dials", config.backend.dials.to_string()),
        ("backend.header_bytes", size(config.backend.header_bytes)),
        ("backend.header_fields", config.backend.header_fields.to_string()),
        ("log.format", text(if config.log.format == LogFormat::Json { "json" } else { "text" })),
        ("log.level", text(&config.log.level)),
        ("log.requests", config.log.requests.to_string()),
        ("drain.timeout", time(config.drain.timeout)),
        ("drain.spread", time(config.drain.spread)),
        ("drain.pre", time(config.drain.pre)),
        ("handover.restart", config.handover.restart.to_string()),
        ("handover.quiesce", time(config.handover.quiesce)),
        ("handover.linger", time(config.handover.linger)),
    ]
}

fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(|item| text(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

fn time(time: Duration) -> String {
    text(&show_duration(time))
}

fn size(bytes: usize) -> String {
    text(&show_size(bytes as u64))
}

#[cfg(test)]
mod tests {
    use super::super::reader::Kind;
    use super::super::{Sources, parse};
    use super::*;

    /// Keys that mean nothing, or something that no single value says, as long as they are not set.
    const WITHOUT_DEFAULT: &[&str] = &[
        "memory",
        "hosts",
        "allowed_origins",
        "trusted_proxies",
        "listen",
        "admin",
        "upstream",
        "ca",
        "client_certificate",
        "client_key",
        "inject",
        "inject_workers",
        "ws",
        "add_path",
        "send_host",
        "send_origin",
        "upgrades",
        "error_page",
        "handover.socket",
    ];

    fn setting(settings: &[Setting], key: &str) -> (String, String) {
        let found = settings.iter().find(|setting| setting.key == key);
        found.map(|found| (found.value.clone(), found.origin.clone())).unwrap_or_default()
    }

    #[test]
    fn every_key_is_told_with_its_default_or_is_known_to_have_none() {
        let told: Vec<_> = in_force(&Config::default()).into_iter().map(|(key, _)| key).collect();
        for (key, _) in parse::keys().into_iter().filter(|(key, _)| !key.contains("[]")) {
            assert!(told.contains(&key.as_str()) != WITHOUT_DEFAULT.contains(&key.as_str()), "{key}");
        }
    }

    #[test]
    fn later_origins_stand_before_earlier_ones_and_all_are_told() {
        let file = b"listen = \"127.0.0.1:1\"\nupstream = \"ws://a\"\n[session]\ngrace = \"10s\"\nmax = 5\n[[route]]\npath = \"/x\"\nupstream = \"ws://b\"\n";
        let variables =
            [("UNDERPASS_SESSION_GRACE", "30s"), ("UNDERPASS_SELFTEST", "1"), ("UNDERPASS_PORT", "tcp://x")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let sources = Sources::text(file.to_vec())
            .with_environment(variables)
            .with_flag("--admin", "admin", "unix")
            .with_flag("--selftest", "selftest", "false");
        let loaded = sources.load().expect("sound");
        let told = |key| setting(&loaded.settings, key);
        assert_eq!(told("session.grace"), ("\"30s\"".into(), "UNDERPASS_SESSION_GRACE".into()));
        assert_eq!(loaded.config.session.grace, Duration::from_secs(30));
        assert_eq!(told("session.max"), ("5".into(), "standard input:5".into()));
        assert_eq!(told("selftest"), ("false".into(), "--selftest".into()));
        assert_eq!(told("admin"), ("\"unix\"".into(), "--admin".into()));
        assert_eq!(told("route[0].upstream"), ("\"ws://b\"".into(), "standard input:8".into()));
        assert_eq!(told("session.probe"), ("\"400ms\"".into(), "default".into()));
        // Half of the grace: what counts is told, not what would count alone.
        assert_eq!(told("session.wait"), ("\"15s\"".into(), "default".into()));
        assert_eq!(sources.strange(), &[] as &[String]);
    }

    #[test]
    fn errors_name_the_variable_or_the_flag() {
        let variables = [
            ("UNDERPASS_UPSTREAM", "127.0.0.1:9000"),
            ("UNDERPASS_SESSION_GRACE", "soon"),
            ("UNDERPASS_SELFTEST", "maybe"),
            ("UNDERPASS_SESSION_MAX", "0"),
            ("UNDERPASS_ALLOWED_ORIGINS", "https://a, *"),
            ("UNDERPASS_SESION_GRACE", "1s"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let sources = Sources::default().with_environment(variables).with_flag("--listen", "listen", ":1");
        let shown = sources.load().expect_err("all are wrong").to_string();
        for expected in [
            "command line: UNDERPASS_UPSTREAM: `upstream` needs a scheme",
            "UNDERPASS_SESSION_GRACE: `session.grace` is not a duration",
            "UNDERPASS_SELFTEST: `selftest` must be true or false",
            "UNDERPASS_SESSION_MAX: `session.max` must be between 1 and",
            "UNDERPASS_ALLOWED_ORIGINS: `allowed_origins` takes no `*`",
            "--listen: `listen` needs an address before the port",
        ] {
            assert!(shown.contains(expected), "{expected}\n{shown}");
        }
        assert!(sources.strange()[0].contains("did you mean UNDERPASS_SESSION_GRACE?"), "{:?}", sources.strange());
    }

    #[test]
    fn variables_change_tables_of_the_file_and_add_further_ones() {
        let file = b"listen = \"127.0.0.1:1\"\n[[route]]\npath = \"/a\"\nupstream = \"ws://a\"\n[[route]]\nupstream = \"ws://b\"\n";
        let load = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let sources = Sources::text(file.to_vec()).with_environment(variables);
            (sources.load(), sources)
        };
        let more: Vec<_> = (2..12).map(|at| (format!("UNDERPASS_ROUTE_{at}_PATH"), format!("/{at}"))).collect();
        let more: Vec<_> = more.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let upstreams: Vec<_> = (2..12).map(|at| format!("UNDERPASS_ROUTE_{at}_UPSTREAM")).collect();
        let upstreams = upstreams.iter().map(|name| (name.as_str(), "ws://c"));
        let variables = [
            ("UNDERPASS_ROUTE_0_UPSTREAM", "ws://other"),
            ("UNDERPASS_ROUTE_0_UPGRADES", "spdy/3.1, x"),
            ("UNDERPASS_LISTENER_0_ADDRESS", "127.0.0.1:2"),
        ];
        let all: Vec<_> = variables.into_iter().chain(more.iter().copied()).chain(upstreams).collect();
        let loaded = load(&all).0.expect("sound");
        let told = |key| setting(&loaded.settings, key);
        assert_eq!(told("route[0].upstream"), ("\"ws://other\"".into(), "UNDERPASS_ROUTE_0_UPSTREAM".into()));
        assert_eq!(told("route[0].path"), ("\"/a\"".into(), "standard input:3".into()));
        assert_eq!(told("route[11].path"), ("\"/11\"".into(), "UNDERPASS_ROUTE_11_PATH".into()));
        assert_eq!(told("listener[0].address").1, "UNDERPASS_LISTENER_0_ADDRESS");
        let paths: Vec<_> = loaded.config.routes.iter().map(|route| route.path.as_str()).collect();
        assert_eq!(paths, ["/a", "/", "/2", "/3", "/4", "/5", "/6", "/7", "/8", "/9", "/10", "/11"]);
        assert_eq!((loaded.config.listeners.len(), loaded.config.routes[0].upgrades.len()), (2, 2));

        let wrong = |variables: &[(&str, &str)]| load(variables).0.expect_err("it is wrong").to_string();
        let gap = wrong(&[("UNDERPASS_ROUTE_3_PATH", "/x")]);
        assert!(
            gap.contains("UNDERPASS_ROUTE_3_PATH: there is no [[route]] before it: they are counted from 0"),
            "{gap}"
        );
        assert!(gap.contains("there are 2\n") && gap.contains("the next one is UNDERPASS_ROUTE_2_PATH"), "{gap}");
        let half = wrong(&[("UNDERPASS_ROUTE_2_PATH", "/x")]);
        assert!(half.contains("UNDERPASS_ROUTE_2_PATH: a route without `upstream`"), "{half}");
        let value = wrong(&[("UNDERPASS_LISTENER_0_ADDRESS", "80")]);
        assert!(value.contains("UNDERPASS_LISTENER_0_ADDRESS: `listener.address` "), "{value}");
        let twice = wrong(&[("UNDERPASS_ROUTE_1_PATH", "/a")]);
        assert!(twice.contains("UNDERPASS_ROUTE_1_PATH: `route` has two entries"), "{twice}");

        let (_, sources) = load(&[("UNDERPASS_ROUTE_7_UPSTRAEM", "x"), ("UNDERPASS_ROUTE_N_PATH", "x")]);
        let strange = sources.strange().join("\n");
        assert!(
            strange
                .contains("UNDERPASS_ROUTE_7_UPSTRAEM: no key has this name; did you mean UNDERPASS_ROUTE_7_UPSTREAM?"),
            "{strange}"
        );
        assert!(strange.contains("UNDERPASS_ROUTE_N_PATH: no key has this name"), "{strange}");
    }

    #[test]
    fn variables_alone_are_a_whole_configuration() {
        let variables = [
            ("UNDERPASS_LISTENER_0_ADDRESS", "127.0.0.1:2"),
            ("UNDERPASS_ROUTE_0_UPSTREAM", "ws://a"),
            ("UNDERPASS_ROUTE_0_HOST", "a.example"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let sources = Sources::default().with_default("listen", "127.0.0.1:8080").with_environment(variables);
        assert!(sources.has_backend());
        let config = sources.load().expect("sound").config;
        assert_eq!((config.listeners.len(), config.routes[0].host.as_deref()), (1, Some("a.example")));
    }

    #[test]
    fn every_variable_is_one_key_alone() {
        let mut names: Vec<_> = Config::variables().into_iter().map(|(_, name)| name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert!(names.len() == all && all > 80, "{all}");
        assert!(parse::keys().iter().all(|(_, kind)| *kind != Kind::Table));
    }
}
