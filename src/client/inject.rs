//! Writes the script's tag into a page while the page is streamed.
//!
//! Enters: the bytes of an HTML body, in any pieces. Leaves: the same bytes, and the tag once, before the first element
//! that could run or show anything. Must not touch: the bytes of the page, whatever charset they are in; headers; other
//! rooms.
//!
//! A page need not have a `<head>`, so the place is in front of the first element that does more than describe the page.
//! Those that describe (`DESCRIBING`) are passed over, so that `<meta charset>` stays among the first bytes and a policy in a
//! `<meta>` is known before the decision. Not `<base>`: behind it, the tag's address would be resolved against another
//! host's, perhaps. A page that has the tag already has it there, since it must precede every other script.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut as _, BytesMut};
use lol_html::errors::RewritingError;
use lol_html::html_content::ContentType;
use lol_html::send::{DocumentContentHandlers, Element, ElementContentHandlers, HtmlRewriter, Settings};
use lol_html::{MemorySettings, Selector};

use super::policy::{Decision, Page};

/// How far into a body its first tag is looked for, behind comments and blanks.
const SNIFF: usize = 4 * 1024;
/// The most memory of the rewriter. A page with a larger tag is passed on unchanged from there.
const MEMORY: usize = 256 * 1024;
/// First tags of a document. A body that begins with another one is a fragment, which a script puts into a page.
const OPENINGS: &[&str] =
    &["!doctype", "html", "head", "title", "meta", "base", "link", "style", "script", "body", "frameset"];
/// Elements that neither run nor show anything.
const DESCRIBING: &[&str] = &["html", "head", "title", "meta", "link", "style"];

/// The result for a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The place was not reached yet.
    #[default]
    Undecided,
    /// The tag was written.
    Injected,
    /// The page had the tag already.
    AlreadyThere,
    /// The body does not begin like a document.
    Fragment,
    /// Its policies forbid what the script does; the text says what to change.
    Forbidden(String),
}

/// Writes the tag into one page.
pub struct Injector {
    stage: Stage,
    shared: Arc<Mutex<Shared>>,
}

enum Stage {
    /// The first tag is not complete yet.
    Sniffing(Vec<u8>, Page),
    /// The rewriter looks for the place.
    Looking(Box<HtmlRewriter<'static, Sink>>),
    /// The rest is passed on unchanged.
    Passing,
}

type Sink = Box<dyn FnMut(&[u8]) + Send>;

/// What the rewriter's handlers give back.
#[derive(Default)]
struct Shared {
    written: BytesMut,
    outcome: Outcome,
}

impl Injector {
    #[must_use]
    pub fn new(page: Page) -> Self {
        Self { stage: Stage::Sniffing(Vec::new(), page), shared: Arc::default() }
    }

    /// Takes a piece of the body, and appends to `out` what can be sent on.
    ///
    /// # Errors
    /// When the rewriter failed. What it had buffered is lost, so the body must not end as if it were complete.
    pub fn write(&mut self, piece: &[u8], out: &mut BytesMut) -> io::Result<()> {
        match &mut self.stage {
            Stage::Passing => out.put(piece),
            Stage::Looking(_) => self.look(piece, out)?,
            Stage::Sniffing(buffered, _) => {
                buffered.extend_from_slice(piece);
                match begins_document(&buffered[..buffered.len().min(SNIFF)]) {
                    None if buffered.len() < SNIFF => {}
                    begins => self.sniffed(begins == Some(true), out)?,
                }
            }
        }
        Ok(())
    }

    /// The body has ended: appends what was buffered.
    ///
    /// # Errors
    /// As [`Injector::write`].
    pub fn end(&mut self, out: &mut BytesMut) -> io::Result<()> {
        if let Stage::Sniffing(..) = self.stage {
            self.sniffed(false, out)?;
        }
        self.finish(out)
    }

    #[must_use]
    pub fn outcome(&self) -> Outcome {
        lock(&self.shared).outcome.clone()
    }

    fn sniffed(&mut self, is_document: bool, out: &mut BytesMut) -> io::Result<()> {
        let Stage::Sniffing(buffered, page) = std::mem::replace(&mut self.stage, Stage::Passing) else { return Ok(()) };
        if is_document {
            self.stage = Stage::Looking(Box::new(rewriter(page, &self.shared)));
            return self.look(&buffered, out);
        }
        lock(&self.shared).outcome = Outcome::Fragment;
        out.put(&buffered[..]);
        Ok(())
    }

    fn look(&mut self, piece: &[u8], out: &mut BytesMut) -> io::Result<()> {
        if let Stage::Looking(rewriter) = &mut self.stage {
            match rewriter.write(piece) {
                // It has written all that it had buffered, unchanged.
                Err(RewritingError::MemoryLimitExceeded(_)) => self.stage = Stage::Passing,
                written => written.map_err(io::Error::other)?,
            }
        }
        if self.outcome() != Outcome::Undecided {
            return self.finish(out);
        }
        out.unsplit(lock(&self.shared).written.split());
        Ok(())
    }

