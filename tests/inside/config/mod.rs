//! The configuration from outside: files that are right, files that are not, the example, and any bytes at all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use underpass::config::{
    Address, ClientAuth, Config, ConfigErrors, Endpoint, Handover, Listener, ListenerTls, LogFormat, Origins, Script,
    Session, TlsFiles, Trusted, UpstreamTls,
};

const EXAMPLE: &str = include_str!("../../../config.example.toml");

/// The files of one folder of fixtures; fails if there are fewer than `least`.
fn fixtures(folder: &str, least: usize) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inside/config").join(folder);
    let mut files: Vec<_> =
        fs::read_dir(&folder).expect("a readable file").map(|entry| entry.expect("a readable file").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(files.len() >= least, "only {} fixtures in {}", files.len(), folder.display());
    files
}

fn valid(name: &str) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inside/config/valid").join(name);
    Config::load(path).unwrap_or_else(|errors| panic!("{errors}"))
}

/// As the `# expect:` lines of the fixtures write it: `3:1 unknown key`, or `- nothing says` without a location.
fn shown(errors: &ConfigErrors) -> Vec<String> {
    let location = |at: &underpass::config::Location| format!("{}:{}", at.line, at.column);
    let line = |error: &underpass::config::ConfigError| {
        format!("{} {}", error.location.as_ref().map_or("-".into(), location), error.what)
    };
    errors.iter().map(line).collect()
}

