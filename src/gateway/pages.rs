//! Refusals for people: a small page where a browser navigates, in the place of the JSON that programs get.
//!
//! Enters: heads of requests, refusals. Leaves: pages; a route may have its own. Must not touch: statuses, which are the
//! same for both; what a page says comes from nowhere but here or the operator's file.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::http::body::{Body, response};

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
/// Our page needs nothing but its own style.
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'self'");
/// The largest file of an own page, in bytes.
const LARGEST: u64 = 256 * 1024;

/// An operator's page that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the `error_page` {file} cannot be read: {why}")]
pub struct PageError {
    file: String,
    why: io::Error,
}

/// What a browser that navigates is shown instead of JSON.
#[derive(Clone, Debug)]
pub(super) enum Page {
    Ours,
    Own(Bytes),
}

impl Page {
    /// Reads the page of a route.
    pub(super) fn read(file: &Path) -> Result<Self, PageError> {
        read(file).map(Self::Own).map_err(|why| PageError { file: file.display().to_string(), why })
    }

    /// The response in place of `json`: its status and its fields, but for what is about the body.
    pub(super) fn instead_of(self, json: Response<Body>, code: &str) -> Response<Body> {
        let (head, _) = json.into_parts();
        let (body, policy) = match self {
            Self::Own(page) => (page, None),
            Self::Ours => (Bytes::from(ours(head.status, code)), Some(POLICY)),
        };
        let mut page = response(head.status, "text/html; charset=utf-8", body);
        for (name, value) in head.headers.iter().filter(|(name, _)| *name != CONTENT_TYPE) {
            page.headers_mut().insert(name.clone(), value.clone());
        }
        page.headers_mut().insert(CONTENT_TYPE, HTML);
        if let Some(policy) = policy {
            page.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
        }
        page
    }
}

/// Whether a browser asks for a page to be shown: it names HTML first, and where it says what for, it says so.
pub(super) fn navigates(method: &Method, headers: &HeaderMap) -> bool {
    if method != Method::GET && method != Method::POST {
        return false;
    }
    let Some(accept) = headers.get(ACCEPT) else { return false };
    let first = accept.as_bytes().get(..9).is_some_and(|start| start.eq_ignore_ascii_case(b"text/html"));
    first && headers.get(SEC_FETCH_MODE).is_none_or(|mode| mode == "navigate")
}

fn read(file: &Path) -> io::Result<Bytes> {
    let mut page = Vec::new();
    File::open(file)?.take(LARGEST + 1).read_to_end(&mut page)?;
    if page.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 256 KiB"));
    }
    Ok(page.into())
}

fn ours(status: StatusCode, code: &str) -> String {
    let (title, advice) = match status {
        StatusCode::NOT_FOUND => ("There is nothing here", "The address may be misspelled, or the page is gone."),
        StatusCode::SERVICE_UNAVAILABLE => ("Too busy right now", "Please try again in a moment."),
        StatusCode::GATEWAY_TIMEOUT => ("No answer in time", "The site takes too long. Please try again in a moment."),
        status if status.is_server_error() => {
            ("The site cannot be reached right now", "This is not your connection. Please try again in a moment.")
        }
        _ => ("This request is not answered", "The site does not take it as it was made."),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
         <style>body {{ font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 18vh auto 0; padding: 0 1.5rem }} \
         h1 {{ font-size: 1.6rem; line-height: 1.2 }} small {{ opacity: .6 }}</style>\n\
         <h1>{title}</h1>\n<p>{advice}</p>\n<p><small>{} · {code}</small></p>\n",
        status.as_u16()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_navigates_gets_a_page() {
        let asks = |method: Method, fields: &[(HeaderName, &str)]| {
            let value = |(name, value): &(HeaderName, &str)| (name.clone(), value.parse().expect("a value"));
            navigates(&method, &fields.iter().map(value).collect())
        };
        let html = (ACCEPT, "text/html,application/xhtml+xml,*/*;q=0.8");
        assert!(asks(Method::GET, std::slice::from_ref(&html)), "an older browser");
        assert!(asks(Method::GET, &[html.clone(), (SEC_FETCH_MODE, "navigate")]));
        assert!(asks(Method::POST, &[html.clone(), (SEC_FETCH_MODE, "navigate")]), "a form");
        assert!(!asks(Method::GET, &[html.clone(), (SEC_FETCH_MODE, "cors")]), "a library that loads parts of pages");
        assert!(!asks(Method::PUT, &[html]));
        for accept in ["*/*", "application/json, text/html", "text/event-stream", ""] {
            assert!(!asks(Method::GET, &[(ACCEPT, accept)]), "{accept}");
        }
        assert!(!asks(Method::GET, &[]));
    }
}
