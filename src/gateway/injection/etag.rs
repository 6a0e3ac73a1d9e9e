//! Entity tags of what was changed: a page with the script is another representation than the backend's (RFC 9110 section
//! 8.8.3), so its `ETag` says so. Only tags of ours lead back to a 304: a page that a browser kept from before is fetched
//! anew.
//!
//! Enters: the backend's fields, or a tag that a client presents. Leaves: our tag, or the backend's. Must not touch: anything
//! else of a head.

use http::header::{ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue};

use crate::client;

/// What our tags end with: the version of the script, and whether the backend's own tag was strong.
fn ending(is_strong: bool) -> String {
    let hash = client::hash(client::File::Script);
    format!("-underpass-{}{}", &hash[..8.min(hash.len())], if is_strong { "s" } else { "w" })
}

/// Makes the backend's `ETag` ours. Weak: nobody may ask for a range of it. A page with a date only gets one as well, by
/// which we know that the client has the changed page.
pub(super) fn mark(headers: &mut HeaderMap) {
    let theirs = headers.get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default().trim().to_owned();
    let (is_strong, opaque) = theirs.strip_prefix("W/").map_or((true, theirs.as_str()), |weak| (false, weak));
    let opaque = opaque.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default();
    if opaque.is_empty() && !headers.contains_key(LAST_MODIFIED) {
        headers.remove(ETAG);
        return;
    }
    if let Ok(ours) = HeaderValue::try_from(format!("W/\"{opaque}{}\"", ending(is_strong))) {
        headers.insert(ETAG, ours);
    }
}

/// The backend's tag in one of ours: empty where it had none; `None` when it is not ours, or of another version.
pub(super) fn unmarked(tag: &str) -> Option<String> {
    let tag = tag.trim();
    let opaque = tag.strip_prefix("W/").unwrap_or(tag).strip_prefix('"')?.strip_suffix('"')?;
    if let Some(theirs) = opaque.strip_suffix(&ending(false)) {
        return Some(format!("W/\"{theirs}\""));
    }
    let theirs = opaque.strip_suffix(&ending(true))?;
    Some(if theirs.is_empty() { String::new() } else { format!("\"{theirs}\"") })
}
