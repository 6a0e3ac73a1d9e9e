//! The tunnel, with both ends in the hands of the test.

use std::os::fd::OwnedFd;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::given::NotThawed;
use super::*;
use crate::http::bare::Stream;
use crate::http::replay::Replay;
use crate::lifecycle::moving::{Kind, Parcel};
use crate::upstream::dial::Io;

const WRITE: Duration = Duration::from_secs(30);

/// A running tunnel.
struct Rig<S> {
    client: S,
    backend: S,
    drain: oneshot::Sender<()>,
    tunnel: JoinHandle<Spliced>,
}

fn run<S>([near, client]: [S; 2], [far, backend]: [S; 2], unread: [&'static [u8]; 2], idle: Option<Duration>) -> Rig<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (drain, asked) = oneshot::channel::<()>();
    let drained = async move {
        if asked.await.is_err() {
            std::future::pending::<()>().await;
        }
        Asked::Close
    };
    let [up, down] = unread;
    let mut tunnel = Tunnel::new((near, up), (far, down), true, TunnelLimits { idle, write: WRITE });
    let running = async move { tunnel.run(drained).await.expect("nobody asks it to move") };
    Rig { client, backend, drain, tunnel: tokio::spawn(running) }
}

fn in_memory(room: usize, idle: Option<Duration>) -> Rig<DuplexStream> {
    run(duplex(room).into(), duplex(room).into(), [b"", b""], idle)
}

async fn tcp_pair() -> [TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (near, far) = tokio::join!(listener.accept(), TcpStream::connect(address));
    [near.expect("accepted").0, far.expect("connected")]
}

async fn read(stream: &mut (impl AsyncRead + Unpin), count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.expect("the tunnel is open");
    bytes
}

async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("a clean end");
    bytes
}

/// A close frame for the client, as the tunnel makes it.
fn client_close(code: u16, reason: &str) -> Vec<u8> {
    close_frame(code, reason, None)
}

/// Reads a masked close frame and gives its payload.
async fn read_masked_close(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let head = read(stream, 6).await;
    assert_eq!((head[0], head[1] & 0x80), (0x88, 0x80));
    let payload = read(stream, usize::from(head[1] & 0x7F)).await;
    payload.iter().zip(head[2..].iter().cycle()).map(|(byte, key)| byte ^ key).collect()
}

#[tokio::test]
async fn bytes_pass_unchanged_both_ways_at_once_over_tcp() {
    let rig = run(tcp_pair().await, tcp_pair().await, [b"early up", b"early down"], None);
    // Frames of 64 KiB each way, more than all buffers together take.
    let frame = [&[0xC2, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &[0x5A; 65_536]].concat();
    let sent = frame.repeat(64);
    let both = |early: &'static [u8], stream: TcpStream| {
        let (expected, sent) = ([early, &sent].concat(), sent.clone());
        async move {
            let (mut reader, mut writer) = stream.into_split();
            let write = async {
                writer.write_all(&sent).await.expect("open");
                writer.shutdown().await.expect("open");
            };
            let ((), received) = tokio::join!(write, read_to_end(&mut reader));
            assert!(received == expected, "{} bytes differ from {}", received.len(), expected.len());
        }
    };
    tokio::join!(both(b"early down", rig.client), both(b"early up", rig.backend));
    let spliced = rig.tunnel.await.expect("no panic");
    assert_eq!((spliced.up, spliced.down), (8 + sent.len() as u64, 10 + sent.len() as u64));
    assert!(matches!(spliced.end, TunnelEnd::ClientClosed | TunnelEnd::BackendClosed));
}

#[tokio::test]
async fn the_end_of_one_direction_leaves_the_other_open() {
    let mut rig = in_memory(64, None);
    rig.client.write_all(b"bye").await.expect("open");
    rig.client.shutdown().await.expect("open");
    assert_eq!(read_to_end(&mut rig.backend).await, b"bye");
    for _ in 0..10 {
        rig.backend.write_all(&[7; 50]).await.expect("open");
        assert_eq!(read(&mut rig.client, 50).await, [7; 50]);
    }
    drop(rig.backend);
    assert_eq!(rig.tunnel.await.expect("no panic"), Spliced { up: 3, down: 500, end: TunnelEnd::ClientClosed });
}

