//! What an operator watches, judged by Prometheus itself and by Grafana's own types: the metrics, the alert rules and when they
//! fire, the dashboard. There is no Grafana among Debian's packages, so none is run. Enters: a running sidecar, `dashboards/`.
//! Leaves: verdicts. Must not touch: a network beyond this machine.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::broker::free_port;
use crate::programs::{Program, command, present};
use crate::running::Running;
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, Site, soon};

const DASHBOARD: &str = include_str!("../../dashboards/underpass.json");
const OPERATIONS: &str = include_str!("../../docs/OPERATIONS.md");

/// Series, and which alerts they raise.
const CASES: &str = r#"
rule_files: [RULES]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - { series: 'underpass_sessions_active{job="u",instance="a",transport="sse"}', values: '850x60' }
      - { series: 'underpass_sessions_limit{job="u",instance="a"}', values: '1000x60' }
      - { series: 'underpass_sessions_active{job="u",instance="b",transport="sse"}', values: '700x60' }
      - { series: 'underpass_sessions_limit{job="u",instance="b"}', values: '1000x60' }
      - { series: 'underpass_session_transports_total{job="u",instance="a",transport="poll",cause="held"}', values: '0+5x120' }
      - { series: 'underpass_session_transports_total{job="u",instance="a",transport="ws",cause="opened"}', values: '0+5x120' }
      - { series: 'underpass_dials_waiting{job="u",instance="a",route="/chat"}', values: '3x60' }
      - { series: 'underpass_dials_waiting{job="u",instance="a",route="/"}', values: '0x60' }
      - { series: 'underpass_config_last_reload_successful{job="u",instance="a"}', values: '0x60' }
    alert_rule_test:
      - { eval_time: 20m, alertname: UnderpassNearlyFull, exp_alerts: [{ exp_labels: { severity: warning, instance: a },
          exp_annotations: { summary: "a: more than four fifths of a limit are used",
          description: "Sessions, connections, memory (from 80 % of the budget on clients wait), descriptors, or addresses known." } }] }
      - { eval_time: 20m, alertname: UnderpassDialsWait, exp_alerts: [{ exp_labels: { severity: warning, instance: a, route: "/chat" },
          exp_annotations: { summary: "a: connections to the backend of /chat wait to be opened",
          description: "It is slow to accept, or `backend.dials` is too low for it." } }] }
      - { eval_time: 100m, alertname: UnderpassStreamsHeldBack, exp_alerts: [{ exp_labels: { severity: warning, instance: a },
          exp_annotations: { summary: "a: a fifth of all new sessions has to poll",
          description: "Some network, or something in front of underpass, holds streams back. The log has the causes." } }] }
      - { eval_time: 20m, alertname: UnderpassReloadFailed, exp_alerts: [{ exp_labels: { severity: warning, instance: a, job: u },
          exp_annotations: { summary: "a: the last reload was refused",
          description: "The old configuration, or an old certificate, stays in force; at the next restart it may not start." } }] }
      - { eval_time: 20m, alertname: UnderpassInternalErrors, exp_alerts: [] }
"#;

/// The dashboard as TypeScript, which says where it is not one. `Loose` takes the words of an enum for its values.
const TYPES: &str = r#"
import type { Dashboard, FieldConfig, Panel } from "@grafana/schema";
import type { Options as StatOptions } from "@grafana/schema/stat";
import type { FieldConfig as SeriesStyle, Options as SeriesOptions } from "@grafana/schema/timeseries";

type Loose<T> = T extends string ? `${T}` : T extends (infer I)[] ? Loose<I>[]
  : T extends object ? { [K in keyof T]?: Loose<T[K]> } : T;
type Source = { type: "prometheus"; uid: "${datasource}" };
type Target = { refId: string; expr: string; legendFormat: string; datasource: Source };
type Kind<Name, Options, Style> = Omit<Panel, "type" | "options" | "fieldConfig" | "targets" | "datasource"> & {
  type: Name;
  datasource: Source;
  targets: Target[];
  options: Loose<Options>;
  fieldConfig: { defaults: Omit<FieldConfig, "custom"> & { custom?: Loose<Style> }; overrides: [] };
};
type Ours = Omit<Dashboard, "panels"> & {
  panels: (Kind<"timeseries", SeriesOptions, SeriesStyle> | Kind<"stat", StatOptions, object>)[];
};
export const dashboard: Ours = "#;

fn rules() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards/alerts.yml").display().to_string()
}

