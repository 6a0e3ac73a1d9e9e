//! The demo as a newcomer meets it: the program is started, and the lines it prints are pasted into bash as they stand.

use tokio::process::Command;

use crate::programs::{Program, present};
use crate::running::Running;

#[tokio::test]
async fn the_lines_of_the_demo_can_be_pasted() {
    if !present(&[Program::Curl]) {
        return;
    }
    let mut demo =
        Running::start(Command::new(env!("CARGO_BIN_EXE_underpass")).args(["demo", "--listen", "127.0.0.1:0"]));
    demo.until("To paste").await;
    let mut lines = Vec::new();
    loop {
        let line = demo.expect().await;
        match line.trim() {
            "" if lines.is_empty() => {}
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    assert_eq!(lines.len(), 3, "{lines:#?}");

    let mut clock = bash(&lines[0]);
    clock.until("\"tick\"").await;
    let mut echo = bash(&lines[1..].join("\n"));
    let answer = |line: String| serde_json::from_str::<serde_json::Value>(&line).expect("JSON, on a line of its own");
    let sent = answer(echo.expect().await);
    assert_eq!(sent["next"], 2, "{sent}");
    let polled = answer(echo.expect().await);
    assert_eq!((&polled["from"], &polled["messages"]), (&0.into(), &serde_json::json!(["hello"])), "{polled}");
    let behind = answer(echo.expect().await);
    assert_eq!((&behind["from"], &behind["messages"]), (&1.into(), &serde_json::json!([])), "{behind}");
    echo.ended().await;
}

#[tokio::test]
async fn where_the_usual_port_is_taken_another_one_is() {
    // Another demo may hold port 8080: then it takes a free one, and says which.
    let mut demo = Running::start(Command::new(env!("CARGO_BIN_EXE_underpass")).arg("demo"));
    let sidecar = demo.until("  sidecar ").await;
    assert!(sidecar.contains("http://127.0.0.1:"), "{sidecar}");
}

fn bash(lines: &str) -> Running {
    Running::start(Command::new("bash").args(["-c", lines]))
}
