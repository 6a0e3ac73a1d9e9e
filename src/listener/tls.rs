//! The certificates that a listener shows, those that it asks clients for, and their renewal while serving.
//!
//! Enters: the paths of PEM files. Leaves: a rustls configuration that follows the files. Must not
//! touch: connections.
//!
//! A renewal writes two files, and we may look between the two. So a pair counts only when both can be read and the key
//! belongs to the certificate; otherwise the old pair stays until the next look.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::client_certificates::Known;
use crate::certificate::facts;
use crate::config::{ClientAuth, ListenerTls, TlsFiles};

/// How often the files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);

/// So long before its end a certificate is warned of, and so often.
const WARN_BEFORE: Duration = Duration::from_secs(14 * 86_400);
const WARN_EVERY: Duration = Duration::from_secs(86_400);

/// No chain and no key is longer; whoever configures `/dev/zero` gets an error instead of an eternity.
const MAX_FILE: u64 = 1024 * 1024;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}; it must exist and be readable by this user", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is longer than 1 MiB.
    #[error("{} is longer than {MAX_FILE} bytes, which no certificate or key is; check the path", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// A file is not PEM, or has nothing in it that we look for.
    #[error("{} holds no usable {what} in PEM form: {source}", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// The two do not go together, or one of them is of a kind that cannot be used.
    #[error("the key in {} does not serve the certificate in {}: {source}; install both files of one issue", key.display(), certificate.display())]
    Unusable {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The authorities for clients' certificates cannot be used.
    #[error("the certificates in {} cannot vouch for those of clients: {what}; put the authority's own certificate there", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        what: String,
    },
    /// rustls refuses our settings.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// Certificates that follow their files, and the server configuration that shows them.
#[derive(Debug)]
pub struct TlsSource {
    files: ListenerTls,
    state: ArcSwap<State>,
    /// What the files looked like when they were last read, successfully or not.
    seen: Mutex<Option<Look>>,
}

/// What was made of the files. Replaced whole: sessions that TLS could resume end with it, and so does what a client was
/// trusted for.
#[derive(Debug)]
struct State {
    certificates: Arc<Shown>,
    config: Arc<ServerConfig>,
}

/// Until when a certificate holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// Its file.
    pub certificate: PathBuf,
    /// The end of its validity, in seconds since 1970.
    pub at: u64,
}

#[derive(Debug)]
struct Shown(Vec<Arc<CertifiedKey>>);

/// How the files look without reading them: inode, length, and when the inode last changed, which unlike the time of
/// modification also changes with `cp -p` and with `chmod`.
type Look = Vec<(u64, u64, i64, i64)>;

// === impl TlsSource ===

impl TlsSource {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(files: &ListenerTls) -> Result<Self, TlsError> {
        let seen = look(files);
        let state = ArcSwap::from_pointee(State::read(files)?);
        Ok(Self { files: files.clone(), state, seen: Mutex::new(seen) })
    }

    /// What connections are accepted with, now.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.state.load().config)
    }

    /// Until when each certificate holds that is shown now.
    #[must_use]
    pub fn expiries(&self) -> Vec<Expiry> {
        let state = self.state.load();
        let shown = self.files.certificates.iter().zip(&state.certificates.0);
        let expiry = |(pair, shown): (&TlsFiles, &Arc<CertifiedKey>)| {
            let at = facts(shown.end_entity_cert().ok()?)?.ends;
            Some(Expiry { certificate: pair.certificate.clone(), at })
        };
        shown.filter_map(expiry).collect()
    }

    /// Reads the files again, whether they look changed or not. Connections that are open keep what they have.
    ///
    /// # Errors
    /// See [`TlsError`]; the old pairs are shown further.
    pub fn reload(&self) -> Result<(), TlsError> {
        // Looked at before reading: a change in between is then found by the next look.
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = look(&self.files);
        self.state.store(Arc::new(State::read(&self.files)?));
        Ok(())
    }

    /// Reads the files again if one looks changed since the last time. True when what was read is in use.
    ///
    /// # Errors
    /// See [`TlsError`]; the old pairs are shown further, and files that do not change are not complained about again.
    pub fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let changed = *self.seen.lock().unwrap_or_else(PoisonError::into_inner) != look(&self.files);
        if changed {
            self.reload()?;
        }
        Ok(changed)
    }

    /// What is to be said of certificates that have expired or soon will, for people.
    #[must_use]
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        self.expiries().iter().filter_map(|expiry| expiry.warning(now)).collect()
    }

    /// Logs [`Self::warnings`].
    pub fn warn(&self) {
        for warning in self.warnings(SystemTime::now()) {
            tracing::warn!("{warning}");
        }
    }

    /// Looks at the files every `every` (see [`LOOK_EVERY`]), for ever; warns at the start, then once a day.
    pub async fn watch(self: Arc<Self>, every: Duration) {
        let mut looks = interval(every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut warned: Option<Instant> = None;
        loop {
            looks.tick().await;
            if warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
                warned = Some(Instant::now());
                self.warn();
            }
            let source = Arc::clone(&self);
            // Files may lie on a disk that is slow or gone.
            let look = tokio::task::spawn_blocking(move || source.reload_if_changed());
            let path = self.files.certificates.first().map(|pair| pair.certificate.display().to_string());
            let path = path.unwrap_or_default();
            match look.await {
                Ok(Ok(true)) => {
                    tracing::info!(certificate = %path, "new certificate");
                    self.warn();
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the changed certificate is not used, the old one stays"),
                Err(error) => tracing::error!(%error, certificate = %path, "looking at the certificate failed"),
            }
        }
    }
}

