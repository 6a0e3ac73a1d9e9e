//! Pages in a real browser. The demo's: four columns, one conversation, and nothing lost when a connection is cut. The
//! operator's is in `status`.
//!
//! Left out, aloud, where there is no Chromium, and fails for it under `tests/run`.

mod chromium;
mod status;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use underpass::app::App;
use underpass::config::{Address, Config};
use underpass::demo;
use underpass::lifecycle::sockets::Sockets;

use crate::programs::{Program, present};
use crate::turn;
use chromium::{Chromium, Page};

/// What the columns show of the conversation from the first line of this test's own on.
const SAID: &str = "[...document.querySelectorAll('.columns .log')].map(log => {
    const lines = [...log.querySelectorAll('li:not(.seam) .what')].map(line => line.textContent);
    return lines.slice(lines.findIndex(line => line.endsWith('first of all')));
})";

/// The demo as `underpass demo` puts it together.
async fn demo() -> SocketAddr {
    let backend = demo::start().await.expect("a free port");
    let config = Config::from_flags("127.0.0.1:0", &format!("ws://{backend}")).expect("two addresses");
    let app = App::start(config, Sockets::none()).expect("it starts");
    let Address::Tcp(at) = app.addresses[0] else { panic!("a TCP listener was asked for") };
    let (signals, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let _signals = signals;
        app.run(receiver, None).await
    });
    at
}

async fn say(page: &mut Page, via: &str, text: &str) {
    let text = json!(text);
    page.evaluate(&format!(
        "document.querySelector('[name=via][value={via}]').click(); \
         document.getElementById('text').value = {text}; document.getElementById('form').requestSubmit()"
    ))
    .await;
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect()
}

#[tokio::test]
async fn four_columns_show_one_conversation_and_a_cut_loses_nothing() {
    if !present(&[Program::Chromium]) {
        return;
    }
    let _turn = turn::shared().await;
    let mut chromium = Chromium::start().await;
    let page = &mut chromium.page;
    page.open(&format!("http://{}/", demo().await)).await;
    page.until("[...document.querySelectorAll('.columns .state')].every(state => state.textContent === 'live')").await;
    page.until("document.getElementById('bare-state').textContent === 'live'").await;
    for (via, text) in [("ws", "first of all"), ("sse", "by SSE"), ("stream", "by stream"), ("poll", "by poll")] {
        say(page, via, text).await;
        page.until(&format!("{SAID}.every(said => said.some(line => line.endsWith({})))", json!(text))).await;
    }

    page.evaluate(
        "document.querySelectorAll('.sse > button, .stream > button, .poll > button').forEach(b => b.click())",
    )
    .await;
    say(page, "ws", "said while they were cut").await;
    say(page, "sse", "said by one that was cut").await;
    page.until(&format!("{SAID}.every(said => said.some(line => line.endsWith('said by one that was cut')))")).await;
    page.until(
        "[...document.querySelectorAll('.seam')].filter(seam => seam.textContent.includes('at once')).length === 3",
    )
    .await;

    let said = page.evaluate(SAID).await;
    let said: Vec<_> = said.as_array().expect("a list").iter().map(texts).collect();
    assert_eq!(said.len(), 4);
    let spoken: Vec<_> = said[0].iter().map(|line| line.split_once(' ').map_or(*line, |(_, text)| text)).collect();
    let expected =
        ["first of all", "by SSE", "by stream", "by poll", "said while they were cut", "said by one that was cut"];
    assert_eq!(spoken, expected);
    assert!(said.iter().all(|column| *column == said[0]), "{said:#?}");

    let audits = page.evaluate("[...document.querySelectorAll('[data-of=audit]')].map(one => one.textContent)").await;
    assert_eq!(texts(&audits), ["lost 0 / doubled 0"; 4]);
    let seams = page.evaluate("[...document.querySelectorAll('.seam')].map(seam => seam.textContent)").await;
    let resumed = texts(&seams).into_iter().filter(|seam| seam.starts_with("resumed after ")).collect::<Vec<_>>();
    assert!(resumed.len() == 3 && resumed.iter().all(|seam| seam.ends_with(" 0 lost")), "{seams}");
    let bare =
        page.evaluate("['lost', 'doubled'].map(what => document.getElementById('bare-' + what).textContent)").await;
    assert_eq!(texts(&bare), ["0", "0"]);

    page.resize(360, 780).await;
    let wider = page.evaluate("document.documentElement.scrollWidth - innerWidth").await;
    assert!(wider.as_i64() <= Some(0), "on a phone the page is {wider} pixels too wide");
    assert_eq!(page.exceptions, Vec::<String>::new());
    chromium.stop(Duration::from_secs(10)).await;
}
