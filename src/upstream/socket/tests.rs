//! The socket against a backend made of the same codec in the server's role, and against raw bytes.

use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tungstenite::Message as Raw;

use super::*;

const LIMIT: usize = 256 * 1024;

type TestSocket = Socket<DuplexStream>;

/// The other end.
struct Backend {
    wire: Wire<DuplexStream>,
    codec: WebSocketContext,
}

impl Backend {
    async fn send(&mut self, message: Raw) {
        self.codec.write(&mut self.wire.side(None), message).expect("the backend is open");
        self.flush().await;
    }

    async fn send_bytes(&mut self, bytes: &[u8]) {
        io::Write::write_all(&mut self.wire.side(None), bytes).expect("the wire accepts everything");
        self.flush().await;
    }

    async fn flush(&mut self) {
        poll_fn(|cx| self.wire.poll_flush(cx)).await.expect("the duplex is open");
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Raw, tungstenite::Error>> {
        match self.codec.read(&mut self.wire.side(Some(cx))) {
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            other => Poll::Ready(other),
        }
    }

    async fn read(&mut self) -> Result<Raw, tungstenite::Error> {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    fn is_waiting(&mut self) -> bool {
        self.poll_read(&mut Context::from_waker(std::task::Waker::noop())).is_pending()
    }

    async fn read_close(&mut self) -> Option<(u16, String)> {
        match self.read().await {
            Ok(Raw::Close(frame)) => frame.map(|frame| (frame.code.into(), frame.reason.to_string())),
            other => panic!("a close was expected, not {other:?}"),
        }
    }
}

fn pair(room: usize) -> (TestSocket, Backend) {
    let (near, far) = duplex(room);
    let config = WebSocketConfig::default().write_buffer_size(0);
    let codec = WebSocketContext::new(Role::Server, Some(config));
    (Socket::new(near, Bytes::new(), LIMIT), Backend { wire: Wire::new(far, Bytes::new()), codec })
}

async fn next(socket: &mut TestSocket) -> SocketEvent {
    poll_fn(|cx| socket.poll_next(cx)).await
}

async fn flush(socket: &mut TestSocket) {
    poll_fn(|cx| socket.poll_flush(cx)).await.expect("the duplex is open");
}

fn is_pending(socket: &mut TestSocket) -> bool {
    socket.poll_next(&mut Context::from_waker(std::task::Waker::noop())).is_pending()
}

#[tokio::test]
async fn messages_of_all_sizes_pass_both_ways() {
    let (mut socket, mut backend) = pair(1 << 20);
    for size in [0, 1, 125, 126, 255, 257, COPIED - 1, COPIED, 65_536, LIMIT] {
        let (text, binary) = ("x".repeat(size), vec![7; size]);
        backend.send(Raw::text(&text)).await;
        backend.send(Raw::binary(binary.clone())).await;
        let [text, binary] = [Message::text(text), Message::binary(binary)];
        for message in [text, binary] {
            assert_eq!(next(&mut socket).await, SocketEvent::Message(message.clone()));
            socket.send(&message).expect("open");
            flush(&mut socket).await;
            let back = backend.read().await.expect("a message");
            assert_eq!(back.is_text(), message.kind() == Kind::Text);
            assert_eq!(back.into_data(), message.payload());
        }
        assert!(is_pending(&mut socket));
        assert!(!socket.swollen, "large buffers were kept after {size} bytes");
    }
}

#[tokio::test]
async fn bytes_behind_the_response_come_first() {
    let (near, mut far) = duplex(64);
    let mut socket = Socket::new(near, Bytes::from_static(b"\x81\x03one\x81\x03t"), LIMIT);
    far.write_all(b"wo").await.expect("room");
    for text in ["one", "two"] {
        assert_eq!(next(&mut socket).await, SocketEvent::Message(Message::text(text)));
    }
}

#[tokio::test]
async fn pings_are_answered_and_pongs_told() {
    let (mut socket, mut backend) = pair(1024);
    backend.send(Raw::Ping("are you there".into())).await;
    assert!(is_pending(&mut socket));
    assert_eq!(backend.read().await.expect("a pong"), Raw::Pong("are you there".into()));
    socket.ping();
    flush(&mut socket).await;
    assert_eq!(backend.read().await.expect("a ping"), Raw::Ping(Bytes::new()));
    // The backend's codec answers when it goes on.
    assert!(backend.is_waiting());
    assert_eq!(next(&mut socket).await, SocketEvent::Pong);
}

#[tokio::test]
async fn the_backends_close_is_told_and_answered() {
    for (payload, expected, answer) in [
        (&b"\x88\x05\x0f\xa1bye"[..], Close::clean(4001, "bye"), Some((4001, "bye".to_owned()))),
        (b"\x88\x02\x03\xe8", Close::clean(1000, ""), Some((1000, String::new()))),
        (b"\x88\x00", Close::clean(1005, ""), None),
    ] {
        let (mut socket, mut backend) = pair(1024);
        backend.send_bytes(b"\x81\x04last").await;
        backend.send_bytes(payload).await;
        assert_eq!(next(&mut socket).await, SocketEvent::Message(Message::text("last")));
        assert_eq!(next(&mut socket).await, SocketEvent::Closed(expected));
        assert_eq!(socket.send(&Message::text("late")), Err(SendError::Closing));
        assert!(is_pending(&mut socket));
        assert_eq!(backend.read_close().await, answer);
    }
}

#[tokio::test]
async fn the_end_without_a_close_frame_is_lost() {
    let (mut socket, mut backend) = pair(1024);
    backend.send_bytes(b"\x81\x04half").await;
    backend.send_bytes(b"\x81\x04ha").await;
    drop(backend);
    assert_eq!(next(&mut socket).await, SocketEvent::Message(Message::text("half")));
    assert_eq!(next(&mut socket).await, SocketEvent::Failed(Close::lost()));
    assert!(is_pending(&mut socket));
}

#[tokio::test]
async fn a_backend_that_takes_no_more_is_still_read_to_its_end() {
    let (mut socket, mut backend) = pair(1024);
    socket.send(&Message::text("nobody reads this")).expect("open");
    backend.send_bytes(b"\x89\x00\x81\x04last\x89\x00\x88\x02\x03\xe8").await;
    drop(backend);
    assert!(poll_fn(|cx| socket.poll_flush(cx)).await.is_err());
    poll_fn(|cx| socket.poll_ready(cx)).await;
    assert_eq!(next(&mut socket).await, SocketEvent::Message(Message::text("last")));
    assert_eq!(next(&mut socket).await, SocketEvent::Closed(Close::clean(1000, "")));
}

#[tokio::test]
async fn after_our_close_the_backend_is_heard_until_its_own() {
    let (mut socket, mut backend) = pair(1024);
    socket.send(&Message::text("first")).expect("open");
    socket.close(4002, &"ä".repeat(100));
    socket.close(4003, "a second close changes nothing");
    assert_eq!(socket.send(&Message::text("late")), Err(SendError::Closing));
    flush(&mut socket).await;
    backend.send(Raw::text("still here")).await;
    assert_eq!(backend.read().await.expect("a message"), Raw::text("first"));
    assert_eq!(backend.read_close().await, Some((4002, "ä".repeat(61))));
    assert_eq!(next(&mut socket).await, SocketEvent::Message(Message::text("still here")));
    // The backend's codec answers when it goes on.
    assert!(backend.read().await.is_err());
    backend.flush().await;
    assert_eq!(next(&mut socket).await, SocketEvent::Closed(Close::clean(4002, "ä".repeat(61))));
    assert!(socket.into_parts().is_none());
}

#[tokio::test]
async fn codes_that_mean_no_code_are_never_sent() {
    for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        let (mut socket, mut backend) = pair(1024);
        socket.close(code, "no");
        flush(&mut socket).await;
        assert_eq!(backend.read_close().await, None, "code {code}");
    }
}

#[tokio::test]
async fn a_breach_of_the_protocol_is_named_and_answered() {
    for (bytes, code) in [
        (&b"\x81\x02\xc3\x28"[..], 1007),
        (b"\x88\x04\x03\xe8\xc3\x28", 1007),
        (b"\x83\x00", 1002),
        (b"\xc1\x00", 1002),
        (b"\x81\x80abcd", 1002),
        (b"\x80\x00", 1002),
    ] {
        let (mut socket, mut backend) = pair(1024);
        backend.send_bytes(bytes).await;
        let SocketEvent::Failed(close) = next(&mut socket).await else { panic!("{bytes:?} was taken") };
        assert_eq!((close.code, close.clean), (1006, false));
        assert!(close.reason.starts_with("The backend broke the WebSocket protocol: "), "{}", close.reason);
        assert!(close.reason.len() <= Close::MAX_REASON && is_pending(&mut socket));
        assert_eq!(backend.read_close().await, Some((code, String::new())));
    }
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_at_its_header() {
    for bytes in
        [&b"\x82\x7f\0\0\0\0\0\x04\0\x01"[..], &[&b"\x02\x01a\x80\x7f\0\0\0\0\0\x04\0\0"[..], &[0; LIMIT]].concat()]
    {
        let (mut socket, mut backend) = pair(1 << 20);
        backend.send_bytes(bytes).await;
        assert_eq!(next(&mut socket).await, SocketEvent::TooLarge);
        socket.close(1009, "message too large");
        flush(&mut socket).await;
        backend.send_bytes(&[0; 100]).await;
        assert!(is_pending(&mut socket), "the rest is thrown away, not parsed");
        assert_eq!(backend.read_close().await, Some((1009, "message too large".to_owned())));
        drop(backend);
        assert_eq!(next(&mut socket).await, SocketEvent::Failed(Close::lost()));
    }
    let (mut socket, _backend) = pair(64);
    let refused = socket.send(&Message::binary(vec![0; LIMIT + 1]));
    assert_eq!((refused, socket.unsent()), (Err(SendError::TooLarge { size: LIMIT + 1, limit: LIMIT }), 0));
}

#[tokio::test]
async fn ready_means_that_the_kernel_has_everything() {
    let (near, mut far) = duplex(10);
    let mut socket = Socket::new(near, Bytes::new(), LIMIT);
    socket.send(&Message::text("twelve bytes")).expect("open");
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(socket.poll_ready(&mut cx).is_pending());
    assert_eq!(socket.unsent(), 2 + 4 + 12 - 10);
    let mut taken = [0; 8];
    let ((), read) = tokio::join!(poll_fn(|cx| socket.poll_ready(cx)), far.read_exact(&mut taken));
    read.expect("eight bytes");
    assert_eq!(socket.unsent(), 0);
}

#[tokio::test]
async fn a_socket_taken_apart_goes_on_in_another() {
    let (mut socket, mut backend) = pair(1 << 20);
    backend.send_bytes(b"\x81\x03one\x01\x02tw\x89\x04ping\x80\x01o\x81\x05th").await;
    assert_eq!(next(&mut socket).await, SocketEvent::Message(Message::text("one")));
    socket.send(&Message::text("not flushed")).expect("open");
    let (io, state) = socket.into_parts().expect("open");
    assert_eq!((&state.unread[..4], state.unread.len()), (&b"\x01\x02tw"[..], 17));
    let mut socket = Socket::from_parts(io, state, LIMIT);
    backend.send_bytes(b"ree").await;
    assert_eq!(next(&mut socket).await, SocketEvent::Message(Message::text("two")));
    assert_eq!(next(&mut socket).await, SocketEvent::Message(Message::text("three")));
    assert!(is_pending(&mut socket));
    assert_eq!(backend.read().await.expect("a message"), Raw::text("not flushed"));
    assert_eq!(backend.read().await.expect("a pong"), Raw::Pong("ping".into()));
}

#[test]
fn a_socket_is_small() {
    let size = size_of::<Socket<tokio::net::TcpStream>>() + READ_BUFFER;
    assert!(size <= 1024, "an idle socket takes {size} bytes");
}

#[tokio::test]
async fn a_large_message_is_held_once_whoever_sends_it() {
    for masked in [false, true] {
        let (near, far) = duplex(1 << 20);
        let mut sender =
            if masked { Socket::new(far, Bytes::new(), LIMIT) } else { Socket::server(far, Bytes::new(), LIMIT) };
        let mut socket =
            if masked { Socket::server(near, Bytes::new(), LIMIT) } else { Socket::new(near, Bytes::new(), LIMIT) };
        for message in [Message::binary(vec![9; LIMIT]), Message::text("é".repeat(LIMIT / 2))] {
            sender.send(&message).expect("open");
            assert!((LIMIT..LIMIT + 20).contains(&sender.held()), "{} bytes to be sent", sender.held());
            flush(&mut sender).await;
            // In turns, so that it is seen how much is held on the way.
            let received = loop {
                socket.allow(10_000);
                match socket.poll_next(&mut Context::from_waker(std::task::Waker::noop())) {
                    Poll::Ready(event) => break event,
                    Poll::Pending => assert!(socket.held() <= LIMIT + 20, "{} bytes", socket.held()),
                }
            };
            assert_eq!(received, SocketEvent::Message(message));
            assert_eq!((socket.held(), sender.held()), (0, 0));
        }
        assert!(is_pending(&mut socket));
    }
}

#[tokio::test]
async fn a_masked_text_that_is_none_is_refused_however_large() {
    for size in [10, LARGE + 1] {
        let (near, mut far) = duplex(1 << 20);
        let mut socket = Socket::server(near, Bytes::new(), LIMIT);
        let mut bytes = Vec::new();
        crate::upstream::frame::put_message(&mut bytes, TEXT, &vec![0xff; size], Some([1, 2, 3, 4]));
        far.write_all(&bytes).await.expect("there is room");
        let SocketEvent::Failed(close) = next(&mut socket).await else { panic!("not refused") };
        assert!(close.reason.contains("UTF-8"), "{}", close.reason);
    }
}

#[tokio::test]
async fn an_abandoned_socket_holds_nothing_of_what_it_read_and_says_goodbye() {
    let (mut socket, mut backend) = pair(1 << 20);
    // Half of a large frame.
    backend.send_bytes(&[&[0x82, 127, 0, 0, 0, 0, 0, 2, 0, 0][..], &[5; 70_000]].concat()).await;
    assert!(is_pending(&mut socket));
    assert!(socket.held() > 70_000);
    socket.close(1013, "why");
    socket.abandon();
    flush(&mut socket).await;
    assert_eq!(socket.held(), 0);
    assert_eq!(backend.read_close().await, Some((1013, "why".to_owned())));
    backend.send_bytes(&[5; 30_000]).await;
    assert!(is_pending(&mut socket));
    assert_eq!(socket.held(), 0);
    drop(backend);
    assert!(matches!(next(&mut socket).await, SocketEvent::Failed(_)));
}