fn succeed(output: &Output) {
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    // It warns with success of what it dislikes of names and helps.
    assert!(!String::from_utf8_lossy(&output.stderr).contains("underpass_"), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test]
async fn promtool_has_nothing_to_say_of_the_metrics() {
    if !present(&[Program::Prometheus]) {
        return;
    }
    let site = Site::start(Backend::echo().await, "admin = \"127.0.0.1:0\"\n");
    site.open("/").await;
    let text = site.ask_admin("/metrics").await;
    assert_eq!(text.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let scratch = Scratch::new("metrics");
    let file = std::fs::File::open(scratch.file("metrics.txt", &text.text())).expect("it was written");
    let output = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::from(file)).output();
    succeed(&output.expect("it runs"));
}

#[test]
fn the_alert_rules_are_rules_and_fire_when_they_should() {
    if !present(&[Program::Prometheus]) {
        return;
    }
    succeed(&Command::new("promtool").args(["check", "rules"]).arg(rules()).output().expect("it runs"));
    let scratch = Scratch::new("rules");
    let cases = scratch.file("cases.yml", &CASES.replace("RULES", &rules()));
    succeed(&Command::new("promtool").args(["test", "rules"]).arg(cases).output().expect("it runs"));
}

/// A Prometheus that scrapes an admin listener and has our rules.
struct Prometheus {
    site: Site,
    log: Running,
    _scratch: Scratch,
}

impl Prometheus {
    /// On a port that was free a moment ago; on another where that was too long ago.
    async fn start(admin: SocketAddr) -> Self {
        for _ in 0..5 {
            if let Some(prometheus) = Self::try_start(admin).await {
                return prometheus;
            }
        }
        panic!("prometheus does not start: is something wrong with its configuration?");
    }

    async fn try_start(admin: SocketAddr) -> Option<Self> {
        let (scratch, at) = (Scratch::new("prometheus"), free_port().await);
        let text = format!(
            "global: {{ scrape_interval: 200ms, evaluation_interval: 200ms, scrape_timeout: 200ms }}\nrule_files: ['{}']\n\
             scrape_configs: [{{ job_name: u, static_configs: [{{ targets: ['{admin}'] }}] }}]\n",
            rules()
        );
        let file = scratch.file("prometheus.yml", &text);
        let flags = [
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", file.with_file_name("data").display()),
            format!("--web.listen-address={at}"),
        ];
        // Its log on standard error is no line of `Running`.
        let mut shell = tokio::process::Command::new("sh");
        let mut log = Running::start(shell.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg("prometheus").args(flags));
        while let Some(line) = log.line().await {
            if line.contains("Server is ready to receive web requests") {
                return Some(Self { site: Site::elsewhere(at, None), log, _scratch: scratch });
            }
        }
        None
    }

    /// What it finds.
    async fn query(&self, query: &str) -> Vec<Value> {
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("query", query).finish();
        let reply = self.site.get(&format!("/api/v1/query?{query}")).await;
        assert_eq!(reply.json()["status"], "success", "{query}: {}", reply.text());
        reply.json()["data"]["result"].as_array().expect("a vector").clone()
    }
}

/// What a dashboard asks, with Grafana's variables replaced.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let text = |target: &Value| target["expr"].as_str().expect("a query").to_owned();
    targets.map(text).map(|query| query.replace("$instance", ".*").replace("$__rate_interval", "10s")).collect()
}

