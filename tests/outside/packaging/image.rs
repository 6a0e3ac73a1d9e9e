//! The image and the compose file, as far as no registry is needed: `packaging/image/check` builds and runs the image's last
//! stage (.ci/run). Leaves: what hadolint and docker-compose say; whether what is copied is there, and whether underpass
//! takes the configuration that they give it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tokio::process::Command;

use super::{root, succeed};
use crate::programs::{Program, hadolint, present};
use crate::support::scratch::Scratch;

const CONFIGURATION: &str = "packaging/image/underpass.toml";

/// The instructions of the Dockerfile, each on one line, with their names apart.
fn instructions() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("Dockerfile")).expect("a Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parts = lines.filter_map(|line| line.split_once(' '));
    parts.map(|(name, rest)| (name.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" "))).collect()
}

#[tokio::test]
async fn hadolint_has_nothing_to_say_of_the_dockerfile() {
    if present(&[Program::Hadolint]) {
        succeed(Command::new(hadolint()).arg("Dockerfile")).await;
    }
}

#[tokio::test]
async fn what_the_image_is_built_of_is_there_and_is_all_that_cargo_asks_for() {
    let ignored = fs::read_to_string(root().join(".dockerignore")).expect("a .dockerignore");
    let let_in: Vec<_> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let context = Scratch::new("context");
    let mut copied = 0;
    for (name, rest) in instructions() {
        let words: Vec<_> = rest.split(' ').collect();
        let [sources @ .., target] = &words[..] else { continue };
        if name != "COPY" || rest.contains("--from=") {
            continue;
        }
        for source in sources {
            assert!(let_in.iter().any(|path| Path::new(source).starts_with(path)), "{source} is in .dockerignore");
            let to = context.path(target.trim_start_matches('/'));
            let to = if target.ends_with('/') { to.join(source) } else { to };
            fs::create_dir_all(to.parent().expect("below the context")).expect("a folder");
            succeed(Command::new("cp").arg("-r").arg(source).arg(to)).await;
            copied += 1;
        }
    }
    assert!(copied > 5, "only {copied} files: is the Dockerfile read?");
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--locked", "--offline", "--no-deps", "--format-version", "1", "--manifest-path"]);
    let said = succeed(metadata.arg(context.path("Cargo.toml"))).await;
    let said: Value = serde_json::from_str(&said).expect("cargo writes JSON");
    for target in said["packages"][0]["targets"].as_array().expect("targets") {
        let path = target["src_path"].as_str().expect("a path");
        assert!(target["kind"][0] == "test" || Path::new(path).exists(), "{path} is not copied");
    }
}

#[test]
fn the_image_runs_as_nobody_in_particular_and_says_how_it_is() {
    let instructions = instructions();
    let last = |name: &str| {
        instructions.iter().rfind(|(other, _)| other == name).unwrap_or_else(|| panic!("no {name}")).1.as_str()
    };
    assert_eq!(last("FROM"), "scratch");
    assert_eq!(last("USER"), "65532:65532");
    assert!(last("HEALTHCHECK").ends_with("CMD [\"/usr/bin/underpass\", \"status\"]"));
    assert_eq!(last("CMD"), "[\"run\", \"/etc/underpass/underpass.toml\"]");
}

#[tokio::test]
async fn the_compose_file_is_valid_and_what_it_configures_is_too() {
    if !present(&[Program::Compose]) {
        return;
    }
    let config = succeed(Command::new("docker-compose").args(["--file", "compose.yaml", "config"])).await;
    let scratch = Scratch::new("compose");
    // docker-compose itself is written in Python, and needs this module.
    let read = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let mut reader = Command::new("/usr/bin/python3");
    let json = succeed(reader.args(["-c", read]).arg(scratch.file("compose.yaml", &config))).await;
    let services = &serde_json::from_str::<Value>(&json).expect("JSON")["services"];
    let ours: BTreeMap<String, String> =
        serde_json::from_value(services["underpass"]["environment"].clone()).expect("names and texts");
    let upstream = ours["UNDERPASS_UPSTREAM"].strip_prefix("ws://").expect("a WebSocket server");
    let (host, port) = upstream.split_once(':').expect("a port");
    assert_eq!(services[host]["environment"]["PORT"], port, "nobody listens there");
    let mut check = Command::new(env!("CARGO_BIN_EXE_underpass"));
    let said = succeed(check.arg("check").arg(CONFIGURATION).envs(&ours)).await;
    // A variable that no key has is a warning.
    assert!(!said.contains("UNDERPASS_"), "{said}");
    // Nothing but a variable says where the backend is.
    let bare =
        Command::new(env!("CARGO_BIN_EXE_underpass")).arg("check").arg(root().join(CONFIGURATION)).output().await;
    assert_eq!(bare.expect("it runs").status.code(), Some(1));
}
