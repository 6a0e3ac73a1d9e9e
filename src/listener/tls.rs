//! The certificate that a listener shows, and its renewal while serving.
//!
//! Enters: the paths of two PEM files. Leaves: a rustls configuration whose certificate follows the files. Must not
//! touch: connections.
//!
//! A renewal writes two files, and we may look between the two. So a pair counts only when both can be read and the key
//! belongs to the certificate; otherwise the old pair stays until the next look.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::TlsFiles;

/// How often the files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);

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
}

/// A certificate that follows its files, and the server configuration that shows it.
#[derive(Debug)]
pub struct TlsSource {
    files: TlsFiles,
    shown: Arc<Shown>,
    config: Arc<ServerConfig>,
    /// What the files looked like when they were last read, successfully or not.
    seen: Mutex<Option<Look>>,
}

#[derive(Debug)]
struct Shown(ArcSwap<CertifiedKey>);

/// How both files look without reading them: inode, length, and when the inode last changed, which unlike the time of
/// modification also changes with `cp -p` and with `chmod`.
type Look = [(u64, u64, i64, i64); 2];

// === impl TlsSource ===

impl TlsSource {
    /// Reads the pair.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let seen = look(files);
        let shown = Arc::new(Shown(ArcSwap::from_pointee(read_pair(files)?)));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            // Cannot fail: the provider is complete. A rustls::Error here is reported as any other.
            .map_err(|source| unusable(files, source))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { files: files.clone(), shown, config: Arc::new(config), seen: Mutex::new(seen) })
    }

    /// What connections are accepted with; shows the present certificate at each handshake.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Reads the pair again, whether it looks changed or not. Connections that are open keep theirs.
    ///
    /// # Errors
    /// See [`TlsError`]; the old pair is shown further.
    pub fn reload(&self) -> Result<(), TlsError> {
        // Looked at before reading: a change in between is then found by the next look.
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = look(&self.files);
        self.shown.0.store(Arc::new(read_pair(&self.files)?));
        Ok(())
    }

    /// Reads the pair again if a file looks changed since the last time. True when a new pair is shown.
    ///
    /// # Errors
    /// See [`TlsError`]; the old pair is shown further, and files that do not change are not complained about again.
    pub fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let changed = *self.seen.lock().unwrap_or_else(PoisonError::into_inner) != look(&self.files);
        if changed {
            self.reload()?;
        }
        Ok(changed)
    }

    /// Looks at the files every `every` (see [`LOOK_EVERY`]), for ever.
    pub async fn watch(self: Arc<Self>, every: Duration) {
        let mut looks = interval(every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let source = Arc::clone(&self);
            // Files may lie on a disk that is slow or gone.
            let look = tokio::task::spawn_blocking(move || source.reload_if_changed());
            let path = self.files.certificate.display();
            match look.await {
                Ok(Ok(true)) => tracing::info!(certificate = %path, "new certificate"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the changed certificate is not used, the old one stays"),
                Err(error) => tracing::error!(%error, certificate = %path, "looking at the certificate failed"),
            }
        }
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn look(files: &TlsFiles) -> Option<Look> {
    let one = |path: &Path| {
        let meta = fs::metadata(path).ok()?;
        Some((meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec()))
    };
    Some([one(&files.certificate)?, one(&files.key)?])
}

fn read_pair(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let not_pem = |path: &Path, what, source| TlsError::NotPem { path: path.to_owned(), what, source };
    let chain = read(&files.certificate)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .and_then(|chain: Vec<_>| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
        .map_err(|source| not_pem(&files.certificate, "certificate", source))?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
        .map_err(|source| not_pem(&files.key, "private key", source))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|source| unusable(files, source))
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
        source.shown.0.load().cert[0].to_vec()
    }

    fn der(pair: &(String, String)) -> Vec<u8> {
        CertificateDer::from_pem_slice(pair.0.as_bytes()).expect("a certificate").to_vec()
    }

    #[test]
    fn a_renewed_pair_is_shown() {
        let directory = Directory::new("renewed");
        let (old, new) = (issue(), issue());
        write(&directory.files(), &old);
        let source = TlsSource::load(&directory.files()).expect("sound files");
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
        let source = TlsSource::load(&files).expect("sound files");
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
        let source = TlsSource::load(&files).expect("sound files");
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
        let missing = TlsSource::load(&files).expect_err("a file is missing").to_string();
        assert!(missing.contains("chain.pem") && missing.contains("must exist"), "{missing}");
        let (good, other) = (issue(), issue());
        write(&files, &(good.0, other.1));
        let mixed = TlsSource::load(&files).expect_err("a key of another certificate").to_string();
        assert!(mixed.contains("key.pem") && mixed.contains("chain.pem") && mixed.contains("one issue"), "{mixed}");
        write(&files, &(String::new(), String::new()));
        assert!(matches!(TlsSource::load(&files), Err(TlsError::NotPem { .. })));
        let endless = TlsFiles { certificate: "/dev/zero".into(), key: files.key.clone() };
        assert!(matches!(TlsSource::load(&endless), Err(TlsError::TooLong { .. })));
    }

    #[tokio::test]
    async fn the_watch_finds_a_change() {
        let directory = Directory::new("watch");
        let new = issue();
        write(&directory.files(), &issue());
        let source = Arc::new(TlsSource::load(&directory.files()).expect("sound files"));
        let watch = tokio::spawn(Arc::clone(&source).watch(Duration::from_millis(2)));
        while shown(&source) != der(&new) {
            write(&directory.files(), &new);
            tokio::task::yield_now().await;
        }
        watch.abort();
    }
}
