//! A running listener around a service of the test's choice, and raw bytes to throw at it. Must not touch: fixed ports.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use hyper::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower::service_fn;
use underpass::budget::Budget;
use underpass::config::{Address, Backend, Client, Config};
use underpass::http::body::Body;
use underpass::http::incoming::IncomingBody;
use underpass::lifecycle::moving::Parcel;
use underpass::lifecycle::sockets::{BoundListener, Sockets};
use underpass::lifecycle::{Lifecycle, What};
use underpass::limits::Limits;
use underpass::listener::adopt::{self, NotAdopted};
use underpass::listener::dialling::DialQueue;
use underpass::listener::given::ListenerRecord;
use underpass::listener::handler::{Latency, ResponseFuture, Route, Stack};
use underpass::listener::idle::Connections;
use underpass::listener::peer::ConnInfo;
use underpass::listener::tls::TlsSource;
use underpass::listener::{self, ListenerContext, Spoken};

/// Nothing here takes this long; a test that does has failed.
pub(crate) const FOREVER: Duration = Duration::from_secs(20);

/// The memory that all may take, in bytes.
pub(crate) const BUDGET: usize = 1024 * 1024;

/// Limits that no test meets by accident.
pub(crate) fn client() -> Client {
    Client {
        connections: 64,
        header_bytes: 16 * 1024,
        header_fields: 100,
        handshake: FOREVER,
        header: FOREVER,
        body: FOREVER,
        body_rate: 0,
        write: FOREVER,
        idle: FOREVER,
        streams: 128,
        stream_window: 64 * 1024,
        connection_window: 1024 * 1024,
        tunnel_idle: Duration::ZERO,
    }
}

/// A test's service: what answers, behind the connection's facts.
type Responder = Arc<dyn Fn(Request<IncomingBody>) -> ResponseFuture + Send + Sync>;

/// Says of every request how long its response may take, and lets the test see by which connection it came.
#[derive(Clone)]
struct Router(Latency, Arc<DialQueue>);

impl Route for Router {
    fn route(&self, request: &mut Request<IncomingBody>, conn: &ConnInfo) -> Latency {
        request.extensions_mut().insert(conn.clone());
        request.extensions_mut().insert(Arc::clone(&self.1));
        if request.headers().contains_key("upgrade") { Latency::UntilDialled } else { self.0 }
    }

    fn has_moved(&self, request: &Request<IncomingBody>) -> bool {
        request.uri().path() == "/moved"
    }
}

/// A listener under test.
pub(crate) struct Edge {
    pub(crate) at: Address,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) serving: JoinHandle<()>,
    /// Serves a further listening socket.
    pub(crate) serve: Box<dyn Fn(BoundListener) + Send + Sync>,
    /// Goes on with a connection that was given.
    pub(crate) adopt: Box<dyn Fn(Parcel) -> Result<(), NotAdopted> + Send + Sync>,
}

impl Edge {
    /// On TCP, port chosen by the system.
    pub(crate) fn tcp<H, F>(client: Client, tls: Option<Arc<TlsSource>>, handler: H) -> Self
    where
        H: Fn(Request<IncomingBody>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::run(&Address::Tcp(([127, 0, 0, 1], 0).into()), client, tls, handler)
    }

    /// On TCP, with every request carried in this way.
    pub(crate) fn carrying<H, F>(client: Client, latency: Latency, handler: H) -> Self
    where
        H: Fn(Request<IncomingBody>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start(&Address::Tcp(([127, 0, 0, 1], 0).into()), client, None, handler, latency)
    }

    /// Anywhere.
    pub(crate) fn run<H, F>(address: &Address, client: Client, tls: Option<Arc<TlsSource>>, handler: H) -> Self
    where
        H: Fn(Request<IncomingBody>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start(address, client, tls, handler, Latency::Short)
    }

    fn start<H, F>(address: &Address, client: Client, tls: Option<Arc<TlsSource>>, handler: H, latency: Latency) -> Self
    where
        H: Fn(Request<IncomingBody>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let bound = Sockets::none().bind(address).expect("a free address").pop().expect("one socket");
        let at = bound.local_addr().expect("a bound socket");
        let (lifecycle, permits) = (Lifecycle::new(), Arc::new(Semaphore::new(client.connections)));
        let respond: Responder = Arc::new(move |request| Box::pin(handler(request)));
        let service = service_fn(move |request| respond(request).map(Ok::<_, Infallible>));
        let (metrics, budget) = (Arc::default(), Arc::new(Budget::of(Some(BUDGET))));
        let queue = Arc::new(DialQueue::new(&Backend::default(), Arc::clone(&metrics)));
        let context = ListenerContext {
            handler: Stack { router: Router(latency, queue), service },
            client: Arc::new(client),
            trusted: Arc::default(),
            connections: Arc::new(Connections::new(Arc::clone(&permits))),
            budget: Arc::clone(&budget),
            limits: Arc::new(Limits::new(&Config::default(), Arc::clone(&metrics))),
            lifecycle: lifecycle.clone(),
            metrics,
        };
        let (spoken, record) = (Spoken { tls, ..Spoken::default() }, ListenerRecord::default());
        let context = Arc::new(context);
        let (further, given) = (Arc::clone(&context), Arc::clone(&context));
        let serve = Box::new(move |bound| {
            let guard = further.lifecycle.guard(What::Listener);
            drop(tokio::spawn(listener::serve(bound, record.clone(), Spoken::default(), Arc::clone(&further), guard)));
        });
        let adopt = Box::new(move |parcel| adopt::adopt(parcel, &given, true).map(drop));
        let record = ListenerRecord { address: address.to_string(), spread: false };
        let guard = lifecycle.guard(What::Listener);
        let serving = tokio::spawn(listener::serve(bound, record, spoken, context, guard));
        Self { at, lifecycle, permits, budget, serving, serve, adopt }
    }

    pub(crate) fn port(&self) -> SocketAddr {
        match &self.at {
            Address::Tcp(at) => *at,
            other => panic!("not TCP: {other:?}"),
        }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.port()).await.expect("somebody listens")
    }

    /// Sends `bytes` and returns everything that comes back until the server closes.
    pub(crate) async fn throw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The server may refuse, and close, before it has read all.
        let _ = stream.write_all(bytes).await;
        rest(&mut stream).await
    }
}

/// Everything until the other side closes, in whatever way.
pub(crate) async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut answer = Vec::new();
    let end = timeout(FOREVER, stream.read_to_end(&mut answer)).await;
    let _reset = end.expect("the server keeps the connection open");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads up to the end of a response's head and body, which must be `ok`.
pub(crate) async fn one_ok(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut answer = Vec::new();
    let read = async {
        while !answer.ends_with(b"\r\n\r\nok") {
            let byte = stream.read_u8().await;
            answer.push(byte.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&answer))));
        }
    };
    timeout(FOREVER, read).await.expect("no answer");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Answers `ok` to everything.
pub(crate) async fn ok(_request: Request<IncomingBody>) -> Response<Body> {
    Response::new(Body::full("ok"))
}
