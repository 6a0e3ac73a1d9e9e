//! What an operator watches, judged by Prometheus' own tool: the metrics, the alert rules, and when they fire. Enters: a
//! running sidecar, `dashboards/`. Leaves: promtool's verdicts. Must not touch: a network beyond this machine.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::programs::{Program, command, present};
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, Site};

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
    if !present(&[Program::Promtool]) {
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
    if !present(&[Program::Promtool]) {
        return;
    }
    succeed(&Command::new("promtool").args(["check", "rules"]).arg(rules()).output().expect("it runs"));
    let scratch = Scratch::new("rules");
    let cases = scratch.file("cases.yml", &CASES.replace("RULES", &rules()));
    succeed(&Command::new("promtool").args(["test", "rules"]).arg(cases).output().expect("it runs"));
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