#[tokio::test]
async fn a_reset_client_ends_the_tunnel() {
    let mut rig = run(tcp_pair().await, tcp_pair().await, [b"", b""], None);
    rig.client.write_all(b"x").await.expect("open");
    assert_eq!(read(&mut rig.backend, 1).await, b"x");
    rig.client.set_zero_linger().expect("a socket");
    drop(rig.client);
    let end = rig.tunnel.await.expect("no panic").end;
    assert_eq!(end, TunnelEnd::Failed(Side::Client, io::ErrorKind::ConnectionReset));
    assert_eq!(read_to_end(&mut rig.backend).await, b"");
}

#[tokio::test(start_paused = true)]
async fn drain_closes_both_sides_and_waits_for_their_close_frames() {
    let mut rig = in_memory(1024, None);
    let began = Instant::now();
    rig.drain.send(()).expect("the tunnel runs");
    assert_eq!(read(&mut rig.client, 19).await, client_close(1012, "service restart"));
    assert_eq!(read_masked_close(&mut rig.backend).await, b"\x03\xe9service restart");
    // What still comes before the answers is not passed on.
    rig.client.write_all(b"\x81\x81abcdx\x88\x82abcd\x62\x96").await.expect("open");
    rig.backend.write_all(b"\x81\x01x\x88\x02\x03\xe9").await.expect("open");
    assert_eq!(read_to_end(&mut rig.client).await, b"");
    assert_eq!(read_to_end(&mut rig.backend).await, b"");
    assert_eq!(rig.tunnel.await.expect("no panic"), Spliced { up: 0, down: 0, end: TunnelEnd::Drained });
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn drain_does_not_wait_for_ever() {
    let mut rig = in_memory(1024, None);
    let began = Instant::now();
    // A frame that never ends: no close frame may stand in it.
    rig.backend.write_all(b"\x82\x05ab").await.expect("open");
    assert_eq!(read(&mut rig.client, 4).await, b"\x82\x05ab");
    rig.drain.send(()).expect("the tunnel runs");
    assert_eq!(read_to_end(&mut rig.client).await, b"");
    assert_eq!(rig.tunnel.await.expect("no panic").end, TunnelEnd::Drained);
    assert_eq!(began.elapsed().as_secs(), CLOSE_WAIT.as_secs());
}

#[tokio::test]
async fn a_side_that_got_a_close_frame_gets_no_second_one() {
    let mut rig = in_memory(1024, None);
    rig.backend.write_all(b"\x88\x02\x03\xe8").await.expect("open");
    assert_eq!(read(&mut rig.client, 3).await, b"\x88\x02\x03");
    rig.drain.send(()).expect("the tunnel runs");
    assert_eq!(read_to_end(&mut rig.client).await, b"\xe8");
    assert_eq!(read_masked_close(&mut rig.backend).await, b"\x03\xe9service restart");
    rig.client.write_all(b"\x88\x82abcd\x62\x8a").await.expect("open");
    assert_eq!(rig.tunnel.await.expect("no panic").end, TunnelEnd::Drained);
}

#[tokio::test(start_paused = true)]
async fn an_idle_tunnel_is_closed_and_a_busy_one_is_not() {
    let mut rig = in_memory(1024, Some(Duration::from_secs(60)));
    let began = Instant::now();
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(59)).await;
        rig.client.write_all(b"\x8a\x80abcd").await.expect("open");
        read(&mut rig.backend, 6).await;
    }
    assert_eq!(read(&mut rig.client, 8).await, client_close(1001, "idle"));
    assert_eq!(began.elapsed().as_secs(), 590 + 60);
    drop((rig.client, rig.backend));
    assert_eq!(rig.tunnel.await.expect("no panic"), Spliced { up: 60, down: 0, end: TunnelEnd::Idle });
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_takes_nothing_ends_the_tunnel_and_a_slow_one_does_not() {
    let mut rig = in_memory(16, Some(Duration::from_secs(3600)));
    let began = Instant::now();
    let writer = tokio::spawn(async move { while rig.backend.write_all(&[0; 16]).await.is_ok() {} });
    for _ in 0..10 {
        tokio::time::sleep(WRITE - Duration::from_secs(1)).await;
        read(&mut rig.client, 1).await;
    }
    let end = rig.tunnel.await.expect("no panic").end;
    assert_eq!(end, TunnelEnd::Stalled(Side::Client));
    assert_eq!(began.elapsed().as_secs(), 290 + 30);
    writer.await.expect("it saw the end");
}

#[tokio::test]
async fn a_tunnel_is_small() {
    let ([client, _], [backend, _]) = (tcp_pair().await, tcp_pair().await);
    let limits = TunnelLimits { idle: None, write: WRITE };
    let size = size_of_val(&async move {
        Tunnel::new((client, &[]), (backend, &[]), true, limits).run(std::future::pending()).await
    });
    assert!(size <= 1024, "a tunnel takes {size} bytes");
}

