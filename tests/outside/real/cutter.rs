//! A line that breaks. Enters: connections for another address. Leaves: their bytes, until so many have gone down and all
//! connections break at once, wherever in an event that is. Must not touch: the bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// In front of one address.
pub(crate) struct Cutter {
    pub(crate) at: SocketAddr,
    line: Arc<Line>,
}

struct Line {
    /// Bytes that may still go down before the cut.
    left: AtomicUsize,
    /// How often it was cut.
    cuts: watch::Sender<usize>,
}

impl Cutter {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("an address");
        let line = Arc::new(Line { left: AtomicUsize::new(usize::MAX), cuts: watch::Sender::new(0) });
        let whole = Arc::clone(&line);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(target).await.expect("the target listens");
                tokio::spawn(Arc::clone(&whole).carry(client, server));
            }
        });
        Self { at, line }
    }

    /// Lets `bytes` more go down, then breaks everything that is open; what comes later is whole again.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.line.left.store(bytes, Ordering::SeqCst);
    }

    /// How often it was cut.
    pub(crate) fn cuts(&self) -> usize {
        *self.line.cuts.borrow()
    }
}

impl Line {
    async fn carry(self: Arc<Self>, mut client: TcpStream, mut server: TcpStream) {
        let mut cuts = self.cuts.subscribe();
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let down = async {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                let left = self.left.load(Ordering::SeqCst);
                if to_client.write_all(&buffer[..count.min(left)]).await.is_err() {
                    return;
                }
                if count >= left {
                    self.left.store(usize::MAX, Ordering::SeqCst);
                    self.cuts.send_modify(|cuts| *cuts += 1);
                    return;
                }
                if left != usize::MAX {
                    self.left.store(left - count, Ordering::SeqCst);
                }
            }
        };
        // The other halves go when this function returns: half-closed connections are no subject here.
        tokio::select! {
            () = down => {}
            _ = copy(&mut from_client, &mut to_server) => {}
            _ = cuts.changed() => {}
        }
    }
}
