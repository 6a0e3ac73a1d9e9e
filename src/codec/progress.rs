//! The response to what a client sends up (`docs/PROTOCOL.md`, section 6): how far the session is.
//!
//! Enters: cursors, what is attached. Leaves: a JSON object. Must not touch: the session they came from. By hand, since
//! it is the response to every message up.

use bytes::BytesMut;

use super::write;

/// `{"next":…,"attached":…,"sent":…,"unacked":…}`: the up number expected, the transport that is attached, the last down
/// number sent, and how many of them are not acknowledged.
#[must_use]
pub fn encode(next: u64, attached: Option<&str>, sent: u64, unacked: u64) -> BytesMut {
    let mut out = BytesMut::with_capacity(128);
    out.extend_from_slice(b"{\"next\":");
    write::decimal(&mut out, next);
    out.extend_from_slice(b",\"attached\":");
    match attached {
        Some(transport) => write::json_string(&mut out, transport.as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"sent\":");
    write::decimal(&mut out, sent);
    out.extend_from_slice(b",\"unacked\":");
    write::decimal(&mut out, unacked);
    out.extend_from_slice(b"}");
    out
}

/// Adds the request's nonce to the object.
pub fn echo(object: &mut BytesMut, nonce: &str) {
    debug_assert!(object.ends_with(b"}"), "the nonce goes into an object");
    object.truncate(object.len() - 1);
    object.extend_from_slice(b",\"n\":");
    write::json_string(object, nonce.as_bytes());
    object.extend_from_slice(b"}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the protocol, section 6.
    #[test]
    fn the_progress_of_a_session_and_its_echo() {
        let mut object = encode(5, Some("sse"), 19, 2);
        assert_eq!(object, r#"{"next":5,"attached":"sse","sent":19,"unacked":2}"#);
        echo(&mut object, "a\"b");
        assert_eq!(object, r#"{"next":5,"attached":"sse","sent":19,"unacked":2,"n":"a\"b"}"#);
        assert_eq!(encode(1, None, 0, 0), r#"{"next":1,"attached":null,"sent":0,"unacked":0}"#);
    }
}
