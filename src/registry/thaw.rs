//! Sessions that another process has written down, or this one before a hand-over that failed: they live on here.
//!
//! Enters: records. Leaves: live sessions, and what is remembered of others. Must not touch: how parcels travel, clients.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::driver::Driver;
use super::live_session::LiveSession;
use super::owner::Owner;
use super::record::{EndedRecord, NonceRecord, OwnerRecord, SessionRecord};
use super::token::Token;
use super::{Opened, Registry};
use crate::config;
use crate::lifecycle::moving::{Kind, Parcel, Unreadable};
use crate::limits::Held;
use crate::session::Close;
use crate::terms::Ending;
use crate::upstream::dial::Io;
use crate::upstream::socket::Socket;

/// Why a parcel does not live on.
#[derive(Debug, thiserror::Error)]
pub enum ThawError {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("session {session}: the system does not take its backend's socket: {error}")]
    Socket { session: String, error: std::io::Error },
    #[error("a session without a token of this kind")]
    NoToken,
}

impl Registry {
    /// Lets a session live on, from its parcel. `place` is its place among the sessions of its client, if it has one. Must be
    /// called on the runtime that is to drive it.
    ///
    /// # Errors
    /// [`ThawError`]: the session is lost, and its backend's socket is closed.
    pub fn thaw_session(
        self: &Arc<Self>,
        mut parcel: Parcel,
        backend: Arc<config::Backend>,
        place: impl FnOnce(Option<IpAddr>) -> Option<Held>,
    ) -> Result<(), ThawError> {
        let mut record: SessionRecord = parcel.read()?;
        let policy = self.policies.unpack(&record.policy).map_err(|error| parcel.unreadable(&error))?;
        record.session = record.session.governed_by(self.limits.of(&policy));
        let token = Token::from_text(record.token).ok_or(ThawError::NoToken)?;
        let id = token.id().to_owned();
        let socket = match (record.wire, parcel.descriptors.pop()) {
            (None, _) => None,
            (Some(_), None) => {
                tracing::warn!(session = id, "a session came without its backend's socket, and ends");
                record.facts.ending.get_or_insert(Ending::BackendLost);
                record.session.upstream_closed(self.now(), Close::lost());
                None
            }
            (Some(wire), Some(descriptor)) => {
                let io = Io::from_descriptor(descriptor).map_err(|error| ThawError::Socket { session: id, error })?;
                Some(Socket::from_parts(io, wire, policy.message))
            }
        };
        let OwnerRecord { client, route, path, opened } = record.owner;
        let owner = Owner::since(client.parse().ok(), self.places.find(route.into(), &path), opened);
        let place = place(owner.address());
        let shared = (Arc::clone(&self.metrics), Arc::clone(&self.budget));
        let live = LiveSession::new(token, record.protocol, policy, record.session, self.epoch, shared, owner);
        live.recall(record.facts);
        let live = Arc::new(live);
        self.directory.restore(&live);
        // There may be more sessions than seats, if fewer are allowed now.
        let seat = self.seats.try_acquire().ok();
        tokio::spawn(Driver::new(Arc::clone(self), live, socket, backend, (seat, place)));
        Ok(())
    }

    /// Remembers what the predecessor did: ended sessions, and nonces, whose sessions are thawed already.
    ///
    /// # Errors
    /// [`ThawError`]: none of the record is remembered.
    pub fn thaw_remembered(&self, parcel: &Parcel) -> Result<(), ThawError> {
        if parcel.kind == Kind::Ended {
            let ended: Vec<EndedRecord> = parcel.read()?;
            ended.into_iter().for_each(|ended| self.directory.remember(ended));
            return Ok(());
        }
        let nonces: Vec<NonceRecord> = parcel.read()?;
        for NonceRecord { nonce, purpose, age, session, fields } in nonces {
            let Some(session) = self.directory.live(&session) else { continue };
            let mut opened = Opened { session, fields: HeaderMap::new() };
            for (name, value) in fields {
                if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                    opened.fields.append(name, value);
                }
            }
            self.nonces.recall(&nonce, purpose, age, opened);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
