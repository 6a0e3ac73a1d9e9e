//! The parameters of requests under the prefix.
//!
//! Enters: the query of a URL. Leaves: checked values, or a [`Fault`] that names the parameter. Must not touch: bodies.

use std::borrow::Cow;
use std::time::Duration;

use super::fault::Fault;
use crate::codec::sse::parse_number;

/// The most characters of a nonce `n` or a `cause`; arbitrary, they are echoed or logged.
const MAX_WORD: usize = 128;

/// The query of a `/s/` request. Unknown parameters are ignored; of a repeated one the first counts.
pub struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    #[must_use]
    pub fn parse(query: Option<&'a str>) -> Self {
        Self { pairs: query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(decoded).collect() }
    }

    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    /// A parameter that is a number of messages.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Fault> {
        let Some((_, text)) = self.pairs.iter().find(|(key, _)| key == name) else { return Ok(None) };
        let what = "is no number: it must be plain digits, without leading zeros";
        let wrong = || Fault::BadRequest(format!("`{name}={}` {what}", shown(text)));
        // What had to be decoded was not written plainly: another reader could take it for something else.
        let plain = matches!(text, Cow::Borrowed(_)).then(|| parse_number(text)).flatten();
        plain.map(Some).ok_or_else(wrong)
    }

    /// The number of an up message: counted from 1.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn seq(&self) -> Result<Option<u64>, Fault> {
        match self.number("seq")? {
            Some(0) => Err(Fault::BadRequest("`seq=0`: messages are numbered from 1".into())),
            seq => Ok(seq),
        }
    }

    /// The `wait` of a poll, in seconds; a fraction is fine.
    ///
    /// # Errors
    /// When it is no such number.
    pub fn wait(&self) -> Result<Option<Duration>, Fault> {
        let Some(text) = self.text("wait") else { return Ok(None) };
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let seconds = text.parse::<f64>().ok().filter(|_| plain);
        let wait = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let wrong = || Fault::BadRequest(format!("`wait={}` is no time: it must be a number of seconds", shown(text)));
        wait.map(Some).ok_or_else(wrong)
    }

    /// The nonce `n`, which makes a URL unique, against caches, and is echoed.
    ///
    /// # Errors
    /// When it is too long to echo.
    pub fn nonce(&self) -> Result<Option<&str>, Fault> {
        match self.text("n") {
            Some(nonce) if nonce.len() > MAX_WORD => {
                Err(Fault::BadRequest(format!("`n` is longer than {MAX_WORD} bytes: a nonce needs no more")))
            }
            nonce => Ok(nonce),
        }
    }

    /// Why the client changed transport, as it says; shortened and cleaned for a log line.
    #[must_use]
    pub fn cause(&self) -> Option<String> {
        let cause = self.text("cause")?;
        Some(cause.chars().filter(|char| char.is_ascii_graphic() || *char == ' ').take(MAX_WORD).collect())
    }
}

/// One parameter. Most need no decoding.
fn decoded(pair: &str) -> (Cow<'_, str>, Cow<'_, str>) {
    if pair.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return form_urlencoded::parse(pair.as_bytes()).next().unwrap_or_default();
    }
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    (name.into(), value.into())
}

/// The start of a text that came from a client, escaped for an error message.
fn shown(text: &str) -> String {
    text.chars().take(32).flat_map(char::escape_default).collect()
}