/// Drains when `cut` bytes of the backend's `stream` have passed; gives what the client got.
async fn drained_at(stream: &[u8], cut: usize, room: usize) -> Vec<u8> {
    let Rig { mut client, mut backend, drain, tunnel } = in_memory(room, None);
    let (written, mut got) = tokio::join!(backend.write_all(&stream[..cut]), read(&mut client, cut));
    written.expect("open");
    drain.send(()).expect("the tunnel runs");
    let (mut from, mut to) = tokio::io::split(backend);
    let answer = async {
        to.write_all(&stream[cut..]).await.expect("read until the answer");
        read_masked_close(&mut from).await;
        to.write_all(b"\x88\x02\x03\xe9").await.expect("read until the answer");
    };
    let end = client_close(1012, "service restart");
    let hear = async {
        while !got.ends_with(&end) {
            got.extend(read(&mut client, 1).await);
        }
        client.write_all(b"\x88\x82abcd\x62\x96").await.expect("read until the answer");
        got.extend(read_to_end(&mut client).await);
    };
    tokio::join!(answer, hear);
    assert_eq!(tunnel.await.expect("no panic").end, TunnelEnd::Drained);
    got
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn drain_lands_at_the_next_boundary(
        lengths in prop::collection::vec(prop_oneof![0..20usize, 100..400usize], 1..8),
        place in any::<prop::sample::Index>(),
        room in prop_oneof![1..30usize, Just(100_000)],
    ) {
        let (mut stream, mut ends) = (Vec::new(), vec![0]);
        for length in lengths {
            if length < 126 {
                stream.extend([0xC1, length as u8]);
            } else {
                stream.extend([0xC1, 126, (length >> 8) as u8, length as u8]);
            }
            stream.resize(stream.len() + length, 0x55);
            ends.push(stream.len());
        }
        let cut = place.index(stream.len() + 1);
        let boundary = ends.into_iter().find(|end| *end >= cut).expect("the last end is the length");
        let expected = [&stream[..boundary], &client_close(1012, "service restart")].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        prop_assert_eq!(runtime.block_on(drained_at(&stream, cut, room)), expected);
    }
}

// === from one process to another ===

/// Frames of the backend: short ones, one with a long header, control frames between fragments, compressed ones.
fn frames() -> Vec<u8> {
    let long = [&[0xC2, 126, 0, 130][..], &[0x5A; 130]].concat();
    [&b"\x81\x02hi"[..], b"\x01\x01a", b"\x89\x00", b"\x80\x03bcd", &long, b"\xC1\x00"].concat()
}

/// The same, as a client sends them: masked with zeros.
fn masked_frames() -> Vec<u8> {
    let long = [&[0xC2, 0x80 | 126, 0, 130, 0, 0, 0, 0][..], &[0xA5; 130]].concat();
    let short = b"\x81\x82\0\0\0\0ho\x01\x81\0\0\0\0a\x89\x80\0\0\0\0\x80\x83\0\0\0\0bcd";
    [&short[..], &long, b"\xC1\x80\0\0\0\0"].concat()
}

const LIMITS: TunnelLimits = TunnelLimits { idle: None, write: WRITE };

/// A tunnel over real sockets, and both its peers.
fn over_sockets() -> (Tunnel<UnixStream, Io>, [UnixStream; 2]) {
    let ((near, client), (far, backend)) = (UnixStream::pair().expect("a pair"), UnixStream::pair().expect("a pair"));
    (Tunnel::new((near, &[]), (Io::Unix(far), &[]), true, LIMITS), [client, backend])
}

/// As the successor makes it of a parcel.
fn thawed(parcel: Parcel) -> Tunnel<UnixStream, Io> {
    let adopt = |socket: OwnedFd| match Stream::of(socket)? {
        Stream::Unix(stream) => Ok(stream),
        other @ Stream::Tcp(_) => panic!("not what was given: {other:?}"),
    };
    Tunnel::thaw(parcel, adopt, LIMITS).expect("a whole parcel")
}

/// Runs a tunnel until `done` is, then has it moved.
async fn moved_after(mut tunnel: Tunnel<UnixStream, Io>, done: impl Future<Output = ()>) -> Tunnel<UnixStream, Io> {
    let asked = async {
        done.await;
        Asked::Move
    };
    assert_eq!(tunnel.run(asked).await, None);
    assert!(tunnel.can_be_given());
    thawed(tunnel.freeze().expect("it can be given"))
}

