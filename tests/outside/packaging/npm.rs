//! The browser client as an npm package: what is packed is what the sidecar serves, its types hold for those who import it,
//! and it works, and ends, where there is no browser.

use std::fs;

use serde_json::Value;
use tokio::process::Command;

use super::{root, succeed};
use crate::programs::{Program, present};
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, Site};

/// A page's script as its author's compiler sees it.
const PAGE: &str = r#"
import Underpass, { install, options, WebSocket, type TransportChange } from "underpass-client";
import "underpass-client/client.js";
options.base = "https://chat.example/_underpass/";
options.transports = ["sse", "poll"];
const socket: globalThis.WebSocket = new WebSocket("/chat", ["chat"]);
new Underpass("/chat").addEventListener("underpass", ({ detail }) => {
    const change: TransportChange = detail;
    console.log(change.transport, change.cause);
});
install();
socket.send("hello");
// @ts-expect-error
options.transports = ["pigeon"];
"#;

/// Says hello, over nothing but `fetch`; then nothing keeps the process.
const PROGRAM: &str = r#"
import { options, WebSocket } from "underpass-client";
globalThis.CloseEvent ??= class extends Event {
  constructor(type, init) { super(type); Object.assign(this, init); }
};
options.base = `http://${process.argv[2]}/_underpass/`;
options.transports = ["stream"];
const socket = new WebSocket(`ws://${process.argv[2]}/`);
socket.onopen = () => socket.send("hello");
socket.onmessage = ({ data }) => { console.log(data); socket.close(1000, "bye"); };
socket.onclose = ({ code, reason }) => {
  console.log(code, reason);
  setTimeout(() => { console.log("kept by", process.getActiveResourcesInfo()); process.exit(1); }, 20_000).unref();
};
"#;

#[tokio::test]
async fn the_npm_package_is_what_the_sidecar_serves() {
    if !present(&[Program::ClientTools]) {
        return;
    }
    let scratch = Scratch::new("npm");
    let folder = root().join("packaging/npm");
    let mut pack = Command::new("npm");
    pack.args(["pack", "--json", "--pack-destination"]).arg(scratch.path("")).arg(&folder);
    let said = succeed(&mut pack).await;
    // What the package's own script prints may come first.
    let said: Value = serde_json::from_str(&said[said.find("[\n").expect("a list")..]).expect("npm writes JSON");
    let packed: Vec<_> = said[0]["files"].as_array().expect("files").iter().map(|file| &file["path"]).collect();
    let expected =
        ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "client.d.ts", "client.js", "client.mjs", "package.json"];
    assert_eq!(packed, expected);

    let modules = scratch.path("node_modules");
    fs::create_dir(&modules).expect("a folder");
    let tarball = scratch.path(said[0]["filename"].as_str().expect("a name"));
    succeed(Command::new("tar").arg("-xzf").arg(tarball).arg("-C").arg(&modules)).await;
    fs::rename(modules.join("package"), modules.join("underpass-client")).expect("npm's packages hold a `package`");
    let of = |name: &str| fs::read_to_string(modules.join("underpass-client").join(name)).expect("packed");

    let manifest: Value = serde_json::from_str(&of("package.json")).expect("JSON");
    assert_eq!(manifest["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(manifest["license"], env!("CARGO_PKG_LICENSE"));

    let site = Site::start(Backend::echo().await, "");
    let served = async |name: &str| site.get(&format!("/_underpass/{name}")).await.text();
    assert_eq!(of("client.js"), served("client.js").await);
    assert_eq!(of("client.d.ts"), served("client.d.ts").await);
    // The first line says where the sidecar is: for a module that it serves itself, where that came from.
    let body = |text: String| text.split_once('\n').expect("lines").1.to_owned();
    assert_eq!(body(of("client.mjs")), body(served("client.mjs").await));

    let tsc = root().join("tests/outside/client/tools/node_modules/.bin/tsc");
    let strict = ["--noEmit", "--strict", "--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom"];
    succeed(Command::new(tsc).args(strict).arg(scratch.file("page.mts", PAGE))).await;

    let program = scratch.file("program.mjs", PROGRAM);
    let said = succeed(Command::new("timeout").args(["60", "node"]).arg(program).arg(site.at.to_string())).await;
    assert_eq!(said, "hello\n1000 bye\n");
}
