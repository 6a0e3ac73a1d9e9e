//! How much one client may take: connections, sessions, handshakes, requests and opens, by its address.
//!
//! Enters: addresses, as far as they are believed. Leaves: places that are held until they are dropped, or [`Limited`], counted
//! and logged. Must not touch: what a client is answered.
//!
//! An address of IPv6 is one with all of its /64, which one customer has. Clients without an address (unix sockets), those in
//! `limits.exempt`, and for connections the trusted proxies, are not limited.
//!
//! Not `governor`: it has rates only, of places that are held nobody keeps count there, and its map of keys grows until somebody
//! sweeps it. What it would cost for a request is the same, one look into a map.

mod rate;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::time::Instant;

use self::rate::Rate;
use crate::config::{self, Config};
use crate::metrics::Metrics;
use crate::terms::Limit;

/// The map of addresses is in so many parts, each with its own lock.
const SHARDS: usize = 64;
/// Most addresses in a part. Beyond them nobody new is limited: the bounds of the process hold for all.
const MOST: usize = 1024;
/// A part is swept when an address comes to it, at most once in this time.
const SWEEP: u64 = 1_000_000_000;
/// An address is logged at most once in this time.
const LOG: u64 = 60_000_000_000;
/// When to come back where that depends on what others let go of.
const LATER: Duration = Duration::from_secs(5);

/// What each client takes at the moment.
pub struct Limits {
    rules: ArcSwap<Rules>,
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    epoch: Instant,
    metrics: Arc<Metrics>,
}

/// The configuration in force.
struct Rules {
    limits: config::Limits,
    /// Peers that speak for many.
    trusted: Vec<IpNet>,
}

#[derive(Default)]
struct Shard {
    clients: HashMap<IpAddr, Arc<Client>>,
    swept: u64,
}

/// What one client has and has used up.
#[derive(Debug, Default)]
struct Client {
    connections: AtomicU32,
    sessions: AtomicU32,
    handshakes: AtomicU32,
    opens: Rate,
    requests: Rate,
    /// When it was logged last, in nanoseconds; zero is never.
    logged: AtomicU64,
}

/// A place that a client holds until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub struct Held {
    client: Arc<Client>,
    limit: Limit,
}

/// A client has had all that it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Of what.
    pub limit: Limit,
    /// When to try again.
    pub after: Duration,
}