async fn write(stream: &mut UnixStream, bytes: &[u8]) {
    stream.write_all(bytes).await.expect("the tunnel is open");
}

/// Moves a tunnel at `cut` of what either side sends, and closes it right behind that: what both sides have got in the end.
async fn moved_and_closed_at(up: &[u8], down: &[u8], cut: usize) -> [Vec<u8>; 2] {
    let (tunnel, [mut client, mut backend]) = over_sockets();
    let (up, down) = (up.split_at(cut.min(up.len())), down.split_at(cut.min(down.len())));
    let mut got = [Vec::new(), Vec::new()];
    let pass = async {
        write(&mut client, up.0).await;
        write(&mut backend, down.0).await;
        got = [read(&mut client, down.0.len()).await, read(&mut backend, up.0.len()).await];
    };
    let mut tunnel = moved_after(tunnel, pass).await;
    let running = async move { tunnel.run(std::future::ready(Asked::Close)).await.expect("it has closed") };
    let rest = async {
        for (stream, bytes, answer) in
            [(&mut client, up.1, &b"\x88\x80\0\0\0\0"[..]), (&mut backend, down.1, &b"\x88\x00"[..])]
        {
            // Where its frame has ended the tunnel reads on only for the answer.
            write(stream, &[bytes, answer].concat()).await;
        }
        got[0].extend(read_to_end(&mut client).await);
        got[1].extend(read_to_end(&mut backend).await);
    };
    let (spliced, ()) = tokio::join!(running, rest);
    assert_eq!(spliced.end, TunnelEnd::Drained);
    got
}

/// Everything up to the next end of a frame, as a tracker knows it.
fn up_to_boundary(stream: &[u8], cut: usize) -> &[u8] {
    let (mut tracker, mut end) = (FrameTracker::default(), 0);
    while end < cut {
        end += tracker.advance(&stream[end..]);
    }
    &stream[..end]
}

#[tokio::test]
async fn a_close_behind_a_move_lands_between_two_frames_wherever_it_was_cut() {
    let (up, down) = (masked_frames(), frames());
    for cut in 0..=up.len() {
        let [client, mut backend] = moved_and_closed_at(&up, &down, cut).await;
        let expected = up_to_boundary(&down, cut.min(down.len()));
        assert_eq!(client, [expected, &client_close(1012, "service restart")].concat(), "down, cut at {cut}");
        let close = backend.split_off(up_to_boundary(&up, cut).len());
        assert_eq!(backend, up_to_boundary(&up, cut), "up, cut at {cut}");
        assert_eq!((close[0], close.len()), (0x88, 2 + 4 + 2 + "service restart".len()), "up, cut at {cut}");
    }
}

#[tokio::test]
async fn a_tunnel_is_moved_again_and_again_and_counts_on() {
    let (up, down) = (masked_frames(), frames());
    let (mut tunnel, [mut client, mut backend]) = over_sockets();
    for at in 0..up.len().max(down.len()) {
        let (to_up, to_down) = (up.get(at..=at).unwrap_or_default(), down.get(at..=at).unwrap_or_default());
        let pass = async {
            write(&mut client, to_up).await;
            write(&mut backend, to_down).await;
            assert_eq!(read(&mut backend, to_up.len()).await, to_up);
            assert_eq!(read(&mut client, to_down.len()).await, to_down);
        };
        tunnel = moved_after(tunnel, pass).await;
    }
    drop((client, backend));
    let spliced = tunnel.run(std::future::pending()).await.expect("both have ended");
    assert_eq!((spliced.up, spliced.down), (up.len() as u64, down.len() as u64));
}

#[tokio::test]
async fn what_a_receiver_has_not_taken_goes_with_a_tunnel() {
    let sent: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    let (mut tunnel, [mut client, mut backend]) = over_sockets();
    let (mut from_client, mut to_tunnel) = client.split();
    let (mut from_tunnel, mut to_client) = backend.split();
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    let write = async {
        let (up, down) = tokio::join!(to_tunnel.write_all(&sent), to_client.write_all(&sent));
        up.and(down).expect("the tunnel is open");
    };
    let read = async {
        // It is read in pieces, and never all that is there.
        for _ in 0..30 {
            got_up.extend(read(&mut from_tunnel, 100_000).await);
            got_down.extend(read(&mut from_client, 100_000).await);
        }
    };
    let mut pending = 0;
    let carry = async {
        loop {
            let turns = tokio::task::coop::unconstrained(async {
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                Asked::Move
            });
            assert_eq!(tunnel.run(turns).await, None);
            let parcel = tunnel.freeze().expect("it can be given");
            pending = pending.max(parcel.record.len());
            tunnel = thawed(parcel);
        }
    };
    tokio::select! {
        biased;
        never = carry => never,
        _ = async { tokio::join!(write, read) } => {}
    }
    assert!(got_up == sent && got_down == sent);
    assert!(pending > 1024, "a tunnel never had anything pending: {pending}");
}

