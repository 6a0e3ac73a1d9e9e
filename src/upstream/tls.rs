//! TLS towards a backend: whom we trust and what we show.
//!
//! Enters: the operator's files, read once when the house starts. Leaves: a connector for `dial`. Must not touch: the
//! network, the listeners' certificates.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::certificate::facts;
use crate::config::{Endpoint, TlsFiles, UpstreamTls};

/// Why TLS towards a backend cannot be set up. Found at the start, before anything is dialled.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamTlsError {
    /// A file is missing, not readable, or not PEM.
    #[error("cannot read the backend's {what} file {}: {source}; it has to be a readable PEM file", path.display())]
    Unreadable {
        /// Which of the files.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What went wrong.
        source: pem::Error,
    },
    /// A file was read and held no certificate.
    #[error("no certificate in the backend's {what} file {}; it needs at least one CERTIFICATE block", path.display())]
    Empty {
        /// Which of the files.
        what: &'static str,
        /// Its path.
        path: PathBuf,
    },
    /// A certificate cannot serve as an authority.
    #[error("a certificate in {} cannot be trusted as an authority: {source}; put the CA's own certificate there", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The client certificate and its key are unusable together.
    #[error("client certificate {} and key {} cannot be used: {source}; check that they belong together", certificate.display(), key.display())]
    Client {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What is wrong with them.
        source: rustls::Error,
    },
    /// The system has no usable authorities.
    #[error(
        "the system's trusted certificates cannot be loaded{reasons}; install ca-certificates or name a ca file for this backend"
    )]
    NoSystemRoots {
        /// What the system's stores said; empty, or begins with `: `.
        reasons: String,
    },
    /// The backend's host is nothing a certificate can be checked against.
    #[error("{host} is neither a DNS name nor an IP address, so no certificate can be checked against it")]
    Name {
        /// The host as configured.
        host: String,
    },
    /// rustls refuses our settings.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// A connector for a backend: its authorities, our certificate if any, and HTTP/1.1 as the only protocol offered.
