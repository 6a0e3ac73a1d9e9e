//! What a process gives to its successor: parcels, each a record and the descriptors that belong to it.
//!
//! Enters: what the rooms let go of while the process hands over. Leaves: the same, in the order in which it came. Must not
//! touch: what a record says; how parcels travel is the `handover` room's affair.
//!
//! A room that has given a parcel has nothing left of it: no bytes, no socket. Whoever holds the parcel last makes it live
//! again, the successor or, if that one fails, this process.

use std::cell::RefCell;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is kept to write records into, in bytes; arbitrary, some times as long as most are.
const USUAL: usize = 16 << 10;

thread_local! {
    /// Records are written here first: their length is not known before.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a parcel is. The numbers are the format's, and stay what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A socket that listens.
    Listener = 3,
    /// An open session, with its backend's socket.
    Session = 4,
    /// How a session ended that is remembered.
    Ended = 5,
    /// A nonce, and the session that it opened.
    Nonce = 6,
    /// A WebSocket that is passed through: the client's socket, then the backend's.
    Tunnel = 7,
    /// A client's connection between two requests.
    Connection = 8,
}

/// Something that was let go of.
#[derive(Debug)]
pub struct Parcel {
    pub kind: Kind,
    /// MessagePack with the names of fields, so that fields can be added: unknown ones are skipped.
    pub record: Bytes,
    /// At most two.
    pub descriptors: Vec<OwnedFd>,
}

/// A record is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("a record of kind {kind:?} cannot be read: {why}")]
pub struct Unreadable {
    kind: Kind,
    why: String,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Listener, Self::Session, Self::Ended, Self::Nonce, Self::Tunnel, Self::Connection];

    /// The kind of this number, if it is one.
    #[must_use]
    pub fn numbered(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// The word for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Session => "session",
            Self::Ended => "ended",
            Self::Nonce => "nonce",
            Self::Tunnel => "tunnel",
            Self::Connection => "connection",
        }
    }
}

impl Parcel {
    /// A record and its descriptors.
    ///
    /// # Panics
    /// When the record has something in it that MessagePack has no form for. Records are plain data, so none has.
    pub fn new(kind: Kind, record: &impl Serialize, descriptors: Vec<OwnedFd>) -> Self {
        Self { kind, record: pack(record).expect("a record is plain data"), descriptors }
    }

    /// What the record says.
    ///
    /// # Errors
    /// [`Unreadable`]: it is of another make, or cut.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Unreadable> {
        rmp_serde::from_slice(&self.record).map_err(|error| self.unreadable(&error))
    }

    /// That a part of the record cannot be read, for this reason.
    pub fn unreadable(&self, why: &impl ToString) -> Unreadable {
        Unreadable { kind: self.kind, why: why.to_string() }
    }
}

/// MessagePack with the names of fields, in memory of just its length: there are many of these at once.
///
/// # Errors
/// MessagePack has no form for something in it.
pub fn pack(value: &impl Serialize) -> Result<Bytes, rmp_serde::encode::Error> {
    SCRATCH.with_borrow_mut(|out| {
        out.clear();
        value.serialize(&mut rmp_serde::Serializer::new(&mut *out).with_struct_map())?;
        let packed = Bytes::copy_from_slice(out);
        // A large one does not keep its memory.
        out.shrink_to(USUAL);
        Ok(packed)
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Serialize)]
    struct Newer {
        port: u16,
        colour: &'static str,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Older {
        port: u16,
        #[serde(default)]
        name: String,
    }

    #[test]
    fn fields_may_come_and_go() {
        let parcel = Parcel::new(Kind::Listener, &Newer { port: 80, colour: "green" }, Vec::new());
        let read = parcel.read::<Older>().expect("`colour` is skipped, `name` has a default");
        assert_eq!(read, Older { port: 80, name: String::new() });
        let cut = Parcel { record: parcel.record.slice(..3), ..parcel };
        let error = cut.read::<Older>().expect_err("it is cut");
        assert!(error.to_string().contains("Listener"), "{error}");
    }

    #[test]
    fn a_kind_is_found_by_its_number() {
        for kind in Kind::ALL {
            assert_eq!(Kind::numbered(kind as u8), Some(kind));
        }
        assert_eq!(Kind::numbered(200), None);
    }
}