impl State {
    fn read(files: &ListenerTls) -> Result<Self, TlsError> {
        let pairs = files.certificates.iter().map(|pair| read_pair(pair).map(Arc::new));
        let shown = Arc::new(Shown(pairs.collect::<Result<_, _>>()?));
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        // Cannot fail: the provider is complete. A rustls::Error here is reported as any other.
        let builder = builder.map_err(TlsError::Setup)?;
        let builder = match &files.clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(verifier(clients, provider)?),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { certificates: shown, config: Arc::new(config) })
    }
}

impl Expiry {
    fn warning(&self, now: SystemTime) -> Option<String> {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(self.at);
        let (path, date) = (self.certificate.display(), httpdate::fmt_http_date(at));
        match at.duration_since(now) {
            Err(_) => Some(format!("the certificate in {path} expired on {date}: clients refuse it; renew it")),
            Ok(left) if left < WARN_BEFORE => Some(format!(
                "the certificate in {path} expires in {} days, on {date}; renew it",
                left.as_secs() / 86_400
            )),
            Ok(_) => None,
        }
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let first = self.0.first();
        let name = hello.server_name().filter(|_| self.0.len() > 1);
        let named = name.and_then(|name| ServerName::try_from(name).ok());
        let fits = |name: &ServerName<'_>, shown: &CertifiedKey| {
            let leaf = shown.end_entity_cert().and_then(ParsedCertificate::try_from);
            leaf.is_ok_and(|leaf| verify_server_name(&leaf, name).is_ok())
        };
        named.and_then(|name| self.0.iter().find(|shown| fits(&name, shown))).or(first).cloned()
    }
}

fn verifier(clients: &ClientAuth, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let known = Known::of(read_chain(&clients.ca)?, clients.required, provider);
    let known = known.map_err(|what| TlsError::Authorities { path: clients.ca.clone(), what })?;
    Ok(Arc::new(known))
}

fn look(files: &ListenerTls) -> Option<Look> {
    let one = |path: &PathBuf| {
        let meta = fs::metadata(path).ok()?;
        Some((meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec()))
    };
    let pairs = files.certificates.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
    pairs.chain(files.clients.iter().map(|clients| &clients.ca)).map(one).collect()
}

fn read_pair(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let chain = read_chain(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|source| TlsError::NotPem {
        path: files.key.clone(),
        what: "private key",
        source,
    })?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|source| unusable(files, source))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .and_then(|chain: Vec<_>| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
        .map_err(|source| TlsError::NotPem { path: path.to_owned(), what: "certificate", source })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(TlsError::TooLong { path: path.to_owned() });
    }
    Ok(bytes)
}

