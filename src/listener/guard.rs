//! The stream under every connection: counts bytes, fails a write that makes no progress, and keeps the connection's
//! permits for as long as the socket lives.
//!
//! Enters: any byte stream. Leaves: the same stream, guarded, and its [`Traffic`]. Must not touch: what the bytes mean.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::idle::Place;
use super::traffic::Traffic;
use crate::config::Client;
use crate::http::bare::{Bare, BareSocket};
use crate::lifecycle::Guard;
use crate::limits::Held;
use crate::metrics::Counted;

/// What a connection has for as long as its socket lives, upgraded or not.
#[derive(Debug)]
pub struct ConnPermits {
    /// The place among all that are allowed at once, where those that have nothing to do are found. `None` for one that was
    /// there before: it need not end for fewer being allowed now.
    pub place: Option<Place>,
    /// The place among those that its peer may have.
    pub held: Option<Held>,
    /// Tells the drain that the connection is alive.
    pub guard: Guard,
    /// The connection among those that are counted.
    pub counted: Counted,
}

/// A stream whose writes must make progress within a limit.
///
/// The limit runs while a write is pending, from the last byte that went out; with room in the kernel's send buffer
/// no timer is touched, and none is allocated before the first write that has to wait. There is no limit on reads here:
/// how long silence is right depends on what the reader waits for, so `conn` sees to it.
#[derive(Debug)]
pub struct Guarded<IO> {
    io: IO,
    traffic: Arc<Traffic>,
    /// Its `write` is the limit. Shared, since every connection has one.
    client: Arc<Client>,
    stall: Option<Pin<Box<Sleep>>>,
    stalled: bool,
    _permits: Option<ConnPermits>,
}

// === impl Guarded ===

impl<IO> Guarded<IO> {
    /// Guards `io`: a write fails with `TimedOut` when no byte went out for `client.write`. `permits` are dropped with the
    /// stream.
    pub fn new(io: IO, client: Arc<Client>, traffic: Arc<Traffic>, permits: Option<ConnPermits>) -> Self {
        Self { io, traffic, client, stall: None, stalled: false, _permits: permits }
    }

    /// Passes on how a write went, and makes a failure of one that has been waiting for too long.
    fn judge(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match write {
            Poll::Ready(Ok(written)) => {
                if std::mem::take(&mut self.stalled) {
                    self.traffic.set_blocked(false);
                }
                self.traffic.count_written(written);
                write
            }
            Poll::Ready(Err(_)) => write,
            Poll::Pending if self.has_stalled(cx) => {
                let what = format!("the client took no byte for {} s", self.client.write.as_secs_f32());
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn has_stalled(&mut self, cx: &mut Context<'_>) -> bool {
        let limit = self.client.write;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !self.stalled {
            stall.as_mut().reset(Instant::now() + limit);
            self.stalled = true;
            self.traffic.set_blocked(true);
        }
        stall.as_mut().poll(cx).is_ready()
    }
}

/// Its permits are let go of with the stream.
impl<IO: Bare> Bare for Guarded<IO> {
    fn is_bare(&self) -> bool {
        self.io.is_bare()
    }

    fn into_socket(self: Box<Self>) -> Option<BareSocket> {
        Box::new(self.io).into_socket()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guarded<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.traffic.count_read(buf.filled().len() - before);
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guarded<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.io).poll_write(cx, buf);
        self.judge(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.judge(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    // On sockets these two never wait, so they need no limit; TLS, which does wait, lies above and waits in `poll_write`.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::lifecycle::{Lifecycle, What};
    use crate::listener::idle::Connections;
    use crate::metrics::Metrics;

    const LIMIT: Duration = Duration::from_secs(30);

    fn guarded() -> (Guarded<DuplexStream>, DuplexStream, Arc<Traffic>) {
        let (near, far) = duplex(8);
        let traffic = Arc::new(Traffic::default());
        (Guarded::new(near, client(), Arc::clone(&traffic), None), far, traffic)
    }

    fn client() -> Arc<Client> {
        Arc::new(Client { write: LIMIT, ..Client::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_without_progress_fails() {
        let (mut near, _far, traffic) = guarded();
        let start = Instant::now();
        let error = near.write_all(&[0; 9]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), LIMIT);
        assert_eq!(traffic.written(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_that_makes_progress_is_served() {
        let (mut near, mut far, traffic) = guarded();
        let reader = tokio::spawn(async move {
            let mut byte = [0];
            for _ in 0..16 {
                sleep(LIMIT - Duration::from_secs(1)).await;
                far.read_exact(&mut byte).await.expect("the other end writes");
            }
            far
        });
        near.write_all(&[7; 24]).await.expect("the other end reads");
        assert_eq!(traffic.written(), 24);
        reader.await.expect("the task does not panic");
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_does_not_run_between_writes() {
        let (mut near, mut far, traffic) = guarded();
        let mut eight = [0; 8];
        near.write_all(&[1; 8]).await.expect("the other end reads");
        let stuck = tokio::time::timeout(Duration::from_secs(20), near.write_all(&[2; 8])).await;
        assert!(stuck.is_err());
        far.read_exact(&mut eight).await.expect("the other end writes");
        near.write_all(&[2; 8]).await.expect("the other end reads");
        sleep(LIMIT * 10).await;
        let stuck = tokio::time::timeout(Duration::from_secs(20), near.write_all(&[3; 8])).await;
        assert!(stuck.is_err(), "the limit begins anew with each wait");
        assert_eq!(traffic.written(), 16);
    }

    #[tokio::test]
    async fn reads_are_counted_and_the_permits_ends_with_the_stream() {
        let (near, mut far) = duplex(8);
        let (lifecycle, permits) = (Lifecycle::new(), Arc::new(Semaphore::new(1)));
        let connections = Arc::new(Connections::new(Arc::clone(&permits)));
        let traffic = Arc::new(Traffic::default());
        let permit = Arc::clone(&permits).try_acquire_owned().expect("a free permit");
        let permits_held = ConnPermits {
            place: Some(connections.enter(Arc::clone(&traffic), permit)),
            held: None,
            guard: lifecycle.guard(What::Connection),
            counted: Metrics::default().connection(),
        };
        let mut near = Guarded::new(near, client(), Arc::clone(&traffic), Some(permits_held));
        far.write_all(b"abc").await.expect("the other end reads");
        near.read_exact(&mut [0; 3]).await.expect("the other end writes");
        assert_eq!((traffic.read(), traffic.written()), (3, 0));
        assert_eq!((permits.available_permits(), lifecycle.alive().connections), (0, 1));
        drop(near);
        assert_eq!((permits.available_permits(), lifecycle.alive().connections), (1, 0));
    }
}
