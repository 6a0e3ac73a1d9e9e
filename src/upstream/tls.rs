//! TLS towards a backend: whom we trust and what we show.
//!
//! Enters: the operator's files, read once when the house starts. Leaves: a connector for `dial`. Must not touch: the
//! network, the listeners' certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

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
    let trusting = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(UpstreamTlsError::Setup)?
        .with_root_certificates(roots(tls.ca.as_deref())?);
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

fn roots(ca: Option<&Path>) -> Result<RootCertStore, UpstreamTlsError> {
    let Some(path) = ca else { return system_roots() };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca", path)? {
        roots.add(certificate).map_err(|source| UpstreamTlsError::Authority { path: path.to_owned(), source })?;
    }
    Ok(roots)
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