///
/// # Errors
/// [`UpstreamTlsError`] for files that cannot be used. Reads files: call it before the house serves.
pub fn connector(tls: &UpstreamTls) -> Result<TlsConnector, UpstreamTlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(UpstreamTlsError::Setup)?;
    let trusting = match tls.ca.as_deref() {
        None => builder.with_root_certificates(system_roots()?),
        Some(path) => builder.dangerous().with_custom_certificate_verifier(Arc::new(Named::read(path, provider)?)),
    };
    let mut config = match &tls.client {
        None => trusting.with_no_client_auth(),
        Some(files) => {
            let (chain, key) = identity(files)?;
            trusting.with_client_auth_cert(chain, key).map_err(|source| UpstreamTlsError::Client {
                certificate: files.certificate.clone(),
                key: files.key.clone(),
                source,
            })?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The name that the backend's certificate must carry: its host, which may be an IP address. Behind a unix socket it is
/// `localhost`, since a path is no name.
///
/// # Errors
/// [`UpstreamTlsError::Name`].
pub fn server_name(endpoint: &Endpoint) -> Result<ServerName<'static>, UpstreamTlsError> {
    let host = match endpoint {
        // Certificates and the name in the handshake are without the final dot (RFC 6066 section 3).
        Endpoint::Tcp { host, .. } => host.strip_suffix('.').unwrap_or(host),
        Endpoint::Unix(_) => "localhost",
    };
    ServerName::try_from(host.to_owned()).map_err(|_| UpstreamTlsError::Name { host: host.to_owned() })
}

/// Trusts what the certificates in a file have signed, and those themselves: the self-signed certificate of a server, which
/// is no authority, is accepted by its bytes, as curl, nginx and others do. Its name and its dates count all the same.
#[derive(Debug)]
struct Named {
    authorities: Arc<WebPkiServerVerifier>,
    held: Vec<CertificateDer<'static>>,
}

impl Named {
    fn read(path: &Path, provider: Arc<CryptoProvider>) -> Result<Self, UpstreamTlsError> {
        let held = certificates("ca", path)?;
        let mut roots = RootCertStore::empty();
        for certificate in &held {
            let added = roots.add(certificate.clone());
            added.map_err(|source| UpstreamTlsError::Authority { path: path.to_owned(), source })?;
        }
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let authorities =
            authorities.map_err(|error| UpstreamTlsError::Setup(rustls::Error::General(error.to_string())))?;
        Ok(Self { authorities, held })
    }

    /// Whether a certificate of the file holds for this name, now.
    fn holds(&self, leaf: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<(), rustls::Error> {
        verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
        let Some(facts) = facts(leaf) else { return Err(CertificateError::BadEncoding.into()) };
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        if now.as_secs() < facts.begins {
            return Err(CertificateError::NotValidYetContext { time: now, not_before: at(facts.begins) }.into());
        }
        if now.as_secs() > facts.ends {
            return Err(CertificateError::ExpiredContext { time: now, not_after: at(facts.ends) }.into());
        }
        Ok(())
    }
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.authorities.verify_server_cert(leaf, chain, name, ocsp, now) {
            Err(_) if self.held.contains(leaf) => self.holds(leaf, name, now).map(|()| ServerCertVerified::assertion()),
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// What went wrong in a TLS handshake with a backend and what to do, in words that go on "… failed: ".
pub(super) fn explain(error: &io::Error) -> String {
    use rustls::Error;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(what)) => explain_certificate(what),
        Some(Error::AlertReceived(alert)) => explain_alert(*alert),
        Some(Error::InvalidMessage(_)) => {
            "what answers there does not speak TLS; without it an upstream begins with ws:// or http://".to_owned()
        }
        Some(Error::NoApplicationProtocol) => "it does not speak HTTP/1.1 over TLS".to_owned(),
        Some(other) => other.to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it closed the connection; its log says why, and whether it speaks TLS there at all".to_owned()
        }
        None => error.to_string(),
    }
}

fn explain_certificate(error: &CertificateError) -> String {
    let date = |at: &UnixTime| httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(at.as_secs()));
    match error {
        CertificateError::NotValidForNameContext { expected, presented } => {
            // `DnsName("a.example")`, `IpAddress(127.0.0.1)`: the name is what is asked about.
            let bare = |name: &String| {
                let inner = name.split_once('(').map_or(name.as_str(), |(_, inner)| inner.trim_end_matches(')'));
                inner.trim_matches('"').to_owned()
            };
            let names = presented.iter().map(bare).collect::<Vec<_>>().join(", ");
            let names = if names.is_empty() { "no name at all".to_owned() } else { names };
            format!("the certificate is for {names}, not {}; name the backend so in `upstream`", expected.to_str())
        }
        CertificateError::NotValidForName => "the certificate is for another name".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the certificate expired on {}; renew it", date(not_after))
        }
        CertificateError::Expired => "the certificate has expired; renew it".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("the certificate holds from {} on; are both clocks right?", date(not_before))
        }
        CertificateError::NotValidYet => "the certificate does not hold yet; are both clocks right?".to_owned(),
        CertificateError::UnknownIssuer => {
            "the certificate is signed by an unknown authority: put that authority's certificate, or this one, into `ca`"
                .to_owned()
        }
        CertificateError::BadSignature => {
            "the certificate is signed by another authority of the same name: put that one's, or this one, into `ca`".to_owned()
        }
        CertificateError::Other(other) if format!("{other}").contains("CaUsedAsEndEntity") => {
            "the certificate is that of an authority: put it into `ca`".to_owned()
        }
        other => format!("the certificate is refused: {other:?}"),
    }
}

fn explain_alert(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired => {
            "it asks for a certificate of ours: set `client_certificate` and `client_key`".to_owned()
        }
        Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown | Alert::UnknownCA => {
            format!("it refuses our certificate ({alert:?}): see `client_certificate`")
        }
        Alert::CertificateExpired | Alert::CertificateRevoked => {
            format!("it refuses our certificate ({alert:?}): renew `client_certificate`")
        }
        Alert::UnrecognisedName => "it serves no host of the name in `upstream`".to_owned(),
        Alert::HandshakeFailure | Alert::ProtocolVersion => {
            format!("it has no version or cipher in common with us, or wants a certificate of ours ({alert:?})")
        }
        other => format!("it ended the handshake: {other:?}"),
    }
}

/// Some certificates of a system's store are regularly unusable; only having none is an error.
fn system_roots() -> Result<RootCertStore, UpstreamTlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let reasons = found.errors.iter().map(|error| format!(": {error}")).collect();
        return Err(UpstreamTlsError::NoSystemRoots { reasons });
    }
    Ok(roots)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(files: &TlsFiles) -> Result<Identity, UpstreamTlsError> {
    let chain = certificates("client certificate", &files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| UpstreamTlsError::Unreadable {
        what: "client key",
        path: files.key.clone(),
        source,
    })?;
    Ok((chain, key))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, UpstreamTlsError> {
    let unreadable = |source| UpstreamTlsError::Unreadable { what, path: path.to_owned(), source };
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)?;
    if found.is_empty() {
        return Err(UpstreamTlsError::Empty { what, path: path.to_owned() });
    }
    Ok(found)
}
