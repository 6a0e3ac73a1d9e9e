//! How a driver ends whose session goes to another process.
//!
//! Enters: the order to write it down. Leaves: a parcel for the successor, and the last words of a socket that was closing. Must
//! not touch: the session's state otherwise; whoever has it is the successor.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::super::moved::Freeze;
use super::Driver;
use crate::lifecycle::moving::{Kind, Parcel};
use crate::session::Close;
use crate::terms::Ending;
use crate::upstream::dial::Io;
use crate::upstream::socket::{Socket, SocketEvent};
use crate::upstream::wire::WireState;

impl Driver {
    /// Writes the session down and gives it to the successor. False while an order of the session is to be carried out first.
    pub(super) fn freeze(&mut self, order: &Freeze) -> bool {
        let bare = self.socket.as_ref().is_none_or(|socket| socket.io().is_bare());
        if !bare && order.pump.is_none() && self.session.is_open() {
            self.session.end(Close::clean(1012, "service restart"), Ending::Drained);
            order.ended.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let Some((mut session, facts)) = self.session.freeze() else { return false };
        let (wire, descriptor) = match self.socket.take() {
            Some(socket) if socket.is_open() => self.take_apart(socket, order).unzip(),
            closing => {
                self.socket = closing;
                (None, None)
            }
        };
        if wire.is_none() {
            // The closing handshake ends here; what the client is told of it does not depend on that.
            session.upstream_closed(self.session.now(), Close::lost());
        }
        let record = self.session.record(session, facts, wire, &self.registry.policies);
        let parcel = Parcel::new(Kind::Session, &record, descriptor.into_iter().collect());
        if self.registry.lifecycle.give(parcel).is_err() {
            tracing::warn!(session = self.session.id(), "a session was written down too late, and is lost");
        }
        self.registry.directory.remove(&self.session);
        true
    }

    /// The socket of an open backend, and what lies between it and the session.
    fn take_apart(&mut self, socket: Socket<Io>, order: &Freeze) -> Option<(WireState, OwnedFd)> {
        let standing = socket.standing();
        let (io, wire) = socket.into_parts()?;
        let descriptor = match &order.pump {
            Some(pump) if !io.is_bare() => pump(io, standing),
            _ => io.into_descriptor(),
        };
        match descriptor {
            Ok(descriptor) => Some((wire, descriptor)),
            Err(error) => {
                tracing::warn!(session = self.session.id(), %error, "the backend's socket cannot be given");
                None
            }
        }
    }

    /// Ready when the socket that stayed behind has said and heard its last word, or the time for it is over.
    pub(super) fn see_off(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(socket) = &mut self.socket else { return Poll::Ready(()) };
        let until = *self.closing.get_or_insert_with(|| Instant::now() + self.session.policy().close_wait);
        while let Poll::Ready(event) = socket.poll_next(cx) {
            if matches!(event, SocketEvent::Closed(_) | SocketEvent::Failed(_)) {
                let _ = socket.poll_flush(cx);
                return Poll::Ready(());
            }
        }
        let _ = socket.poll_flush(cx);
        self.timer.as_mut().reset(until);
        self.timer.as_mut().poll(cx)
    }
}
