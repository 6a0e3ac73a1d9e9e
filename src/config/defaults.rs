//! The defaults.
//!
//! Enters: nothing. Leaves: the `Default` of each struct of [`Config`]; no default is written anywhere else in the code
//! (`config.example.toml` repeats them for people, and a test compares). Must not touch: files, other rooms.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Backend, Client, Config, Drain, Handover, Limits, Log, LogFormat, Origins, Session, Trusted};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const WINDOW: u32 = 64 * 1024;

/// Without listeners and routes, which only the operator can name; so the default alone cannot run.
impl Default for Config {
    fn default() -> Self {
        Self {
            node: "n1".to_owned(),
            prefix: "/_underpass".to_owned(),
            selftest: false,
            workers: 0,
            memory: None,
            listeners: Vec::new(),
            routes: Vec::new(),
            hosts: Vec::new(),
            origins: Origins::default(),
            trusted: Trusted::default(),
            identity: ["x-client-cert-subject".to_owned(), "x-client-cert-fingerprint".to_owned()],
            limits: Limits::default(),
            session: Session::default(),
            client: Client::default(),
            backend: Backend::default(),
            admin: None,
            log: Log::default(),
            drain: Drain::default(),
            handover: Handover::default(),
        }
    }
}

/// Generous: thousands of people share the address of an office, and come back together after each failure of its network.
/// This machine is exempt, because a front on it need not be named as a trusted proxy.
impl Default for Limits {
    fn default() -> Self {
        let loopback: [IpNet; 2] = [
            Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
            Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
        ];
        Self {
            connections: 5000,
            sessions: 2500,
            handshakes: 256,
            opens: 200,
            requests: 5000,
            exempt: loopback.to_vec(),
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Self {
            max: 10_000,
            message: 16 * MIB,
            batch: 64 * KIB,
            body: 24 * MIB,
            buffer: 256 * KIB,
            replay: 256 * KIB,
            held: 64,
            queue: 256 * KIB,
            ack_bytes: 64 * KIB,
            heartbeat: Duration::from_secs(15),
            probe: Duration::from_millis(400),
            wait: Duration::from_secs(25),
            wait_max: Duration::from_secs(30),
            grace: Duration::from_secs(60),
            recycle: Duration::from_secs(55),
            pause: Duration::from_secs(30),
            close_wait: Duration::from_secs(5),
            busy: Duration::from_secs(10),
            nonce: Duration::from_secs(60),
            ended: Duration::from_secs(600),
            ended_max: 100_000,
            identity: false,
        }
    }
}

impl Default for Client {
    fn default() -> Self {
        Self {
            connections: 20_000,
            header_bytes: 16 * KIB,
            header_fields: 100,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(10),
            body: Duration::from_secs(30),
            body_rate: 32,
            write: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            streams: 128,
            stream_window: WINDOW,
            connection_window: 16 * WINDOW,
            tunnel_idle: Duration::ZERO,
        }
    }
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            handshake: Duration::from_secs(10),
            response: Duration::from_secs(60),
            ping: Duration::from_secs(30),
            pong: Duration::from_secs(20),
            idle: Duration::from_secs(4),
            max_age: Duration::from_secs(60),
            pool: 64,
            dials: 64,
            header_bytes: 64 * KIB,
            header_fields: 1000,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned(), requests: false }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), spread: Duration::from_secs(20), pre: Duration::from_secs(3) }
    }
}

impl Default for Handover {
    fn default() -> Self {
        Self { restart: true, socket: None, quiesce: Duration::from_secs(5), linger: Duration::from_secs(30) }
    }
}
