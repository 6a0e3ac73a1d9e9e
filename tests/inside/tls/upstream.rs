//! Enters: certificates good and bad. Leaves: WebSockets over TLS, or errors that name the file. Must not touch: the
//! system's authorities.

use std::net::SocketAddr;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use underpass::config::{TlsFiles, UpstreamTls};
use underpass::upstream::dial::{DialError, Dialer};
use underpass::upstream::tls::UpstreamTlsError;

use super::{Authority, Pair};
use crate::support::scratch::Scratch;
use crate::upstream::dialing::{echo_once, round_trip};
use crate::upstream::support::{dialer, handshake, secured, settings};

/// A TLS backend that serves one WebSocket and returns the protocol that ALPN chose.
async fn backend(pair: &Pair, clients: Option<&Authority>) -> (SocketAddr, JoinHandle<std::io::Result<Vec<u8>>>) {
    let config = pair.server(clients, &["h2", "http/1.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let protocol = stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec();
        echo_once(stream).await;
        Ok(protocol)
    });
    (address, served)
}

#[tokio::test]
async fn a_private_authority_and_a_client_certificate() {
    let (scratch, servers, clients) = (Scratch::new("upstream"), Authority::new(), Authority::new());
    let ours = clients.issue("underpass");
    let tls = UpstreamTls {
        ca: Some(scratch.file("ca.pem", &servers.pem())),
        client: Some(TlsFiles {
            certificate: scratch.file("client.pem", &ours.certificate),
            key: scratch.file("client.key", &ours.key),
        }),
    };
    // Both kinds of name: the one that resolves and the address itself.
    for host in ["localhost", "127.0.0.1"] {
        let (address, served) = backend(&servers.issue(host), Some(&clients)).await;
        let dialer = dialer(&secured(host, address, tls.clone()));
        round_trip(dialer.upgrade(handshake(), None).await.expect("a WebSocket")).await;
        // HTTP/2 was on the server's list and not on ours.
        assert_eq!(served.await.expect("a calm backend").expect("TLS"), b"http/1.1");
    }
    let bare = UpstreamTls { client: None, ..tls };
    let (address, served) = backend(&servers.issue("localhost"), Some(&clients)).await;
    let refused =
        dialer(&secured("localhost", address, bare)).upgrade(handshake(), None).await.expect_err("no certificate");
    // With TLS 1.3 our side of the handshake is over before the server has looked for our certificate.
    assert!(matches!(refused, DialError::Tls { .. } | DialError::Dropped { .. }), "{refused:?}");
    assert!(served.await.expect("a calm backend").is_err());
}

#[tokio::test]
async fn a_certificate_of_another_name_or_authority_is_refused() {
    let (scratch, ours, theirs) = (Scratch::new("upstream"), Authority::new(), Authority::new());
    let ca = scratch.file("ca.pem", &ours.pem());
    for pair in [ours.issue("other.example"), ours.issue("127.0.0.2"), theirs.issue("127.0.0.1")] {
        let (address, served) = backend(&pair, None).await;
        let tls = UpstreamTls { ca: Some(ca.clone()), client: None };
        let error =
            dialer(&secured("127.0.0.1", address, tls)).upgrade(handshake(), None).await.expect_err("a refusal");
        assert!(matches!(error, DialError::Tls { .. }), "{error:?}");
        assert!(error.to_string().contains("certificate"), "{error}");
        assert!(served.await.expect("a calm backend").is_err());
    }
}

/// A self-signed certificate for these names, an authority's or not, with its end.
fn self_signed(name: &str, is_authority: bool, ends: i32) -> Pair {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.is_ca = if is_authority { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::NoCa };
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(ends, 1, 1);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    Pair { certificate: certificate.pem(), key: key.serialize_pem() }
}

#[tokio::test]
async fn a_self_signed_certificate_in_ca_is_accepted_for_its_name_and_time() {
    let scratch = Scratch::new("self");
    for is_authority in [false, true] {
        let pair = self_signed("localhost", is_authority, 2100);
        let tls = UpstreamTls { ca: Some(scratch.file("ca.pem", &pair.certificate)), client: None };
        let (address, served) = backend(&pair, None).await;
        let dialer = dialer(&secured("localhost", address, tls));
        round_trip(dialer.upgrade(handshake(), None).await.expect("a WebSocket")).await;
        served.await.expect("a calm backend").expect("TLS");
    }
}