impl Limits {
    /// Nobody has anything yet.
    #[must_use]
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let rules = ArcSwap::from_pointee(Rules::of(config));
        Self { rules, shards, hasher: RandomState::new(), epoch: Instant::now(), metrics }
    }

    /// Follows a changed configuration. What is held stays.
    pub fn reload(&self, config: &Config) {
        self.rules.store(Arc::new(Rules::of(config)));
    }

    /// How many addresses are known, and how many may be.
    #[must_use]
    pub fn known(&self) -> (usize, usize) {
        ((0..SHARDS).map(|index| self.shard(index).clients.len()).sum(), SHARDS * MOST)
    }

    /// A connection of this peer, the socket's other end.
    ///
    /// # Errors
    /// [`Limited`], when it has `limits.connections`.
    pub fn connection(&self, peer: Option<IpAddr>) -> Result<Option<Held>, Limited> {
        let rules = self.rules.load();
        if peer.is_some_and(|peer| rules.trusted.iter().any(|network| network.contains(&peer))) {
            return Ok(None);
        }
        self.hold(peer, Limit::Connections, rules.limits.connections)
    }

    /// A session of this client.
    ///
    /// # Errors
    /// [`Limited`], when it has `limits.sessions`.
    pub fn session(&self, client: Option<IpAddr>) -> Result<Option<Held>, Limited> {
        self.hold(client, Limit::Sessions, self.rules.load().limits.sessions)
    }

    /// A handshake with a backend for this client.
    ///
    /// # Errors
    /// [`Limited`], when `limits.handshakes` of it are under way.
    pub fn handshake(&self, client: Option<IpAddr>) -> Result<Option<Held>, Limited> {
        self.hold(client, Limit::Handshakes, self.rules.load().limits.handshakes)
    }

    /// An open of this client.
    ///
    /// # Errors
    /// [`Limited`], when it was faster than `limits.opens`.
    pub fn open(&self, client: Option<IpAddr>) -> Result<(), Limited> {
        self.take(client, Limit::Opens, self.rules.load().limits.opens)
    }

    /// A request of this client.
    ///
    /// # Errors
    /// [`Limited`], when it was faster than `limits.requests`.
    pub fn request(&self, client: Option<IpAddr>) -> Result<(), Limited> {
        self.take(client, Limit::Requests, self.rules.load().limits.requests)
    }

    fn hold(&self, address: Option<IpAddr>, limit: Limit, most: u32) -> Result<Option<Held>, Limited> {
        let now = self.now();
        let Some((address, client)) = self.client(address, most, now) else { return Ok(None) };
        let count = client.count(limit);
        let room = |held: u32| (held < most).then_some(held + 1);
        if count.is_none_or(|count| count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()) {
            return Ok(Some(Held { client, limit }));
        }
        Err(self.refuse(address, &client, Limited { limit, after: LATER }, now))
    }

    fn take(&self, address: Option<IpAddr>, limit: Limit, most: u32) -> Result<(), Limited> {
        let now = self.now();
        let Some((address, client)) = self.client(address, most, now) else { return Ok(()) };
        let rate = if limit == Limit::Opens { &client.opens } else { &client.requests };
        let wait = |nanos| self.refuse(address, &client, Limited { limit, after: Duration::from_nanos(nanos) }, now);
        rate.take(now, most).map_err(wait)
    }

    /// Whoever is limited at this address; `None` for nobody.
    fn client(&self, address: Option<IpAddr>, most: u32, now: u64) -> Option<(IpAddr, Arc<Client>)> {
        let address = address.filter(|_| most > 0)?.to_canonical();
        if self.rules.load().limits.exempt.iter().any(|network| network.contains(&address)) {
            return None;
        }
        let address = network(address);
        let shard = (self.hasher.hash_one(address) % SHARDS as u64) as usize;
        let mut shard = self.shard(shard);
        if let Some(client) = shard.clients.get(&address) {
            return Some((address, Arc::clone(client)));
        }
        if now >= shard.swept + SWEEP {
            shard.sweep(now);
        }
        if shard.clients.len() >= MOST {
            return None;
        }
        let client = Arc::default();
        shard.clients.insert(address, Arc::clone(&client));
        Some((address, client))
    }

    fn refuse(&self, address: IpAddr, client: &Client, limited: Limited, now: u64) -> Limited {
        self.metrics.limited(limited.limit);
        let logged = client.logged.load(Ordering::Relaxed);
        // Never at zero, which is "never".
        let (now, is_due) = (now.max(1), logged == 0 || now >= logged + LOG);
        if is_due && client.logged.compare_exchange(logged, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::warn!(client = %address, limit = limited.limit.as_str(), "client limited");
        }
        limited
    }

    fn shard(&self, index: usize) -> MutexGuard<'_, Shard> {
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Rules {
    fn of(config: &Config) -> Self {
        Self { limits: config.limits.clone(), trusted: config.trusted.networks.clone() }
    }
}

impl Shard {
    /// Forgets those of whom there is nothing to know any more.
    fn sweep(&mut self, now: u64) {
        self.swept = now;
        // Nobody else has it: so it holds nothing, and nobody can come to have it while the part is locked.
        self.clients.retain(|_, client| Arc::strong_count(client) > 1 || !client.is_idle(now));
        self.clients.shrink_to(2 * self.clients.len());
    }
}

impl Client {
    fn count(&self, limit: Limit) -> Option<&AtomicU32> {
        match limit {
            Limit::Connections => Some(&self.connections),
            Limit::Sessions => Some(&self.sessions),
            Limit::Handshakes => Some(&self.handshakes),
            Limit::Opens | Limit::Requests => None,
        }
    }

