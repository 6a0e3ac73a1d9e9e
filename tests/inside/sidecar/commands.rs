//! The command line where nothing is served: checks, help, completions; and what comes by the environment and by flags.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::binary::{output, underpass};
use crate::support::site::{Backend, soon};

const SOUND: &str = "listen = \"127.0.0.1:0\"\nhosts = [\"localhost\"]\nupstream = \"ws://127.0.0.1:9000\"\n";

/// `check -` of a text, with these variables: exit code, standard output and standard error.
async fn check(text: &str, args: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = underpass();
    command.args([&["check", "-"], args].concat()).envs(variables.iter().copied());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(text.as_bytes()).await.expect("it reads");
    drop(input);
    let done = soon("the end of a check", child.wait_with_output()).await.expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (done.status.code().expect("an exit code"), text(done.stdout), text(done.stderr))
}

#[tokio::test]
async fn a_check_reads_standard_input_and_the_environment_and_warns_of_the_machine() {
    // Few enough for any machine that builds this.
    let few = format!("{SOUND}[client]\nconnections = 10\n");
    let (code, told, _) = check(&few, &["--strict"], &[]).await;
    assert!(code == 0 && told.starts_with("standard input is fine: 1 listener(s), 1 route(s)\n"), "{told}");

    let (code, _, error) = check(&few, &[], &[("UNDERPASS_SESSION_GRACE", "soon")]).await;
    assert!(code == 1 && error.contains("UNDERPASS_SESSION_GRACE: `session.grace` is not a duration"), "{error}");

    let many = [("UNDERPASS_CLIENT_CONNECTIONS", "1000000"), ("UNDERPASS_ADMIN", "0.0.0.0:0")];
    let (code, told, _) = check(&few, &[], &many).await;
    assert!(code == 0 && told.contains("warning: `admin`: 0.0.0.0:0 can be reached from every network"), "{told}");
    let (code, told, _) = check(&few, &["--strict", "--format", "json"], &many).await;
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((code, &told["ok"]), (2, &true.into()));
    assert!(told["warnings"].as_array().is_some_and(|warnings| !warnings.is_empty()), "{told}");
    let (code, told, _) = check("listen = 1", &["--format", "json"], &[]).await;
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((code, &told["ok"]), (1, &false.into()));
}

#[tokio::test]
async fn flags_and_variables_run_it_without_a_file() {
    let backend = Backend::start().await;
    let upstream = format!("ws://{}", backend.at);
    let mut command = underpass();
    command.args(["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--selftest"]);
    command
        .env("UNDERPASS_UPSTREAM", &upstream)
        .env("UNDERPASS_LOG_FORMAT", "json")
        .env("UNDERPASS_SESSION_GRACE", "30s");
    let mut running = crate::binary::Running::of(&mut command);
    let site = running.site_with_admin().await;
    assert_eq!(site.get("/_underpass/selftest").await.status.as_u16(), 200);
    let settings = site.ask_admin("/config").await.json();
    let origin = |key: &str| {
        let all = settings.as_array().expect("a list");
        let found = all.iter().find(|one| one["key"] == key).unwrap_or_else(|| panic!("no {key}"));
        (found["value"].as_str().expect("a text").to_owned(), found["origin"].as_str().expect("a text").to_owned())
    };
    assert_eq!(origin("session.grace"), ("\"30s\"".into(), "UNDERPASS_SESSION_GRACE".into()));
    assert_eq!(origin("selftest"), ("true".into(), "--selftest".into()));
    assert_eq!(origin("listen").1, "--listen");
    assert_eq!(origin("session.probe"), ("\"400ms\"".into(), "default".into()));
}

#[tokio::test]
async fn without_a_command_there_is_help_and_without_a_backend_advice() {
    let (code, _, help) = output(&[]).await;
    assert!(code == 2 && help.contains("Usage: underpass <COMMAND>") && help.contains("demo"), "{help}");
    let (code, _, error) = output(&["run", "--listen", "127.0.0.1:0"]).await;
    assert!(code == 2 && error.contains("underpass run --upstream ws://127.0.0.1:9000"), "{error}");
}

#[tokio::test]
async fn completions_and_manual_pages_come_from_the_same_definitions() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = output(&["completions", shell]).await;
        assert!(code == 0 && script.contains("log-level") && script.contains("kick"), "{shell}");
    }
    let folder = std::env::temp_dir().join(format!("underpass-man-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a writable folder");
    let (code, _, error) = output(&["man", folder.to_str().expect("UTF-8")]).await;
    assert_eq!((code, error.as_str()), (0, ""));
    let page = std::fs::read_to_string(folder.join("underpass-run.1")).expect("a page for each command");
    assert!(page.contains("inject"), "{page}");
    std::fs::remove_dir_all(&folder).expect("it is there");
}
