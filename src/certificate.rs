//! What is said of a certificate (X.509, RFC 5280): whose it is, and for how long. Pure.
//!
//! Enters: a certificate in DER. Leaves: its facts, fit for a header field, a metric or a line of the log. Must not touch:
//! whether it is to be trusted.

use ring::digest::{SHA256, digest};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// A longer subject is not told: no name is, and a header has bounds.
const LONGEST_SUBJECT: usize = 4096;

/// The facts of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The subject as RFC 4514 writes it, in visible ASCII: other bytes are escaped as it allows. Empty when it is too long.
    pub subject: String,
    /// From when it holds, in seconds since 1970.
    pub begins: u64,
    /// Until when it holds, in seconds since 1970.
    pub ends: u64,
}

/// The facts of this certificate; `None` when it cannot be read.
#[must_use]
pub fn facts(der: &[u8]) -> Option<Facts> {
    let certificate = Certificate::from_der(der).ok()?;
    let certificate = certificate.tbs_certificate();
    let validity = certificate.validity();
    let subject = visible(&certificate.subject().to_string());
    Some(Facts {
        subject: if subject.len() > LONGEST_SUBJECT { String::new() } else { subject },
        begins: validity.not_before.to_unix_duration().as_secs(),
        ends: validity.not_after.to_unix_duration().as_secs(),
    })
}

/// The SHA-256 of a certificate, as lower-case hexadecimal digits.
#[must_use]
pub fn fingerprint(der: &[u8]) -> String {
    digest(&SHA256, der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that are no visible ASCII become `\xx` (RFC 4514 section 2.4).
fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' => visible.push(char::from(byte)),
            _ => visible.push_str(&format!("\\{byte:02x}")),
        }
    }
    visible
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn subject_and_dates_are_read() {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::OrganizationName, "Grüße, GmbH");
        params.distinguished_name.push(DnType::CommonName, "anna\r\nX: y");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 2, 3);
        let certificate = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
        let facts = facts(certificate.der()).expect("a certificate");
        assert!(facts.subject.contains("Gr\\c3\\bc\\c3\\9fe\\, GmbH"), "{}", facts.subject);
        assert!(facts.subject.contains("anna") && facts.subject.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        assert_eq!((facts.begins, facts.ends), (18_262 * 86_400, 21_948 * 86_400));
        assert_eq!(fingerprint(b"").len(), 64);
        assert!(fingerprint(b"").starts_with("e3b0c442"));
    }

    #[test]
    fn what_is_no_certificate_has_none() {
        assert_eq!(facts(b"nothing"), None);
        assert_eq!(facts(&[0x30, 0x80]), None);
    }
}