    fn is_idle(&self, now: u64) -> bool {
        let logged = self.logged.load(Ordering::Relaxed);
        self.opens.is_unused(now) && self.requests.is_unused(now) && (logged == 0 || now >= logged + LOG)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(count) = self.client.count(self.limit) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What is one client: an address of IPv4, a /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(limits: config::Limits) -> Limits {
        Limits::new(&Config { limits, ..Config::default() }, Arc::default())
    }

    fn some(address: &str) -> Option<IpAddr> {
        Some(address.parse().expect("an address"))
    }

    fn known(limits: &Limits) -> usize {
        limits.known().0
    }

    #[test]
    fn places_are_held_by_address_until_they_are_dropped() {
        let limits = limits(config::Limits { sessions: 2, ..config::Limits::default() });
        let (here, there) = (some("192.0.2.1"), some("192.0.2.2"));
        let first = limits.session(here).expect("a place");
        let _second = limits.session(some("::ffff:192.0.2.1")).expect("a place");
        assert_eq!(limits.session(here).expect_err("no place").limit, Limit::Sessions);
        assert!(limits.session(there).is_ok() && limits.connection(here).is_ok() && limits.handshake(here).is_ok());
        drop(first);
        assert!(limits.session(here).is_ok());
    }

    #[test]
    fn a_64_of_ipv6_is_one_client() {
        let limits = limits(config::Limits { connections: 1, ..config::Limits::default() });
        let _held = limits.connection(some("2001:db8::1")).expect("a place");
        assert!(limits.connection(some("2001:db8::ffff:2")).is_err());
        assert!(limits.connection(some("2001:db8:0:1::1")).is_ok());
    }

    #[test]
    fn the_exempt_proxies_and_those_without_an_address_are_not_limited() {
        let all = config::Limits { connections: 1, sessions: 1, ..config::Limits::default() };
        let mut config = Config { limits: all, ..Config::default() };
        config.trusted.networks = vec!["10.0.0.0/8".parse().expect("a network")];
        config.limits.exempt.push("198.51.100.0/24".parse().expect("a network"));
        let limits = Limits::new(&config, Arc::default());
        for free in [None, some("127.0.0.1"), some("::1"), some("198.51.100.7")] {
            let held: Vec<_> = (0..5).map(|_| limits.session(free).expect("no limit")).collect();
            assert!(held.iter().all(Option::is_none), "{free:?}");
        }
        assert!((0..5).all(|_| limits.connection(some("10.0.0.1")).is_ok_and(|held| held.is_none())));
        let _session = limits.session(some("10.0.0.1")).expect("a place");
        assert!(limits.session(some("10.0.0.1")).is_err(), "a client with such an address is one");
        config.limits.sessions = 0;
        limits.reload(&config);
        assert!((0..5).all(|_| limits.session(some("192.0.2.1")).is_ok_and(|held| held.is_none())), "0 is no limit");
    }

    #[tokio::test(start_paused = true)]
    async fn rates_say_when_to_come_back_and_are_forgotten() {
        let limits = limits(config::Limits { opens: 2, ..config::Limits::default() });
        let here = some("192.0.2.1");
        assert_eq!((0..100).filter(|_| limits.open(here).is_ok()).count(), 20);
        assert_eq!(limits.open(here), Err(Limited { limit: Limit::Opens, after: Duration::from_millis(500) }));
        assert_eq!(limits.open(some("192.0.2.2")), Ok(()));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(limits.open(here), Ok(()));
        tokio::time::advance(Duration::from_secs(61)).await;
        for index in 0..SHARDS {
            limits.shard(index).sweep(limits.now());
        }
        assert_eq!(known(&limits), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_without_end_are_a_bounded_map_that_empties() {
        let limits = limits(config::Limits::default());
        let held = limits.session(some("192.0.2.1")).expect("a place");
        for number in 0..200_000u32 {
            let address = Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | (u128::from(number) << 64));
            assert_eq!(limits.request(Some(address.into())), Ok(()));
        }
        assert!(known(&limits) <= SHARDS * MOST, "{}", known(&limits));
        tokio::time::advance(Duration::from_secs(2)).await;
        for number in 0..1000u32 {
            let _ = limits.request(Some(IpAddr::from(number.to_be_bytes())));
        }
        assert!(known(&limits) <= 1001, "{}", known(&limits));
        drop(held);
    }
}
