//! A headless Chromium and one page in it, driven by its DevTools protocol. Must not touch: fixed ports, the user's
//! own profile.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

/// Nothing here takes this long, on a slow machine either.
const FOREVER: Duration = Duration::from_secs(60);

/// It must run where there is no display and no sandbox, and speak to nobody but the page's server.
const FLAGS: [&str; 11] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "about:blank",
];

/// A running browser; killed when dropped.
pub(crate) struct Chromium {
    child: Child,
    profile: PathBuf,
    pub(crate) page: Page,
}

/// One page.
pub(crate) struct Page {
    socket: WebSocketStream<TcpStream>,
    session: String,
    last: u64,
    /// What no script of the page caught.
    pub(crate) exceptions: Vec<String>,
}

impl Chromium {
    /// A browser with an empty page.
    pub(crate) async fn start() -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let profile = std::env::temp_dir().join(format!("underpass-chromium-{}-{number}", std::process::id()));
        let mut command = Command::new("chromium");
        command.arg(format!("--user-data-dir={}", profile.display())).args(FLAGS);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("Chromium is there");
        let endpoint = timeout(FOREVER, endpoint(&mut child)).await.expect("DevTools in time");
        let page = Page::attach(&endpoint).await;
        Self { child, profile, page }
    }

    /// Ends it and removes its profile.
    pub(crate) async fn stop(mut self, patience: Duration) {
        let _ = self.child.start_kill();
        let _ = timeout(patience, self.child.wait()).await;
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// Where its DevTools listen: it says so itself. What it says afterwards is thrown away.
async fn endpoint(child: &mut Child) -> String {
    let stderr = child.stderr.take().expect("stderr is piped");
    let mut lines = BufReader::new(stderr).lines();
    let mut heard = Vec::new();
    while let Some(line) = lines.next_line().await.expect("readable words") {
        if let Some(endpoint) = line.strip_prefix("DevTools listening on ") {
            let endpoint = endpoint.to_owned();
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return endpoint;
        }
        heard.push(line);
    }
    panic!("Chromium ended before it listened:\n{}", heard.join("\n"));
}

impl Page {
    async fn attach(endpoint: &str) -> Self {
        let address = endpoint.strip_prefix("ws://").and_then(|rest| rest.split('/').next()).expect("a ws:// address");
        let stream = TcpStream::connect(address).await.expect("it listens");
        let (socket, _) = client_async(endpoint, stream).await.expect("a WebSocket");
        let mut page = Self { socket, session: String::new(), last: 0, exceptions: Vec::new() };
        let target = page.command("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = page.command("Target.attachToTarget", attach).await;
        page.session = attached["sessionId"].as_str().expect("a session").to_owned();
        page.command("Runtime.enable", json!({})).await;
        page.command("Page.enable", json!({})).await;
        page
    }

    pub(crate) async fn open(&mut self, url: &str) {
        let opened = self.command("Page.navigate", json!({ "url": url })).await;
        assert!(opened["errorText"].is_null(), "{url}: {opened}");
        self.until(&format!("location.href === {} && document.readyState === 'complete'", json!(url))).await;
    }

    /// The value of an expression.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.command("Runtime.evaluate", asked).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}\n{answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until a condition holds.
    pub(crate) async fn until(&mut self, condition: &str) {
        let waiting = async {
            while self.evaluate(condition).await != json!(true) {
                // Each look is a round trip; a pause leaves the processor to the page.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let held = timeout(FOREVER, waiting).await;
        if held.is_err() {
            let seen = self.evaluate("document.body.innerText").await;
            panic!("waited in vain for {condition}\n{}", seen.as_str().unwrap_or_default());
        }
    }

    pub(crate) async fn resize(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": true});
        self.command("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// Has the page believe that its user prefers this: `light` or `dark`.
    pub(crate) async fn prefer(&mut self, scheme: &str) {
        let feature = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.command("Emulation.setEmulatedMedia", feature).await;
    }

    /// A picture of the whole page, as PNG.
    pub(crate) async fn picture(&mut self, file: &Path) {
        let taken = self.command("Page.captureScreenshot", json!({"captureBeyondViewport": true})).await;
        let png = STANDARD.decode(taken["data"].as_str().expect("a picture")).expect("base64");
        std::fs::write(file, png).expect("a writable folder");
    }

    async fn command(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut command = json!({"id": self.last, "method": method, "params": parameters});
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(command.to_string())).await.expect("it reads");
        timeout(FOREVER, self.answer(method)).await.expect("an answer in time")
    }

    async fn answer(&mut self, method: &str) -> Value {
        loop {
            let message = self.socket.next().await.expect("Chromium lives").expect("a message");
            let Message::Text(text) = message else { continue };
            let told: Value = serde_json::from_str(&text).expect("JSON");
            if told["method"] == "Runtime.exceptionThrown" {
                self.exceptions.push(told["params"]["exceptionDetails"].to_string());
            }
            if told["id"] == json!(self.last) {
                assert!(told["error"].is_null(), "{method}: {told}");
                return told["result"].clone();
            }
        }
    }
}
