//! The operator's status page in Chromium: it is live by its own event stream, can be read in light and dark, and fits a phone
//! and a screen on the wall. Enters: a running sidecar with sessions. Leaves: verdicts, and pictures in `target/status-page`.
//! Must not touch: a network beyond this machine.

use std::path::PathBuf;
use std::time::Duration;

use http::Method;

use super::chromium::{Chromium, Page};
use crate::programs::{Program, present, target};
use crate::support::site::{Backend, Site};
use crate::turn;

/// Texts that are hard to read: contrast below what WCAG 2.1 asks for (1.4.3), 4.5, or 3 for large ones.
const PALE: &str = "(() => {
    const parts = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(part => part / 255)
        .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const colour = parts(getComputedStyle(at).backgroundColor);
            if (colour[3] !== 0) return colour;
        }
        return [255, 255, 255];
    };
    const own = element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    return [...document.body.querySelectorAll('*')].filter(one => own(one) && one.checkVisibility()).flatMap(one => {
        const style = getComputedStyle(one);
        const [a, b] = [light(parts(style.color)), light(behind(one))].sort((x, y) => y - x);
        const enough = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
        const contrast = (a + 0.05) / (b + 0.05);
        return contrast < enough ? [`${one.textContent.trim()}: ${contrast.toFixed(2)}`] : [];
    });
})()";

async fn row(page: &mut Page, table: &str, text: &str) {
    page.until(&format!("document.getElementById('{table}').innerText.includes('{text}')")).await;
}

#[tokio::test]
async fn the_status_page_is_live_and_can_be_read_anywhere() {
    if !present(&[Program::Chromium]) {
        return;
    }
    let _turn = turn::shared().await;
    let mut backend = Backend::start().await;
    let more = format!("admin = \"127.0.0.1:0\"\n[[route]]\npath = \"/chat\"\nupstream = \"ws://{}\"\n", backend.at);
    let site = Site::start(backend.at, &more);
    let mut chromium = Chromium::start().await;
    let page = &mut chromium.page;
    page.resize(1280, 900).await;
    page.open(&format!("http://{}/", site.admin.expect("an admin listener"))).await;
    page.until("document.getElementById('live').textContent === 'live'").await;
    page.until("document.getElementById('sessions').textContent === '0'").await;
    page.evaluate("window.first = true").await;

    let opened = site.open("/chat/room").await;
    let mut conversation = backend.accept().await;
    page.until("document.getElementById('sessions').textContent === '1'").await;
    row(page, "routes", "/chat").await;
    let mut stream = site.stream(&format!("{}/sse?cause=ws%20refused", opened.url), &[]).await;
    stream.told().await;
    conversation.send(&"x".repeat(5000)).await;
    row(page, "changes", "ws refused").await;
    row(page, "shares", "sse 1").await;
    row(page, "buffers", "KiB").await;
    row(page, "backends", "0 of 64").await;
    row(page, "configuration", "none").await;
    site.reload().await;
    row(page, "configuration", "applied").await;
    site.get("/_underpass/s/n1-unknown/poll").await;
    row(page, "refusals", "unknown_session").await;
    assert_eq!(site.tell_admin(Method::POST, "/sessions/kill?route=%2Fchat", &[]).await.json()["ended"], 1);
    row(page, "ended", "killed").await;
    let _others = [site.open("/chat").await, site.open("/").await];
    page.until("document.getElementById('sessions').textContent === '2'").await;
    assert_eq!(page.evaluate("window.first").await, true, "it was loaded anew");

    let pictures = target().join("status-page");
    std::fs::create_dir_all(&pictures).expect("a writable folder");
    let mut backgrounds = Vec::new();
    for scheme in ["light", "dark"] {
        page.prefer(scheme).await;
        backgrounds.push(page.evaluate("getComputedStyle(document.body).backgroundColor").await);
        let pale = page.evaluate(PALE).await;
        assert_eq!(pale.as_array().map(Vec::len), Some(0), "{scheme}: {pale}");
        for (name, width, height) in [("phone", 360, 780), ("desk", 1280, 900), ("wall", 1920, 1080)] {
            page.resize(width, height).await;
            let wider = page.evaluate("document.documentElement.scrollWidth - innerWidth").await;
            assert!(wider.as_i64() <= Some(0), "{name} {scheme}: {wider} pixels too wide");
            page.picture(&picture(&pictures, name, scheme)).await;
        }
    }
    assert_ne!(backgrounds[0], backgrounds[1], "light and dark");

    site.stop().await;
    page.until("document.getElementById('phase').className === 'bad'").await;
    assert_eq!(page.exceptions, Vec::<String>::new());
    chromium.stop(Duration::from_secs(10)).await;
}

fn picture(folder: &std::path::Path, name: &str, scheme: &str) -> PathBuf {
    folder.join(format!("{name}-{scheme}.png"))
}
