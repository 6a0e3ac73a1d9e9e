//! Whose certificates a listener takes from its clients.
//!
//! Enters: the authorities in a file; a certificate that a client shows. Leaves: whether it holds. Must not touch: what the
//! client may do with it, files.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use crate::certificate::facts;

/// Takes what the certificates in a file have signed, and those themselves: a client's self-signed certificate is accepted
/// by its bytes, as nginx and others do. Its dates count all the same.
#[derive(Debug)]
pub(super) struct Known {
    authorities: Arc<dyn ClientCertVerifier>,
    held: Vec<CertificateDer<'static>>,
}

impl Known {
    /// For these certificates; `required` refuses clients without one.
    ///
    /// # Errors
    /// In words, when they cannot be used.
    pub(super) fn of(
        held: Vec<CertificateDer<'static>>,
        required: bool,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in &held {
            roots.add(certificate.clone()).map_err(|error| error.to_string())?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = if required { builder } else { builder.allow_unauthenticated() };
        let authorities = builder.build().map_err(|error: VerifierBuilderError| error.to_string())?;
        Ok(Self { authorities, held })
    }
}

fn holds_now(leaf: &[u8], now: UnixTime) -> Result<(), Error> {
    let Some(facts) = facts(leaf) else { return Err(CertificateError::BadEncoding.into()) };
    let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    match now.as_secs() {
        seconds if seconds < facts.begins => {
            Err(CertificateError::NotValidYetContext { time: now, not_before: at(facts.begins) }.into())
        }
        seconds if seconds > facts.ends => {
            Err(CertificateError::ExpiredContext { time: now, not_after: at(facts.ends) }.into())
        }
        _ => Ok(()),
    }
}

impl ClientCertVerifier for Known {
    fn offer_client_auth(&self) -> bool {
        self.authorities.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.authorities.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authorities.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.authorities.verify_client_cert(leaf, chain, now) {
            Err(_) if self.held.contains(leaf) => holds_now(leaf, now).map(|()| ClientCertVerified::assertion()),
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
    use rustls::crypto::ring;

    use super::*;

    fn self_signed(name: &str, is_authority: bool, ends: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = if is_authority { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::NoCa };
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2000, 1, 1), rcgen::date_time_ymd(ends, 1, 1));
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().clone()
    }

    #[test]
    fn a_self_signed_certificate_that_is_held_counts_as_long_as_it_holds() {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        for is_authority in [false, true] {
            let [ours, old] = [("ours", 2100), ("old", 2020)].map(|(name, ends)| self_signed(name, is_authority, ends));
            let provider = Arc::new(ring::default_provider());
            let known = Known::of(vec![ours.clone(), old.clone()], true, provider).expect("two certificates");
            known.verify_client_cert(&ours, &[], now).expect("it is held");
            let expired = known.verify_client_cert(&old, &[], now).expect_err("it has ended");
            assert!(matches!(expired, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{expired}");
            let twin = self_signed("ours", is_authority, 2100);
            known.verify_client_cert(&twin, &[], now).expect_err("another of the same name");
        }
    }
}