#[tokio::test]
async fn tls_errors_say_what_is_wrong_and_what_to_do() {
    let (scratch, authority) = (Scratch::new("words"), Authority::new());
    let expired = self_signed("localhost", false, 2020);
    let other = self_signed("localhost", false, 2100);
    let own_authority = self_signed("localhost", true, 2100);
    for (pair, ca, words) in [
        (&authority.issue("a.example"), authority.pem(), "the certificate is for a.example, not localhost;"),
        (&self_signed("a.example", false, 2100), String::new(), "the certificate is for a.example, not localhost;"),
        (&expired, expired.certificate.clone(), "the certificate expired on Wed, 01 Jan 2020 00:00:00 GMT; renew it"),
        (&authority.issue("localhost"), other.certificate.clone(), "signed by an unknown authority: put"),
        (&other, authority.pem(), "signed by an unknown authority: put"),
        (&own_authority, authority.pem(), "into `ca`"),
        (&Authority::new().issue("localhost"), authority.pem(), "another authority of the same name: put"),
    ] {
        let ca = if ca.is_empty() { pair.certificate.clone() } else { ca };
        let tls = UpstreamTls { ca: Some(scratch.file("ca.pem", &ca)), client: None };
        let (address, served) = backend(pair, None).await;
        let error =
            dialer(&secured("localhost", address, tls)).upgrade(handshake(), None).await.expect_err("a refusal");
        assert!(matches!(error, DialError::Tls { .. }) && error.to_string().contains(words), "{words}: {error}");
        assert!(served.await.expect("a calm backend").is_err());
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let plain = listener.local_addr().expect("an address");
    let answering = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.read_u8().await.expect("a first byte");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("it is taken");
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let tls = UpstreamTls { ca: Some(scratch.file("ca.pem", &authority.pem())), client: None };
    let error =
        dialer(&secured("localhost", plain, tls)).upgrade(handshake(), None).await.expect_err("no TLS").to_string();
    assert!(error.contains("does not speak TLS"), "{error}");
    answering.await.expect("a calm backend");
}

#[test]
fn unusable_files_are_named() {
    let (scratch, authority) = (Scratch::new("upstream"), Authority::new());
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let failure = |host: &str, tls: UpstreamTls| {
        let outcome = Dialer::new(&secured(host, address, tls), &settings());
        outcome.map(drop).expect_err("an unusable file")
    };
    let with_ca = |path| UpstreamTls { ca: Some(path), client: None };
    let (first, second) = (authority.issue("a"), authority.issue("b"));
    let pair = |certificate: &str, key: &str| UpstreamTls {
        ca: Some(scratch.file("ca.pem", &authority.pem())),
        client: Some(TlsFiles { certificate: scratch.file("c.pem", certificate), key: scratch.file("c.key", key) }),
    };

    let missing = failure("localhost", with_ca(scratch.path("missing.pem")));
    assert!(matches!(missing, UpstreamTlsError::Unreadable { what: "ca", .. }), "{missing:?}");
    assert!(missing.to_string().contains("missing.pem"), "{missing}");
    let empty = failure("localhost", with_ca(scratch.file("empty.pem", "nothing here\n")));
    assert!(matches!(empty, UpstreamTlsError::Empty { .. }), "{empty:?}");
    let mixed = failure("localhost", pair(&first.certificate, &second.key));
    assert!(matches!(mixed, UpstreamTlsError::Client { .. }), "{mixed:?}");
    assert!(mixed.to_string().contains("c.key"), "{mixed}");
    let keyless = failure("localhost", pair(&first.certificate, "no key"));
    assert!(matches!(keyless, UpstreamTlsError::Unreadable { what: "client key", .. }), "{keyless:?}");
    let nameless = failure("not a name", with_ca(scratch.file("ca.pem", &authority.pem())));
    assert!(matches!(nameless, UpstreamTlsError::Name { .. }), "{nameless:?}");
}