#[tokio::test]
async fn what_has_begun_to_end_or_is_more_than_a_socket_is_not_given() {
    let (mut tunnel, [mut client, mut backend]) = over_sockets();
    client.shutdown().await.expect("open");
    let asked = async {
        assert_eq!(read_to_end(&mut backend).await, b"");
        Asked::Move
    };
    assert_eq!(tunnel.run(asked).await, None);
    assert!(!tunnel.can_be_given() && tunnel.freeze().is_none());

    let (far, _backend) = UnixStream::pair().expect("a pair");
    let tunnel = Tunnel::new((duplex(8).0, &[]), (Io::Unix(far), &[]), true, LIMITS);
    assert!(!tunnel.can_be_given());
}

#[tokio::test]
async fn what_was_read_ahead_below_a_tunnel_goes_along_and_is_followed() {
    let ((near, mut client), (far, mut backend)) =
        (UnixStream::pair().expect("a pair"), UnixStream::pair().expect("a pair"));
    let mut near = Replay::new(near);
    near.put_back(b"\x81\x83abcd");
    let parcel = Tunnel::new((near, &[]), (Io::Unix(far), b"\x81\x02h"), true, LIMITS).freeze();
    let mut tunnel = thawed(parcel.expect("it can be given"));
    let running = async move { tunnel.run(std::future::ready(Asked::Close)).await.expect("it has closed") };
    let peers = async {
        write(&mut client, b"xyz\x88\x80\0\0\0\0").await;
        write(&mut backend, b"i\x88\x00").await;
        (read_to_end(&mut client).await, read_to_end(&mut backend).await)
    };
    let (spliced, (down, up)) = tokio::join!(running, peers);
    assert_eq!(down, [b"\x81\x02hi", &client_close(1012, "service restart")[..]].concat());
    assert!(up.starts_with(b"\x81\x83abcdxyz\x88"), "{up:?}");
    assert_eq!((spliced.up, spliced.down), (9, 4));
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_takes_its_idle_time_along() {
    let (near, _client) = UnixStream::pair().expect("a pair");
    let (far, _backend) = UnixStream::pair().expect("a pair");
    let limits = TunnelLimits { idle: Some(Duration::from_secs(60)), write: WRITE };
    let tunnel = Tunnel::new((near, &[]), (Io::Unix(far), &[]), false, limits);
    tokio::time::advance(Duration::from_secs(20)).await;
    let parcel = tunnel.freeze().expect("it can be given");
    let adopt = |socket: OwnedFd| UnixStream::from_std(socket.into());
    let mut tunnel = Tunnel::thaw(parcel, adopt, limits).expect("a whole parcel");
    let began = Instant::now();
    let spliced = tunnel.run(std::future::pending()).await.expect("nothing moves");
    // Without frames both ends are shut at once.
    assert_eq!((spliced.end, began.elapsed().as_secs()), (TunnelEnd::Idle, 40));
}

#[test]
fn what_is_no_tunnel_is_refused() {
    let parcel = Parcel::new(Kind::Tunnel, &7, Vec::new());
    let error = Tunnel::<UnixStream, _>::thaw(parcel, |_| unreachable!("it has no socket"), LIMITS).err();
    assert!(matches!(error, Some(NotThawed::Record(_))), "{error:?}");
    let mut tracker = FrameTracker::default();
    tracker.follow(&[0x81, 126, 1]);
    let bytes = rmp_serde::to_vec_named(&tracker).expect("plain data");
    assert_eq!(rmp_serde::from_slice::<FrameTracker>(&bytes).expect("its own"), tracker);
    let whole = rmp_serde::to_vec(&(serde_bytes_of(&[0x81, 1]), 0, false)).expect("plain data");
    assert!(rmp_serde::from_slice::<FrameTracker>(&whole).is_err(), "a whole header is no beginning");
}

fn serde_bytes_of(bytes: &[u8]) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(bytes)
}
