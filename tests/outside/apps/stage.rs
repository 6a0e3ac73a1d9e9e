//! Where an application is used: a network, a sidecar, and a browser with a user. Enters: what the sidecar stands
//! before. Leaves: what the user asks the test to do; panics when it did not go as it should. Must not touch:
//! applications.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::time::sleep;

use crate::networks::boxes::{self, Box_, Spec};
use crate::programs::{self, Program};
use crate::running::Running;
use crate::support::site::Site;

/// What every test here needs, beside its application.
pub(crate) const NEEDED: [Program; 3] = [Program::Boxes, Program::Chromium, Program::Node];

/// No wish of a user is this long in coming, on a slow machine either; the user waits shorter for each thing.
const PATIENCE: Duration = Duration::from_secs(240);

const TRANSPORTS: [&str; 4] = ["ws", "sse", "stream", "poll"];

/// Three products that refuse WebSockets. The first lets streams of events pass, the second reads them to their end and
/// lets others pass, the third reads all answers to their end.
pub(crate) fn networks() -> Vec<Spec> {
    let known = |name| *boxes::ALL.iter().find(|spec| spec.name == name).expect("there is such a box");
    // Applications look at `Host`, too.
    let nginx = boxes::reverse("nginx", "nginx", "sse", |place| {
        boxes::nginx(place, "", "proxy_http_version 1.1; proxy_set_header Host $http_host;")
    });
    let all = [nginx, known("privoxy, Debian's actions and filters"), known("lighttpd `mod_proxy`")];
    let part = std::env::var("UNDERPASS_NETWORK").unwrap_or_default();
    all.into_iter().filter(|spec| spec.transport.contains(&part)).collect()
}

/// An application in use.
pub(crate) struct Stage {
    application: String,
    spec: Spec,
    site: Site,
    box_: Box_,
    user: Running,
}

impl Stage {
    /// `routes` is TOML: what the sidecar stands before, and into which pages it writes the script.
    pub(crate) async fn start(spec: Spec, application: &str, routes: &str) -> Self {
        let site =
            Site::from_toml(&format!("listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nworkers = 1\n{routes}"));
        let box_ = Box_::start(&spec, |_| site.at).await;
        let (address, proxy) = match spec.forward {
            true => (site.at, format!("http://{}", box_.at())),
            false => (box_.at(), String::new()),
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside/apps/drive.mjs");
        let shots = pictures().join(format!("{application}-{}", spec.transport));
        let mut command = Command::new("node");
        command.arg(script).args([application, &format!("http://{address}"), &proxy]).arg(shots);
        let user = Running::converse(&mut command);
        Self { application: application.to_owned(), spec, site, box_, user }
    }

    /// What the user wants next that is not seen to here; `None` when the user is done, and all was as it should be.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            let line = self.user.line_within(PATIENCE).await;
            let line = line.unwrap_or_else(|| panic!("{}; {}", self.name(), self.user.said()));
            match line.as_str() {
                "cut" => self.cut().await,
                "settled" => self.settled().await,
                "done" => {
                    self.done().await;
                    return None;
                }
                failed if failed.starts_with("failed: ") => {
                    self.user.line_within(PATIENCE).await;
                    panic!("{}: {failed}; {}", self.name(), self.user.said());
                }
                _ => return Some(line),
            }
            self.answer("").await;
        }
    }

    pub(crate) async fn answer(&mut self, line: &str) {
        self.user.say(line).await;
    }

    /// Waits until so many sessions were ended by the page.
    pub(crate) async fn left(&self, count: f64) {
        self.site.counts("underpass_sessions_ended_total{reason=\"client_closed\"}", count).await;
    }

    fn name(&self) -> String {
        format!("{} by {}, behind {}", self.application, self.spec.transport, self.spec.name)
    }

    /// Kills the network with all connections through it, and starts it again. The sessions must outlive that.
    async fn cut(&mut self) {
        self.settled().await;
        let before = self.opened().await;
        self.box_.restart().await;
        self.settled().await;
        assert_eq!(self.opened().await, before, "{}: a session was opened instead of another", self.name());
    }

    async fn opened(&self) -> f64 {
        self.site.metric("underpass_sessions_opened_total").await
    }

    /// Waits until all sessions are carried by the transport that the network leaves. None may have ended so far.
    async fn settled(&self) {
        let begun = Instant::now();
        loop {
            let text = self.site.ask_admin("/metrics").await.text();
            let active =
                |transport: &&str| sum(&text, &format!("underpass_sessions_active{{transport=\"{transport}\"}}"));
            let others: f64 =
                TRANSPORTS.iter().chain(&["none"]).filter(|name| **name != self.spec.transport).map(active).sum();
            assert_eq!(sum(&text, "underpass_sessions_ended_total"), 0.0, "{}: a session ended", self.name());
            if others == 0.0 && active(&self.spec.transport) > 0.0 {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{}: not all are carried by it: {text}", self.name());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the sidecar has to say at the end.
    async fn done(&mut self) {
        let carried = |transport| format!("underpass_messages_total{{direction=\"down\",transport=\"{transport}\"}}");
        let counted = self.site.metric(&carried(self.spec.transport)).await;
        assert!(counted > 0.0, "{}: nothing was carried", self.name());
        assert_eq!(self.site.metric(&carried("ws")).await, 0.0, "{}: a WebSocket carried messages", self.name());
        assert_eq!(self.sum("underpass_tunnels_opened_total").await, 0.0, "{}: a WebSocket was open", self.name());
        println!("{}: {} sessions, {counted} messages down", self.name(), self.opened().await);
        self.answer("").await;
        self.user.ended().await;
    }

    async fn sum(&self, name: &str) -> f64 {
        sum(&self.site.ask_admin("/metrics").await.text(), name)
    }
}

/// The sum of the samples whose name with its labels begins so.
fn sum(metrics: &str, name: &str) -> f64 {
    let samples = metrics.lines().filter(|line| line.starts_with(name));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Where pictures go.
fn pictures() -> PathBuf {
    let pictures = programs::target().join("apps");
    std::fs::create_dir_all(&pictures).expect("a directory");
    pictures
}
