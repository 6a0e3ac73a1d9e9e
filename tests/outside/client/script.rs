//! The browser client's script without a browser: its core in seeded random days, its types, its purity, and whether what is
//! served is what its modules make. `UNDERPASS_SEEDS` says how many days, `UNDERPASS_SEED` which one, with its last steps.
//! Enters: `src/client/script`. Leaves: a verdict; on failure what the tools said. Must not touch: a network.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::programs::{Program, present};
use crate::turn;

/// A file of more lines than this is two files.
const MOST_LINES: usize = 400;

/// What a file says before its code.
const HEADER: [&str; 3] = ["Enters:", "Leaves:", "Must not touch:"];

/// What the language itself has of time and chance. Everything else that a pure file may not use has no type in
/// `types/core/pure.d.ts`.
const IMPURE: [&str; 4] = ["Date", "Math.random", "import(", "globalThis"];

#[tokio::test]
async fn the_core_of_the_client_keeps_its_promises() {
    if !present(&[Program::Node]) {
        return;
    }
    let seed = env::var("UNDERPASS_SEED").map(|seed| vec!["--seed".to_owned(), seed]);
    let seeds = env::var("UNDERPASS_SEEDS").map(|seeds| vec![seeds]);
    node("tests/outside/client/simulation/main.mjs", &seed.or(seeds).unwrap_or_default()).await;
}

#[tokio::test]
async fn requests_of_the_client_say_what_a_websocket_would() {
    if present(&[Program::Node]) {
        node("tests/outside/client/requests.mjs", &[]).await;
    }
}

#[tokio::test]
async fn what_is_served_is_what_the_modules_make() {
    if present(&[Program::ClientTools]) {
        node("tests/outside/client/tools/build.mjs", &["--check".to_owned()]).await;
    }
}

#[tokio::test]
async fn the_types_hold_and_those_that_are_served_agree() {
    if !present(&[Program::ClientTools]) {
        return;
    }
    for project in ["tests/outside/client/types", "tests/outside/client/types/core"] {
        let tsc = root().join("tests/outside/client/tools/node_modules/.bin/tsc");
        succeed(Command::new(tsc).arg("--project").arg(project)).await;
    }
}

#[test]
fn each_file_says_what_it_is_and_is_short() {
    let files = sources();
    assert!(files.len() > 15, "only {} files: is this the right place?", files.len());
    for (name, text) in files {
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("// @ts-check"), "{name} is not checked");
        let header: String = lines.take_while(|line| line.starts_with("//")).collect();
        let missing = HEADER.iter().find(|part| !header.contains(*part));
        assert_eq!(missing, None, "{name}: its header lacks a part");
        assert!(text.lines().count() <= MOST_LINES, "{name} has over {MOST_LINES} lines");
    }
}

#[test]
fn the_core_of_the_client_is_pure() {
    for (name, text) in sources().into_iter().filter(|(name, _)| name.starts_with("core/")) {
        let code = text.lines().filter(|line| !line.trim_start().starts_with(['*', '/']));
        for line in code {
            let impure = IMPURE.iter().find(|word| line.contains(*word));
            assert_eq!(impure, None, "{name}: {line}");
        }
    }
}

/// All modules, by name.
fn sources() -> Vec<(String, String)> {
    let script = root().join("src/client/script");
    let mut found = Vec::new();
    for folder in [script.clone(), script.join("core")] {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("a readable folder").path();
            if path.extension().is_some_and(|extension| extension == "js") {
                let name = path.strip_prefix(&script).expect("walked from there").display().to_string();
                found.push((name, fs::read_to_string(&path).expect("text")));
            }
        }
    }
    found
}

async fn node(script: &str, arguments: &[String]) {
    succeed(Command::new("node").arg(script).args(arguments)).await;
}

async fn succeed(command: &mut Command) {
    // It needs all processors, and the browsers' cases measure how long things take.
    let _turn = turn::alone().await;
    let output = command.current_dir(root()).output().await.expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&said));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}