    /// Ends the rewriter, which writes what it had buffered.
    fn finish(&mut self, out: &mut BytesMut) -> io::Result<()> {
        if let Stage::Looking(rewriter) = std::mem::replace(&mut self.stage, Stage::Passing) {
            match rewriter.end() {
                Err(RewritingError::MemoryLimitExceeded(_)) => {}
                ended => ended.map_err(io::Error::other)?,
            }
        }
        out.put(lock(&self.shared).written.split());
        Ok(())
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Plain data, which a panic cannot leave half changed.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rewriter(page: Page, shared: &Arc<Mutex<Shared>>) -> HtmlRewriter<'static, Sink> {
    let page = Arc::new(Mutex::new(page));
    let (at_element, at_end) = (Arc::clone(shared), Arc::clone(shared));
    let of_page = Arc::clone(&page);
    let elements = ElementContentHandlers::default().element(move |element: &mut Element<'_, '_>| {
        let mut shared = lock(&at_element);
        if shared.outcome == Outcome::Undecided {
            let mut page = of_page.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((outcome, tag)) = at(element, &mut page) {
                shared.outcome = outcome;
                element.before(&tag, ContentType::Html);
            }
        }
        Ok(())
    });
    let ends = DocumentContentHandlers::default().end(move |end: &mut lol_html::html_content::DocumentEnd<'_>| {
        let mut shared = lock(&at_end);
        if shared.outcome == Outcome::Undecided {
            let (outcome, tag) = decided(&page.lock().unwrap_or_else(PoisonError::into_inner));
            shared.outcome = outcome;
            // `append` calls the sink at once, which takes the lock.
            drop(shared);
            end.append(&tag, ContentType::Html);
        }
        Ok(())
    });
    let any: Selector = "*".parse().expect("it is a selector");
    let memory = MemorySettings::new().with_max_allowed_memory_usage(MEMORY).with_preallocated_parsing_buffer_size(0);
    let settings = Settings::new_send()
        .append_element_content_handler((std::borrow::Cow::Owned(any), elements))
        .append_document_content_handler(ends)
        .with_strict(false)
        .with_memory_settings(memory.with_graceful_bail_out_on_memory_limit_exceeded(true));
    let written = Arc::clone(shared);
    HtmlRewriter::new(settings, Box::new(move |bytes: &[u8]| lock(&written).written.put(bytes)))
}

/// The result at an element, and the text to write in front of it; `None` to go on.
fn at(element: &Element<'_, '_>, page: &mut Page) -> Option<(Outcome, String)> {
    let name = element.tag_name();
    if name == "meta" && is_policy(element) {
        page.policies.extend(element.get_attribute("content"));
    }
    if DESCRIBING.contains(&name.as_str()) {
        return None;
    }
    let source = element.get_attribute("src").filter(|_| name == "script");
    if source.is_some_and(|source| page.is_ours(&source)) {
        return Some((Outcome::AlreadyThere, String::new()));
    }
    Some(decided(page))
}

fn is_policy(element: &Element<'_, '_>) -> bool {
    element.get_attribute("http-equiv").is_some_and(|name| name.eq_ignore_ascii_case("content-security-policy"))
}

fn decided(page: &Page) -> (Outcome, String) {
    match page.decide() {
        Decision::Forbidden(change) => (Outcome::Forbidden(change), String::new()),
        Decision::Allowed(nonce) => (Outcome::Injected, page.tag(nonce.as_deref())),
    }
}

/// Whether a body begins with a tag that begins documents; `None` while too little has come.
fn begins_document(body: &[u8]) -> Option<bool> {
    let mut rest = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    loop {
        rest = rest.trim_ascii_start();
        let end: &[u8] = match rest {
            [] | b"<" | b"<!" | b"<!-" => return None,
            [b'<', b'!', b'-', b'-', ..] => b"-->",
            [b'<', b'?', ..] => b">",
            [b'<', name @ ..] => return begins_name(name),
            // This may become a byte order mark with the next bytes.
            [0xef] | [0xef, 0xbb] => return None,
            _ => return Some(false),
        };
        let at = rest.windows(end.len()).position(|window| window == end)?;
        rest = &rest[at + end.len()..];
    }
}

fn begins_name(rest: &[u8]) -> Option<bool> {
    let length = rest.iter().position(|byte| byte.is_ascii_whitespace() || matches!(byte, b'>' | b'/'));
    match length {
        Some(length) => Some(OPENINGS.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(&rest[..length]))),
        None => (rest.len() > 16).then_some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "<script src=\"/_underpass/client.js?v=1\"></script>";

    fn page() -> Page {
        Page {
            scheme: "https".into(),
            host: "a.example".into(),
            script: "/_underpass/client.js".into(),
            reference: "/_underpass/client.js".into(),
            hash: "1".into(),
            attributes: String::new(),
            policies: Vec::new(),
        }
    }

    /// The rewritten body when it comes in pieces of this size, and the result.
    fn injected(body: &[u8], size: usize) -> (Vec<u8>, Outcome) {
        let (mut injector, mut out) = (Injector::new(page()), BytesMut::new());
        for piece in body.chunks(size) {
            injector.write(piece, &mut out).expect("it rewrites");
        }
        injector.end(&mut out).expect("it ends");
        (out.to_vec(), injector.outcome())
    }

    /// `|` marks the place where the tag must come; without it, the body must stay as it is.
    fn expect(marked: &[u8], outcome: &Outcome) {
        let shown = String::from_utf8_lossy(marked);
        let at = marked.iter().position(|byte| *byte == b'|');
        let (body, expected) = match at {
            Some(at) => {
                let (before, after) = (&marked[..at], &marked[at + 1..]);
                ([before, after].concat(), [before, TAG.as_bytes(), after].concat())
            }
            None => (marked.to_vec(), marked.to_vec()),
        };
        for size in [1, 2, 7, 1 << 20] {
            let (out, became) = injected(&body, size);
            assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected), "{shown} by {size}");
            assert_eq!((out, &became), (expected.clone(), outcome), "{shown} by {size}");
        }
    }

    #[test]
    fn the_tag_comes_before_everything_that_runs_however_the_page_is_cut() {
        for marked in [
            "<!doctype html><html><head><title>x</title>|<script>new WebSocket('/')</script></head>",
            "<!doctype html><html><head><meta charset=utf-8></head>|<body>y</body></html>",
            "<HTML><HEAD>|<SCRIPT SRC=a.js></SCRIPT></HEAD></HTML>",
            "<!DOCTYPE html>\n<title>no head</title>\n|<p>x",
            "<!doctype html><!-- <head><script> --><html><!-- <body> --><head>|<script></script>",
            "<!-- a\nlicence --><!doctype html>|<svg><head></head><script/></svg>",
            "<?xml version='1.0'?><html>|<body/></html>",
            "\u{feff}<!doctype html>|<header>no head</header>",
            "  \n|<script>1</script>",
            "<!doctype html>only text|",
            "<html><head><meta charset=utf-8>|<base href=https://cdn.example/><title>x</title><script></script>",
            "<html><head><style>body::before{content:'<script>'}</style><link rel=x></head></html>|",
        ] {
            expect(marked.as_bytes(), &Outcome::Injected);
        }
        expect(b"<html><meta charset=latin1><title>\xe4\xff\x80</title>|<p>\xe4\xc3", &Outcome::Injected);
    }

    #[test]
    fn what_is_no_document_stays_as_it_is() {
        for body in [
            "",
            "<div>x</div>",
            "<tr><td>",
            "<svg><script/></svg>",
            "{\"a\":\"<html>\"}",
            "text <html>",
            "<htmlx>",
            "<",
        ] {
            expect(body.as_bytes(), &Outcome::Fragment);
        }
        expect(b"\xff\xfe<\0h\0t\0m\0l\0>\0", &Outcome::Fragment);
        expect(format!("<!--{}--><html>", "x".repeat(SNIFF)).as_bytes(), &Outcome::Fragment);
    }

    #[test]
    fn a_page_that_has_the_tag_gets_no_second() {
        for body in [
            "<html><head><script src=\"/_underpass/client.js\" data-debug></script><script>1</script></head></html>",
            "<html><script src='https://a.example/_underpass/client.js?v=old'></script>",
        ] {
            expect(body.as_bytes(), &Outcome::AlreadyThere);
        }
        expect(b"<html>|<script src=/other/_underpass/client.js.map></script>", &Outcome::Injected);
        expect(b"<html>|<script src=//other/_underpass/client.js></script>", &Outcome::Injected);
        let (once, _) = injected(b"<html><body>x", 5);
        assert_eq!(injected(&once, 5), (once, Outcome::AlreadyThere));
    }

    #[test]
    fn policies_in_the_page_are_respected() {
        expect(
            b"<html><meta http-equiv=Content-Security-Policy content=\"script-src 'self'\">|<p>",
            &Outcome::Injected,
        );
        let body = b"<html><meta http-equiv=content-security-policy content=\"connect-src 'none'\"><p>";
        let (out, outcome) = injected(body, 3);
        assert_eq!(out, body);
        assert!(matches!(&outcome, Outcome::Forbidden(change) if change.contains("connect-src")), "{outcome:?}");
        let (out, _) = injected(b"<meta http-equiv=content-security-policy content=\"script-src 'nonce-abc'\"><p>", 9);
        assert!(
            String::from_utf8_lossy(&out).contains("<script src=\"/_underpass/client.js?v=1\" nonce=\"abc\"></script>")
        );
    }

    #[test]
    fn a_tag_over_the_limit_is_passed_on_unchanged() {
        let body = format!("<html><meta content=\"{}\"><p>x", "y".repeat(2 * MEMORY));
        let (out, _) = injected(body.as_bytes(), 1000);
        assert!(String::from_utf8_lossy(&out).replace(TAG, "") == body);
    }
}