#[tokio::test]
async fn each_query_of_the_dashboard_finds_something_and_each_rule_is_evaluated() {
    if !present(&[Program::Prometheus]) {
        return;
    }
    let site = Site::start(Backend::echo().await, "admin = \"127.0.0.1:0\"\n");
    let opened = site.open("/").await;
    let mut prometheus = Prometheus::start(site.admin.expect("an admin listener")).await;
    let scraped = async {
        while prometheus.query("count_over_time(underpass_build_info[10s]) >= 3").await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon("three scrapes", scraped).await;
    // What shows only what happened finds nothing before it has; there is no certificate here.
    site.get(&format!("{}/poll?wait=0.01&cause=ws%20refused", opened.url)).await;
    let (queries, mut empty) = (queries(&serde_json::from_str(DASHBOARD).expect("JSON")), Vec::new());
    assert!(queries.len() > 40, "{}", queries.len());
    for query in queries {
        let found = prometheus.query(&query).await;
        let may_be_empty = query.ends_with("> 0") || query.contains("certificate_expiry");
        if found.is_empty() && !may_be_empty {
            empty.push(query);
        }
    }
    assert_eq!(empty, [""; 0], "nothing is found");
    let evaluated = async {
        loop {
            let rules = prometheus.site.get("/api/v1/rules").await.json();
            let rules = rules["data"]["groups"][0]["rules"].as_array().expect("rules").clone();
            if rules.iter().all(|rule| rule["health"] != "unknown") {
                return rules;
            }
            tokio::task::yield_now().await;
        }
    };
    let rules = soon("all rules", evaluated).await;
    let wrong: Vec<_> = rules.iter().filter(|rule| rule["health"] != "ok").collect();
    assert!(rules.len() > 8 && wrong.is_empty(), "{wrong:#?}");
    prometheus.log.terminate().await;
}

#[test]
fn the_dashboard_is_one_by_grafanas_own_types() {
    if !present(&[Program::ClientTools]) {
        return;
    }
    let said = type_check(DASHBOARD);
    assert_eq!(said, "");
    // It can fail: a word that is none, a name that is none.
    for (word, wrong) in
        [("\"displayMode\": \"list\"", "\"displayMode\": \"lust\""), ("\"fillOpacity\"", "\"fullOpacity\"")]
    {
        assert!(type_check(&DASHBOARD.replacen(word, wrong, 1)).contains("error TS"), "{wrong}");
    }
}

/// What the compiler says of it.
fn type_check(dashboard: &str) -> String {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside/client/tools/node_modules");
    let types = tools.join("@grafana/schema/dist/types").display().to_string();
    let panel = |name: &str| format!("{types}/raw/composable/{name}/panelcfg/x/types.gen.d.ts");
    let paths = json!({
        "@grafana/schema": [format!("{types}/index.d.ts")],
        "@grafana/schema/stat": [panel("stat")],
        "@grafana/schema/timeseries": [panel("timeseries")],
    });
    let options = json!({ "noEmit": true, "strict": true, "skipLibCheck": true, "module": "nodenext", "types": [], "paths": paths });
    let scratch = Scratch::new("dashboard");
    scratch.file("dashboard.ts", &format!("{TYPES}{dashboard};\n"));
    let project =
        scratch.file("tsconfig.json", &json!({ "compilerOptions": options, "files": ["dashboard.ts"] }).to_string());
    let output = Command::new(tools.join(".bin/tsc")).arg("--project").arg(project).output().expect("it runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn panels_do_not_lie_on_each_other_and_are_told_apart() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut cells = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let place = ["x", "y", "w", "h"].map(|name| panel["gridPos"][name].as_u64().expect("a number"));
        let [x, y, width, height] = place;
        let title = &panel["title"];
        assert!(x + width <= 24, "{title} is too far right");
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{title} lies on another");
        }
        assert!(ids.insert(panel["id"].as_u64()), "{title} has the id of another");
        let targets = panel["targets"].as_array().expect("targets");
        let names: BTreeSet<_> = targets.iter().map(|target| target["refId"].as_str()).collect();
        assert_eq!(names.len(), targets.len(), "{title}");
    }
    assert!(ids.len() > 20);
}

/// Nobody can watch a front that writes no log, which haproxy warns of.
#[test]
fn the_snippets_for_haproxy_are_taken_without_a_warning() {
    if !present(&[Program::Boxes]) {
        return;
    }
    let blocks = OPERATIONS.split("```haproxy\n").skip(1).filter_map(|block| block.split_once("```"));
    let text: Vec<_> = blocks.map(|(block, _)| block).collect();
    let [whole, nodes] = text[..] else { panic!("two snippets, the second of rules for a frontend: {text:?}") };
    let text = whole.replace(" ssl crt /etc/haproxy/site.pem alpn h2,http/1.1", "");
    assert_ne!(text, whole, "the certificate, which is not there");
    let two = "\nbackend n1\n    server a 127.0.0.1:1\nbackend n2\n    server a 127.0.0.1:2\n";
    let rules = format!("{nodes}    default_backend underpass\n");
    let text = text.replace("    default_backend underpass\n", &rules) + two;
    let scratch = Scratch::new("haproxy");
    let file = scratch.file("haproxy.cfg", &text);
    let haproxy = command("haproxy").expect("it is present");
    let output = Command::new(haproxy).args(["-c", "-f"]).arg(file).output().expect("it runs");
    let said = String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
    assert!(output.status.success() && !said.contains("[WARNING]"), "{said}");
}
