//! Certificates of clients, several certificates of a listener, and their ends; from outside.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Authority, Pair};
use crate::support::plain::{Line, canned};
use crate::support::scratch::Scratch;
use crate::support::site::{Site, soon};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A client's side of TLS with this name, with a certificate perhaps; the leaf that the server shows.
async fn connect(
    at: SocketAddr,
    roots: RootCertStore,
    name: &str,
    shown: Option<&Pair>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("known versions").with_root_certificates(roots);
    let config = match shown {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("PEM")];
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    let socket = TcpStream::connect(at).await.expect("it listens");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    soon("TLS", TlsConnector::from(Arc::new(config)).connect(name, socket)).await
}

fn listener(scratch: &Scratch, names: &[(&str, &Pair)], more: &str) -> String {
    let file = |name: &str, text: &str| format!("\"{}\"", scratch.file(name, text).display());
    let list = |end: &str, of: fn(&Pair) -> &str| {
        let files = names.iter().map(|(name, pair)| file(&format!("{name}.{end}"), of(pair)));
        files.collect::<Vec<_>>().join(", ")
    };
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ncertificate = [{}]\nkey = [{}]\n{more}",
        list("pem", |pair| &pair.certificate),
        list("key", |pair| &pair.key)
    )
}

/// What the backend is told by a request with fields of the client's own making.
const FORGED: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nX-Client-Cert-Subject: CN=root\r\nx_client_cert_subject: CN=root\r\n\
                      X-Client-Cert-Fingerprint: 00\r\nConnection: X-Client-Cert-Subject, close\r\n\r\n";

#[tokio::test]
async fn a_clients_certificate_is_told_and_cannot_be_forged() {
    let (backend, mut asked) = canned(OK).await;
    let (scratch, servers, clients) = (Scratch::new("clients"), Authority::new(), Authority::new());
    let (server, anna, stranger) = (servers.issue("localhost"), clients.issue("anna"), Authority::new().issue("anna"));
    let ca = scratch.file("clients.pem", &clients.pem());
    for (auth, without) in [("required", false), ("optional", true)] {
        let keys = format!("client_ca = \"{}\"\nclient_auth = \"{auth}\"\n", ca.display());
        let site = Site::from_toml(&format!(
            "upstream = \"ws://{backend}\"\ntrusted_proxies = [\"127.0.0.1\"]\n{}[[listener]]\naddress = \"unix:{}\"\n",
            listener(&scratch, &[("site", &server)], &keys),
            scratch.path(auth).display()
        ));
        let mut line = Line(connect(site.at, servers.roots(), "localhost", Some(&anna)).await.expect("TLS"));
        line.say(FORGED).await;
        assert!(line.head().await.starts_with("http/1.1 200 "));
        let head = soon("a request", asked.recv()).await.expect("the backend lives").to_ascii_lowercase();
        assert!(head.contains("x-client-cert-subject: cn=rcgen self signed cert\r\n"), "{head}");
        let fingerprint = CertificateDer::from_pem_slice(anna.certificate.as_bytes()).expect("PEM");
        let fingerprint = underpass::certificate::fingerprint(&fingerprint);
        assert!(head.contains(&format!("x-client-cert-fingerprint: {fingerprint}\r\n")), "{head}");
        assert!(!head.contains("cn=root") && !head.contains(": 00\r\n"), "{head}");

        // With TLS 1.3 the client's side is over before its certificate is judged.
        let bad = connect(site.at, servers.roots(), "localhost", Some(&stranger)).await;
        assert!(refused(bad).await, "{auth}: a certificate of another authority");
        let none = connect(site.at, servers.roots(), "localhost", None).await;
        if !without {
            assert!(refused(none).await, "{auth}: no certificate");
            continue;
        }
        let mut line = Line(none.expect("TLS"));
        line.say(FORGED).await;
        assert!(line.head().await.starts_with("http/1.1 200 "));
        let head = soon("a request", asked.recv()).await.expect("the backend lives").to_ascii_lowercase();
        assert!(!head.contains("client-cert") && !head.contains("cn=root"), "{head}");
        // Nor by another listener of the same process.
        let socket = tokio::net::UnixStream::connect(scratch.path(auth)).await.expect("it listens");
        Line(socket).say(FORGED).await;
        let head = soon("a request", asked.recv()).await.expect("the backend lives").to_ascii_lowercase();
        assert!(!head.contains("client-cert") && !head.contains("cn=root"), "{head}");
    }
    assert!(asked.try_recv().is_err());
}

async fn refused(connected: std::io::Result<TlsStream<TcpStream>>) -> bool {
    let Ok(mut stream) = connected else { return true };
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let _ = stream.write_all(FORGED.as_bytes()).await;
    let mut read = Vec::new();
    soon("its end", stream.read_to_end(&mut read)).await.is_err() && read.is_empty()
}

#[tokio::test]
async fn the_certificate_whose_name_is_asked_for_is_shown() {
    let (backend, _asked) = canned(OK).await;
    let (scratch, authority) = (Scratch::new("names"), Authority::new());
    let pairs = ["localhost", "a.example", "*.b.example"].map(|name| authority.issue(name));
    let names: Vec<_> = ["one", "two", "three"].into_iter().zip(&pairs).collect();
    let more = listener(&scratch, &names, "");
    let site = Site::from_toml(&format!("upstream = \"ws://{backend}\"\nadmin = \"127.0.0.1:0\"\n{more}"));
    for name in ["localhost", "a.example", "x.b.example"] {
        connect(site.at, authority.roots(), name, None).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for name in ["b.example", "x.y.b.example", "other.example"] {
        let error = connect(site.at, authority.roots(), name, None).await.expect_err("the first is shown").to_string();
        assert!(error.contains("localhost"), "{name}: {error}");
    }
    let text = site.ask_admin("/metrics").await.text();
    let ends: Vec<_> =
        text.lines().filter(|line| line.starts_with("underpass_certificate_expiry_timestamp_seconds{")).collect();
    assert_eq!(ends.len(), 3, "{text}");
}
