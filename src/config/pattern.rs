//! Hosts and origins that are named with a wildcard. Pure.
//!
//! Enters: what the operator wrote, checked by `formats`; a host or an origin of a request, in lower case. Leaves: whether it
//! is meant. Must not touch: how either came here.
//!
//! As in certificates (RFC 6125 section 6.4.3), `*` stands for one whole label: `*.example.com` is `a.example.com`, and
//! neither `example.com` nor `a.b.example.com`.

/// Whether this host or origin is the one that is named, or one of those.
#[must_use]
pub fn matches(named: &str, asked: &str) -> bool {
    let Some((before, behind)) = named.split_once('*') else { return named == asked };
    let label = asked.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    label.is_some_and(|label| !label.is_empty() && label.bytes().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_whole_label() {
        let table = [
            ("a.example", "a.example", true),
            ("a.example", "b.example", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "xn--a-1.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "a.b.example.com", false),
            ("*.example.com", "evilexample.com", false),
            ("*.example.com", "a.example.com.evil.com", false),
            ("*.example.com", "a.example.com.", false),
            ("https://*.example.com", "https://a.example.com", true),
            ("https://*.example.com", "http://a.example.com", false),
            ("https://*.example.com", "https://a.example.com:8443", false),
            ("https://*.example.com", "https://evil/.example.com", false),
            ("https://*.example.com", "https://u@a.example.com", false),
            ("https://*.example.com:8443", "https://a.example.com:8443", true),
        ];
        for (named, asked, expected) in table {
            assert_eq!(matches(named, asked), expected, "{named} {asked}");
        }
    }
}
