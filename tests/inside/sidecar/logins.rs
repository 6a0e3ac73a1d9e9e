//! Logins that belong to a connection (NTLM, Negotiate): who has logged in is nobody else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;

use crate::support::plain::Line;
use crate::support::site::{Site, soon};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Like IIS with Windows authentication: behind three steps a connection has a user, and needs no more fields. Responses are
/// short or chunked, so that every way of reading them is taken.
async fn windows(chunked: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("an address");
    let alive = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&alive);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let alive = Arc::clone(&counted);
            alive.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                serve(Line(socket), chunked).await;
                alive.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (at, alive)
}

async fn serve(mut line: Line, chunked: bool) {
    let (mut is_asked, mut user) = (false, None);
    loop {
        let head = line.written_head().await;
        if !head.ends_with("\r\n\r\n") {
            return;
        }
        let said = head.lines().find_map(|line| line.strip_prefix("Authorization: ")).unwrap_or_default();
        let challenge = match said {
            "NTLM one" => {
                (is_asked, user) = (true, None);
                "NTLM two"
            }
            _ => "NTLM",
        };
        if let Some(name) = said.strip_prefix("NTLM three ").filter(|_| is_asked) {
            user = Some(name.to_owned());
        }
        let Some(user) = &user else {
            line.say(format!(
                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n"
            ))
            .await;
            continue;
        };
        if head.contains("Upgrade: websocket") {
            line.say(format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n{user}"
            ))
            .await;
            line.rest().await;
            return;
        }
        let body = if chunked {
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{user}\r\n0\r\n\r\n", user.len())
        } else {
            format!("Content-Length: {}\r\n\r\n{user}", user.len())
        };
        line.say(format!("HTTP/1.1 200 OK\r\n{body}")).await;
    }
}

/// The status of a request with this `Authorization`, and who the backend says it is.
async fn who(client: &mut Line, said: &str, upgrade: bool) -> String {
    let said = if said.is_empty() { String::new() } else { format!("Authorization: {said}\r\n") };
    let upgrade = if upgrade {
        format!(
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
        )
    } else {
        String::new()
    };
    client.say(format!("GET /who HTTP/1.1\r\nHost: a\r\n{said}{upgrade}\r\n")).await;
    let head = client.head().await;
    let status = head.split(' ').nth(1).expect("a status").to_owned();
    match status.as_str() {
        "200" if head.contains("chunked") => {
            format!("200 {}", client.until("0\r\n\r\n").await.lines().nth(1).expect("a name"))
        }
        "200" | "101" => format!("{status} {}", String::from_utf8(client.bytes(4).await).expect("a name")),
        _ => status,
    }
}

#[tokio::test]
async fn a_login_of_a_connection_is_its_clients_alone() {
    for chunked in [false, true] {
        let (at, alive) = windows(chunked).await;
        let site = Site::start(at, "");
        let (mut anna, mut ben) = (Line::to(site.at).await, Line::to(site.at).await);
        assert_eq!(who(&mut anna, "", false).await, "401");
        assert_eq!(who(&mut anna, "NTLM one", false).await, "401");
        assert_eq!(who(&mut ben, "", false).await, "401", "in the midst of another's steps");
        assert_eq!(who(&mut anna, "NTLM three anna", false).await, "200 anna");
        for _ in 0..3 {
            assert_eq!(who(&mut anna, "", false).await, "200 anna");
            assert_eq!(who(&mut ben, "", false).await, "401");
        }
        // Both at once, each for itself.
        assert_eq!(who(&mut ben, "NTLM one", false).await, "401");
        assert_eq!(who(&mut ben, "NTLM three bert", false).await, "200 bert");
        assert_eq!(who(&mut anna, "", false).await, "200 anna");
        // It ends with its client.
        drop((anna, ben));
        soon("the end of private connections", async {
            while alive.load(Ordering::SeqCst) > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(who(&mut Line::to(site.at).await, "", false).await, "401");
    }
}

#[tokio::test]
async fn a_handshake_in_several_steps_reaches_its_101() {
    let (at, _) = windows(false).await;
    let site = Site::start(at, "");
    let mut anna = Line::to(site.at).await;
    assert_eq!(who(&mut anna, "", true).await, "401");
    assert_eq!(who(&mut anna, "NTLM one", true).await, "401");
    assert_eq!(who(&mut anna, "NTLM three anna", true).await, "101 anna");
    // A page before, and the WebSocket on the same connection.
    let mut anna = Line::to(site.at).await;
    assert_eq!(who(&mut anna, "NTLM one", false).await, "401");
    assert_eq!(who(&mut anna, "NTLM three anna", false).await, "200 anna");
    assert_eq!(who(&mut anna, "", true).await, "101 anna");
}

#[tokio::test]
async fn behind_a_proxy_a_login_of_a_connection_is_nobodys() {
    let (at, _) = windows(false).await;
    let site = Site::start(at, "trusted_proxies = [\"127.0.0.1\"]\n");
    // Its connections carry the requests of many.
    let mut front = Line::to(site.at).await;
    assert_eq!(who(&mut front, "NTLM one", false).await, "401");
    assert_eq!(
        who(&mut front, "NTLM three anna", false).await,
        "401",
        "another connection, which knows of no first step"
    );
    assert_eq!(who(&mut front, "", false).await, "401");
}