fn unusable(files: &TlsFiles, source: rustls::Error) -> TlsError {
    TlsError::Unusable { certificate: files.certificate.clone(), key: files.key.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("underpass-tls-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a writable temporary directory");
            Self(path)
        }

        fn files(&self) -> TlsFiles {
            TlsFiles { certificate: self.0.join("chain.pem"), key: self.0.join("key.pem") }
        }

        fn load(&self) -> Result<TlsSource, TlsError> {
            TlsSource::load(&of(self.files()))
        }
    }

    fn of(files: TlsFiles) -> ListenerTls {
        ListenerTls { certificates: vec![files], clients: None }
    }

    /// A fresh pair as (chain, key) in PEM.
    fn issue() -> (String, String) {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        (pair.cert.pem(), pair.signing_key.serialize_pem())
    }

    fn write(files: &TlsFiles, (chain, key): &(String, String)) {
        fs::write(&files.certificate, chain).expect("a writable temporary directory");
        fs::write(&files.key, key).expect("a writable temporary directory");
    }

    /// The clock of a file system ticks every few milliseconds; a change within one tick is not seen.
    fn write_until(files: &TlsFiles, pair: &(String, String), mut seen: impl FnMut() -> bool) {
        loop {
            write(files, pair);
            if seen() {
                return;
            }
        }
    }

    fn shown(source: &TlsSource) -> Vec<u8> {
        source.state.load().certificates.0[0].cert[0].to_vec()
    }

    fn der(pair: &(String, String)) -> Vec<u8> {
        CertificateDer::from_pem_slice(pair.0.as_bytes()).expect("a certificate").to_vec()
    }

    #[test]
    fn a_renewed_pair_is_shown() {
        let directory = Directory::new("renewed");
        let (old, new) = (issue(), issue());
        write(&directory.files(), &old);
        let source = directory.load().expect("sound files");
        assert_eq!(shown(&source), der(&old));
        assert!(!source.reload_if_changed().expect("sound files, or the old ones"));
        write_until(&directory.files(), &new, || source.reload_if_changed().expect("sound files, or the old ones"));
        assert_eq!(shown(&source), der(&new));
    }

    #[test]
    fn a_half_written_pair_keeps_the_old_one_until_it_is_whole() {
        let directory = Directory::new("half");
        let (old, new) = (issue(), issue());
        let files = directory.files();
        write(&files, &old);
        let source = directory.load().expect("sound files");
        fs::write(&files.certificate, &new.0[..new.0.len() / 2]).expect("a writable temporary directory");
        assert!(matches!(source.reload(), Err(TlsError::NotPem { what: "certificate", .. })));
        fs::write(&files.certificate, &new.0).expect("a writable temporary directory");
        assert!(matches!(source.reload(), Err(TlsError::Unusable { .. })), "new certificate, old key");
        assert_eq!(shown(&source), der(&old));
        fs::write(&files.key, &new.1).expect("a writable temporary directory");
        source.reload().expect("sound files, or the old ones");
        assert_eq!(shown(&source), der(&new));
    }

    #[test]
    fn unchanged_bad_files_are_complained_about_once() {
        let directory = Directory::new("once");
        let files = directory.files();
        write(&files, &issue());
        let source = directory.load().expect("sound files");
        fs::write(&files.key, "nothing").expect("a writable temporary directory");
        assert!(matches!(source.reload_if_changed(), Err(TlsError::NotPem { what: "private key", .. })));
        assert!(!source.reload_if_changed().expect("sound files, or the old ones"));
        fs::remove_file(&files.key).expect("a writable temporary directory");
        assert!(matches!(source.reload_if_changed(), Err(TlsError::Unreadable { .. })));
        assert!(!source.reload_if_changed().expect("sound files, or the old ones"));
    }

    #[test]
    fn errors_name_the_file_and_what_to_do() {
        let directory = Directory::new("errors");
        let files = directory.files();
        let missing = directory.load().expect_err("a file is missing").to_string();
        assert!(missing.contains("chain.pem") && missing.contains("must exist"), "{missing}");
        let (good, other) = (issue(), issue());
        write(&files, &(good.0, other.1));
        let mixed = directory.load().expect_err("a key of another certificate").to_string();
        assert!(mixed.contains("key.pem") && mixed.contains("chain.pem") && mixed.contains("one issue"), "{mixed}");
        write(&files, &(String::new(), String::new()));
        assert!(matches!(directory.load(), Err(TlsError::NotPem { .. })));
        let endless = TlsFiles { certificate: "/dev/zero".into(), key: files.key.clone() };
        assert!(matches!(TlsSource::load(&of(endless)), Err(TlsError::TooLong { .. })));
    }

    #[tokio::test]
    async fn the_watch_finds_a_change() {
        let directory = Directory::new("watch");
        let new = issue();
        write(&directory.files(), &issue());
        let source = Arc::new(directory.load().expect("sound files"));
        let watch = tokio::spawn(Arc::clone(&source).watch(Duration::from_millis(2)));
        while shown(&source) != der(&new) {
            write(&directory.files(), &new);
            tokio::task::yield_now().await;
        }
        watch.abort();
    }

    #[test]
    fn a_certificate_that_ends_soon_is_warned_of_and_one_that_does_not_is_not() {
        let day = Duration::from_secs(86_400);
        let expiry = Expiry { certificate: "/etc/site.pem".into(), at: 100 * 86_400 };
        let at = |days: u32| expiry.warning(SystemTime::UNIX_EPOCH + days * day);
        assert_eq!((at(1), at(86)), (None, None));
        assert!(
            at(87).is_some_and(|warning| warning.contains("/etc/site.pem expires in 13 days, on Sat, 11 Apr 1970"))
        );
        assert!(at(101).is_some_and(|warning| warning.contains("expired on Sat, 11 Apr 1970")));
    }

    #[test]
    fn the_end_of_each_certificate_is_known() {
        let directory = Directory::new("expiry");
        write(&directory.files(), &issue());
        let source = directory.load().expect("sound files");
        // rcgen's own end of all days.
        assert_eq!(source.expiries().len(), 1);
        assert!(source.expiries()[0].at > 4_000_000_000 && source.warnings(SystemTime::now()).is_empty());
    }
}