#[test]
fn each_invalid_file_reports_all_its_errors_and_no_others() {
    let wrong: Vec<_> = fixtures("invalid", 27).iter().filter_map(|file| judge(file)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// What is shown beyond what the file expects, and what is expected but not shown.
fn judge(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).expect("a readable file");
    let mut expected: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# expect: ")).collect();
    let Err(errors) = Config::load(file) else { return Some(format!("{}: no error", file.display())) };
    assert!(!expected.is_empty(), "{} expects nothing", file.display());
    assert_eq!(errors.iter().count(), errors.count(), "{}", file.display());
    let mut shown = shown(&errors);
    shown.retain(|shown| {
        let at = expected.iter().position(|expected| shown.starts_with(expected));
        at.map(|at| expected.remove(at)).is_none()
    });
    let same = shown.is_empty() && expected.is_empty();
    (!same).then(|| format!("{}\nnot expected: {shown:#?}\nnot shown: {expected:#?}\n{errors}", file.display()))
}

#[test]
fn each_valid_file_is_read() {
    for file in fixtures("valid", 5) {
        Config::load(&file).unwrap_or_else(|errors| panic!("{errors}"));
    }
}

#[test]
fn two_lines_or_two_flags_are_enough() {
    let config = valid("two-lines.toml");
    assert_eq!(config, Config::from_flags("127.0.0.1:8080", "ws://127.0.0.1:9000").expect("sound flags"));
    let address = Address::Tcp("127.0.0.1:8080".parse().expect("a sound address"));
    assert_eq!(config.listeners, [Listener { address, tls: None, proxy_protocol: false }]);
    assert_eq!(config.routes[0].upstream.endpoint, Endpoint::Tcp { host: "127.0.0.1".into(), port: 9000 });
    assert_eq!((config.routes[0].host.as_deref(), config.routes[0].path.as_str()), (None, "/"));
    assert_eq!(config.session, Session::default());
}

#[test]
fn errors_of_both_flags_are_reported_together() {
    let errors = Config::from_flags(":8080", "127.0.0.1:9000").expect_err("two errors");
    assert_eq!(
        errors.to_string(),
        "command line: `--listen :8080` needs an address before the port\n    \
         for all interfaces write \"0.0.0.0:8080\" or \"[::]:8080\"\n\
         command line: `--upstream 127.0.0.1:9000` needs a scheme\n    \
         write for example \"ws://127.0.0.1:9000\", \"wss://chat.internal\" or \"unix:/run/chat.sock\"\n\
         2 errors in command line; configuration not applied"
    );
}

#[test]
fn listeners_have_addresses_and_tls() {
    let config = valid("tls-listener.toml");
    let files = |name: &str| TlsFiles { certificate: format!("{name}.pem").into(), key: format!("{name}.key").into() };
    let clients = Some(ClientAuth { ca: "clients.pem".into(), required: false });
    let tls = ListenerTls { certificates: vec![files("relative/site"), files("other")], clients };
    let tcp = |text: &str| Address::Tcp(text.parse().expect("a sound address"));
    let expected = [
        Listener { address: tcp("[::]:443"), tls: Some(tls), proxy_protocol: false },
        Listener { address: tcp("127.0.0.1:80"), tls: None, proxy_protocol: true },
    ];
    assert_eq!(config.listeners, expected);
    assert_eq!(config.admin, Some(Address::Unix("/run/underpass/admin.sock".into())));
    let systemd = valid("systemd.toml");
    let names: Vec<_> = systemd.listeners.iter().map(|listener| listener.address.clone()).collect();
    assert_eq!(names, [Address::Activated("web".into()), Address::Activated("tls".into())]);
    assert_eq!(systemd.admin, Some(Address::Activated("admin".into())));
    let unix = valid("unix-upstream.toml");
    assert_eq!(unix.routes[0].upstream.endpoint, Endpoint::Unix("/run/chat.sock".into()));
    assert_eq!(unix.trusted, Trusted { networks: vec![], unix: true });
}

#[test]
fn routes_have_hosts_paths_and_tls() {
    let config = valid("routes.toml");
    let [fallback, chat, rooms] = config.routes.as_slice() else { panic!("{:?}", config.routes) };
    assert_eq!(fallback.upstream.endpoint, Endpoint::Tcp { host: "fallback".into(), port: 80 });
    assert_eq!(fallback.upstream.tls, None);
    assert_eq!((chat.host.as_deref(), chat.path.as_str()), (Some("chat.example.com"), "/"));
    assert_eq!(chat.upstream.endpoint, Endpoint::Tcp { host: "chat.internal".into(), port: 443 });
    assert_eq!(chat.upstream.tls, Some(UpstreamTls { ca: Some("ca.pem".into()), client: None }));
    let script = Script { pages: true, workers: true, raw: true };
    assert_eq!(
        config.routes.iter().map(|route| route.script).collect::<Vec<_>>(),
        [Script::default(), script, Script::default()]
    );
    assert_eq!(rooms.path, "/rooms");
    assert_eq!(rooms.upstream.endpoint, Endpoint::Tcp { host: "::1".into(), port: 9443 });
    let client = TlsFiles { certificate: "client.pem".into(), key: "client.key".into() };
    assert_eq!(rooms.upstream.tls, Some(UpstreamTls { ca: None, client: Some(client) }));
    let allowed = ["https://app.example", "http://[::1]:8000", "capacitor://localhost"].map(String::from).to_vec();
    assert_eq!(config.origins, Origins { allowed, credentials: false, require: false, trust_unnamed: false });
    let networks =
        ["10.0.0.0/8", "192.0.2.7/32", "fd00::/8"].map(|network| network.parse().expect("a sound address")).to_vec();
    assert_eq!(config.trusted, Trusted { networks, unix: false });
}

#[test]
fn a_name_may_have_its_final_dot() {
    let text = "listen = \"127.0.0.1:0\"\nallowed_origins = [\"https://app.example.\"]\n\
                upstream = \"wss://Chat.svc.cluster.local.:9000\"\n\
                [[route]]\nhost = \"Chat.example.\"\nupstream = \"ws://a\"\n";
    let config = Config::parse(text, "f").unwrap_or_else(|errors| panic!("{errors}"));
    // Dialled as it is: without the dot the resolver would search for it.
    let host = "chat.svc.cluster.local.".to_owned();
    let endpoint = Endpoint::Tcp { host, port: 9000 };
    let name = underpass::upstream::tls::server_name(&endpoint).expect("a name");
    assert_eq!(name.to_str(), "chat.svc.cluster.local");
    assert_eq!(config.routes[0].upstream.endpoint, endpoint);
    assert_eq!(config.routes[1].host.as_deref(), Some("chat.example"));
    assert_eq!(config.origins.allowed, ["https://app.example."]);
    for none in [".", "a..", ".a.", "127.0.0.1.", "[::1]."] {
        let text = format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://{none}\"\n");
        assert!(Config::parse(&text, "f").is_err(), "{none}");
    }
    let twice = format!("{text}[[route]]\nhost = \"chat.example\"\nupstream = \"ws://b\"\n");
    assert!(Config::parse(&twice, "f").is_err(), "both are one host");
}

#[test]
fn values_are_read_in_their_units() {
    let config = valid("values.toml");
    assert_eq!((config.node.as_str(), config.prefix.as_str()), ("Node7", "/a/b-c"));
    assert_eq!((config.origins.credentials, config.origins.require), (true, true));
    let expected = Session {
        max: 1000,
        message: 65_536,
        buffer: 2_000_000,
        probe: Duration::from_millis(250),
        recycle: Duration::ZERO,
        heartbeat: Duration::from_secs(20),
        grace: Duration::from_secs(90),
        wait: Duration::from_secs(45),
        wait_max: Duration::from_secs(45),
        ..Session::default()
    };
    assert_eq!(config.session, expected);
    assert_eq!((config.client.tunnel_idle, config.client.streams), (Duration::from_secs(7200), 7));
    assert_eq!((config.log.format, config.log.level.as_str()), (LogFormat::Json, "info,underpass::upstream=debug"));
    assert_eq!((config.drain.pre, config.drain.spread), (Duration::from_secs(1), Duration::from_secs(9)));
    let handover = Handover {
        restart: false,
        socket: Some("/run/underpass/handover.sock".into()),
        quiesce: Duration::ZERO,
        linger: Duration::from_secs(120),
    };
    assert_eq!(config.handover, handover);
}

#[test]
fn errors_are_reported_with_their_line() {
    let errors =
        Config::parse("listen = \"localhost:0\"\nsession.graze = \"60s\"\n", "config.toml").expect_err("errors");
    assert_eq!(
        errors.to_string(),
        "config.toml:2:9: unknown key `graze` in [session]\n  \
           2 | session.graze = \"60s\"\n    \
             |         ^^^^^ did you mean `grace`?\n\
         config.toml: nothing says where the backend is\n    \
             add for example: upstream = \"ws://127.0.0.1:9000\"\n\
         2 errors in config.toml; configuration not applied"
    );
}

#[test]
fn a_key_in_the_wrong_table_is_sent_home() {
    let errors =
        Config::parse("grace = 1\n[session]\nnode = \"a\"\nkey = \"b\"\n", "f").expect_err("errors").to_string();
    for home in ["it belongs to [session]", "it belongs above the first table", "it belongs to [[listener]]"] {
        assert!(errors.contains(home), "{errors}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let folder = env!("CARGO_MANIFEST_DIR");
    for path in [format!("{folder}/tests/no-such-file.toml"), folder.to_owned(), "/dev/zero".to_owned()] {
        let shown = Config::load(&path).expect_err("nothing that can be read").to_string();
        assert!(shown.starts_with(&format!("{path}: cannot be read: ")), "{shown}");
        assert!(shown.contains("config.example.toml") && shown.contains("underpass run"), "{shown}");
    }
}

#[test]
fn bytes_that_are_not_text_have_a_location() {
    let errors = Config::parse(b"node = \"a\"\nprefix = \"/\xff\"\n", "f").expect_err("errors");
    assert_eq!(shown(&errors), ["2:12 the file is not UTF-8 text"]);
}

#[test]
fn a_byte_order_mark_does_not_shift_places() {
    let errors =
        Config::parse("\u{feff}nod = 1\nlisten = \"127.0.0.1:0\"\nupstream = \"ws://a\"", "f").expect_err("a error");
    assert_eq!(shown(&errors), ["1:1 unknown key `nod` at the top level"]);
}

#[test]
fn a_long_file_of_nonsense_is_judged_in_time() {
    for line in ["x\n", "x=\n", "[[route]]\n", "a.b.c = 1\n\"\"", "k = [[[[\n"] {
        let text = line.repeat((1 << 18) / line.len());
        let started = Instant::now();
        assert!(Config::parse(&text, "f").is_err());
        assert!(started.elapsed() < Duration::from_secs(20), "{line:?} took {:?}", started.elapsed());
    }
}

/// The keys that the example names, those behind a `#` too, as `table.key`.
fn named_in_example() -> Vec<String> {
    let mut table = String::new();
    let mut named = Vec::new();
    for line in EXAMPLE.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            table = format!("{}.", name.trim_matches(['[', ']']));
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| is_key(key)) {
            named.push(format!("{}{key}", table.trim_start_matches('.')));
        }
    }
    named
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

#[test]
fn the_example_names_exactly_the_keys_there_are() {
    let named = named_in_example();
    let unique: BTreeSet<_> = named.iter().cloned().collect();
    assert_eq!(named.len(), unique.len(), "a key is named twice");
    assert_eq!(unique, Config::keys().into_iter().collect());
    assert!(unique.len() > 50 && unique.contains("session.grace") && unique.contains("route.client_key"));
}

#[test]
fn the_example_holds_exactly_the_defaults() {
    let example = Config::parse(EXAMPLE, "config.example.toml").unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(example, valid("two-lines.toml"));
    // Half of the grace would hide a larger `wait_max`.
    let patient =
        Config::parse(EXAMPLE.replace("\ngrace = \"60s\"", "\ngrace = \"1h\""), "patient").expect("a sound file");
    assert_eq!((patient.session.grace, patient.session.wait_max), (Duration::from_secs(3600), Duration::from_secs(30)));
}

#[test]
fn what_the_example_shows_behind_a_hash_is_right_as_well() {
    let shown = |line: &str| line.starts_with("[[") || line.split_once(" = ").is_some_and(|(key, _)| is_key(key));
    let bare = |line: &'static str| line.strip_prefix("# ").filter(|line| shown(line)).unwrap_or(line);
    let text = EXAMPLE.lines().map(bare).collect::<Vec<_>>().join("\n").replace("\"ws://", "\"wss://");
    let config = Config::parse(&text, "uncommented").unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    assert_eq!((config.listeners.len(), config.routes.len()), (2, 2));
    assert!(config.admin.is_some() && config.routes[0].upstream.tls != Some(UpstreamTls::default()));
}

/// Parses; if that fails, the errors must print, and each with a place inside the text.
fn survives(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Err(errors) = Config::parse(bytes, "f") {
        prop_assert!(errors.count() > 0);
        prop_assert!(errors.to_string().ends_with("configuration not applied"));
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
        prop_assert!(errors.iter().all(|error| error.location.as_ref().is_none_or(|location| location.line <= lines)));
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survives(&bytes)?;
    }

    #[test]
    fn any_text_of_the_alphabet_of_toml_is_survived(text in "[a-c\\[\\]{}=.,\"'#\n\r \t0-9é\u{feff}_:-]{0,120}") {
        survives(text.as_bytes())?;
    }

    #[test]
    fn any_value_of_any_key_is_survived(key in prop::sample::select(Config::keys()), value in any::<String>()) {
        let quoted = serde_json::to_string(&value).expect("a string is JSON");
        survives(format!("{key} = {quoted}").as_bytes())?;
        survives(format!("{key} = {value}").as_bytes())?;
        let (table, leaf) = key.split_once('.').unwrap_or(("listener", &key));
        survives(format!("{table} = [{{{leaf} = {quoted}}}]").as_bytes())?;
    }

    #[test]
    fn a_mutated_example_is_survived(
        at in 0..EXAMPLE.len(),
        drop in 0..40usize,
        put in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..6),
            "[\\[\\]{}=.,\"'#\n]{0,3}".prop_map(String::into_bytes),
        ],
    ) {
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        let end = (at + drop).min(bytes.len());
        bytes.splice(at..end, put);
        survives(&bytes)?;
    }
}
