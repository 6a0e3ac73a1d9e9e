//! A load as one descriptor, which can be stored or sent, and back.
//!
//! Enters: a [`Load`], or a [`Package`]. Leaves: the other. Must not touch: the sockets themselves; whoever packs keeps its own
//! descriptors of them, and they stay as they are.
//!
//! The descriptor is the receiving end of a pair of sequenced-packet sockets. In it wait: a message with the state, a sealed file in
//! memory, and then the descriptors of all items in the order of these, 250 to a message, which says the place of its first one
//! (u64, big-endian; the first of all is 0). So there is one thing to keep for a service manager that compares each new descriptor
//! with all it has, and what was unpacked once is empty: it cannot come back.
//!
//! Where too few descriptors are free, the system gives the first ones of a message and drops the others (recvmsg(2), `MSG_CTRUNC`).
//! Since each message says where it begins, what comes behind such a gap has its own place all the same.

use std::fs::File;
use std::io::{self, BufWriter, IoSlice, IoSliceMut, Read as _, Seek as _};
use std::iter::Peekable;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::vec;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};
use rustix::process::{Resource, getrlimit};

use super::format::{FormatError, HEAD, Item, StateReader, StateWriter, check_prelude, prelude};
use super::{Head, Load};
use crate::lifecycle::moving::{Kind, Parcel};

/// Descriptors in one message; Linux takes 253 (`SCM_MAX_FD`).
const IN_A_MESSAGE: usize = 250;
/// Asked for as the pair's buffer, in bytes; the system's limit (`net.core.wmem_max`) counts. A message takes 768 bytes
/// of it, so that even Linux's default of 208 KiB has room for 138,000 descriptors.
const BUFFER: usize = 4 << 20;
/// Descriptors that are left for the process itself when there are too many: log, epoll, a listener.
const SPARE: usize = 32;

/// How many there is room made for before it is known how many there are; arbitrary.
const EXPECTED: u64 = 32_000;

/// Everything that is handed over, as one descriptor. Whatever is in it lives as long as somebody has the descriptor.
#[derive(Debug)]
pub struct Package {
    receiving: OwnedFd,
    /// Of a package that was made here. It hangs up when nobody has the other end any more.
    sending: Option<OwnedFd>,
}

/// Why a load cannot be packed. Nothing has happened to it.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The pair's buffer is full.
    #[error("only {packed} of {all} descriptors fit into a socket's buffer: raise the sysctl net.core.wmem_max")]
    Full { packed: usize, all: usize },
    /// There may be as many on the way as one process may have (unix(7), `ETOOMANYREFS`).
    #[error("the system lets only {packed} of {all} descriptors pass: raise the limit of open files (LimitNOFILE=)")]
    TooMany { packed: usize, all: usize },
    #[error("the system refused: {0}")]
    Io(#[from] io::Error),
}

/// Why a package cannot be unpacked. All that was in it is let go of.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("there is nothing in it: it was unpacked before, or is no package of underpass")]
    Empty,
    #[error("the state: {0}")]
    State(#[from] FormatError),
    #[error("the state has no head that can be read")]
    NoHead,
    #[error("the system refused: {0}")]
    Io(#[from] io::Error),
}

impl Load {
    /// Packs copies of all descriptors. What must not be missing when there are too many for the successor comes first, by
    /// [`Kind`]. Takes no longer than copying takes.
    ///
    /// # Errors
    /// [`PackError`]; the load is as it was.
    pub fn pack(&self) -> Result<Package, PackError> {
        self.pack_into(BUFFER)
    }

    fn pack_into(&self, buffer: usize) -> Result<Package, PackError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (sending, receiving) = pair.map_err(io::Error::from)?;
        // The system may give less than it is asked for, which shows when the buffer is full.
        let _ = sockopt::set_socket_send_buffer_size(&sending, buffer);
        let mut parcels: Vec<_> = self.parcels.iter().collect();
        parcels.sort_by_key(|parcel| parcel.kind as u8);
        let state = self.write_state(&parcels)?;
        let all: Vec<_> = parcels.into_iter().flat_map(|parcel| &parcel.descriptors).map(AsFd::as_fd).collect();
        let refused = |error, packed| match error {
            Errno::AGAIN => PackError::Full { packed, all: all.len() },
            Errno::TOOMANYREFS => PackError::TooMany { packed, all: all.len() },
            other => PackError::Io(other.into()),
        };
        send(sending.as_fd(), &prelude(), &[state.as_fd()]).map_err(|error| refused(error, 0))?;
        for (sent, some) in all.chunks(IN_A_MESSAGE).enumerate() {
            let packed = sent * IN_A_MESSAGE;
            send(sending.as_fd(), &(packed as u64).to_be_bytes(), some).map_err(|error| refused(error, packed))?;
        }
        Ok(Package { receiving, sending: Some(sending) })
    }

    /// The state, in memory and for good.
    fn write_state(&self, parcels: &[&Parcel]) -> Result<File, PackError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("underpass-state", flags).map_err(io::Error::from)?);
        let mut writer = StateWriter::new(BufWriter::with_capacity(64 << 10, &file))?;
        let head = rmp_serde::to_vec_named(&self.head).map_err(io::Error::other)?;
        writer.item(HEAD, 0, &head)?;
        for Parcel { kind, record, descriptors } in parcels {
            writer.item(*kind as u8, descriptors.len(), record)?;
        }
        writer.end()?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        fcntl_add_seals(&file, seals).map_err(io::Error::from)?;
        Ok(file)
    }

    fn of(items: Vec<Item>, mut received: Received) -> Result<Self, UnpackError> {
        let (mut head, mut parcels, mut incomplete) = (None, Vec::with_capacity(items.len()), Vec::new());
        let mut place = 0;
        for Item { kind, descriptors, record } in items {
            let places = place..place + u64::from(descriptors);
            place = places.end;
            if kind == HEAD {
                head = rmp_serde::from_slice::<Head>(&record).ok();
            }
            // Of a kind that only a newer version has: it and its descriptors end here.
            let Some(kind) = Kind::numbered(kind) else { continue };
            match received.take(places) {
                Some(descriptors) => parcels.push(Parcel { kind, record, descriptors }),
                None => incomplete.push(Parcel { kind, record, descriptors: Vec::new() }),
            }
        }
        Ok(Self { head: head.ok_or(UnpackError::NoHead)?, parcels, incomplete })
    }
}

impl Package {
    /// Lets go of it. Of a package that was made here: what hangs up when nobody else has it either.
    pub(super) fn let_go(self) -> Option<OwnedFd> {
        self.sending
    }

    /// Takes everything out.
    ///
    /// # Errors
    /// [`UnpackError`]. Descriptors that are missing are none: see [`Load::incomplete`].
    pub fn unpack(self) -> Result<Load, UnpackError> {
        // Closed at the end, so that a process with too many descriptors can still open the files that it needs.
        let spare: Vec<_> = (0..SPARE).map_while(|_| self.receiving.try_clone().ok()).collect();
        let (bytes, state) = receive(self.receiving.as_fd())?.ok_or(UnpackError::Empty)?;
        check_prelude(bytes)?;
        let items = read_state(state.into_iter().next().ok_or(UnpackError::Empty)?.into())?;
        make_room(self.receiving.as_fd(), items.iter().map(|item| u64::from(item.descriptors)).sum());
        let load = Load::of(items, Received::all(self.receiving.as_fd())?);
        drop(spare);
        load
    }
}

impl From<OwnedFd> for Package {
    /// A package that came from elsewhere.
    fn from(receiving: OwnedFd) -> Self {
        Self { receiving, sending: None }
    }
}

impl AsFd for Package {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiving.as_fd()
    }
}

/// All of it at once. The records are parts of what was read.
fn read_state(mut file: File) -> Result<Vec<Item>, UnpackError> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(StateReader::new(bytes.into())?.collect::<Result<_, _>>()?)
}

/// Has the system make its table large enough for so many more descriptors, at once. By itself it doubles the table whenever that is
/// full, and in a process with several threads each time takes some 10 ms (it waits for all processors).
fn make_room(any: BorrowedFd<'_>, count: u64) {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let used = u64::try_from(any.as_raw_fd()).unwrap_or_default() + SPARE as u64;
    let highest = used.saturating_add(count).min(limit.saturating_sub(1));
    // The table stays as large when the copy is closed. If there is none, unpacking takes longer.
    let _ = RawFd::try_from(highest).map(|highest| fcntl_dupfd_cloexec(any, highest));
}

/// Makes room for the descriptors of a package, if one is on its way, as long as this process has one thread: later, that
/// would hold up those who wait for it. Takes a quarter of a MiB. For more than this, unpacking makes room.
pub fn make_room_early(comes: bool) {
    if comes {
        make_room(io::stderr().as_fd(), EXPECTED);
    }
}

/// Descriptors behind their places, in the order of these.
struct Received(Peekable<vec::IntoIter<(u64, OwnedFd)>>);

impl Received {
    /// All that still waits in the pair.
    fn all(from: BorrowedFd<'_>) -> io::Result<Self> {
        let mut all = Vec::new();
        while let Some((first, descriptors)) = receive(from)? {
            all.extend((u64::from_be_bytes(first)..=u64::MAX).zip(descriptors));
        }
        Ok(Self(all.into_iter().peekable()))
    }

    /// All of these places, or none. Those before them are let go of.
    fn take(&mut self, places: Range<u64>) -> Option<Vec<OwnedFd>> {
        while self.0.next_if(|(place, _)| *place < places.start).is_some() {}
        places.map(|wanted| self.0.next_if(|(place, _)| *place == wanted).map(|(_, descriptor)| descriptor)).collect()
    }
}

fn send(to: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(IN_A_MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(descriptors));
    sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message, if there is one: its first eight bytes, and those of its descriptors for which there is room.
fn receive(from: BorrowedFd<'_>) -> io::Result<Option<([u8; 8], Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(IN_A_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 8];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    match recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
        Ok(message) if message.bytes < bytes.len() => return Ok(None),
        Err(Errno::AGAIN) => return Ok(None),
        other => other?,
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(Some((bytes, descriptors)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn parcel(kind: Kind, record: &str, descriptors: Vec<OwnedFd>) -> Parcel {
        Parcel::new(kind, &record, descriptors)
    }

    fn load(parcels: Vec<Parcel>) -> Load {
        let head = Head { moment: 5, node: "n1".into(), program: "0.1.0".into(), ..Head::default() };
        Load { head, parcels, incomplete: Vec::new() }
    }

    /// A message with descriptors, behind the place of the first one.
    type Message<'a> = (u64, &'a [BorrowedFd<'a>]);

    /// Of a load, with the messages behind the state as they are told.
    fn packed_by_hand(load: &Load, messages: &[Message<'_>]) -> Package {
        let flags = SocketFlags::CLOEXEC;
        let (sending, receiving) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a pair");
        let file = load.write_state(&load.parcels.iter().collect::<Vec<_>>()).expect("memory");
        send(sending.as_fd(), &prelude(), &[file.as_fd()]).expect("there is room");
        for (first, descriptors) in messages {
            send(sending.as_fd(), &first.to_be_bytes(), descriptors).expect("there is room");
        }
        receiving.into()
    }

    /// A socket, and one to which is written what the other one reads.
    fn pair() -> (OwnedFd, UnixStream) {
        let (near, far) = UnixStream::pair().expect("a pair");
        far.set_nonblocking(true).expect("an open socket");
        (near.into(), far)
    }

    /// Whether the far end of `pair` is that of this descriptor.
    fn is_other_end(far: &mut UnixStream, near: &OwnedFd) -> bool {
        let copy = near.try_clone().expect("a spare descriptor");
        UnixStream::from(copy).write_all(b"x").expect("it was not shut down");
        far.read(&mut [0; 2]).is_ok_and(|read| read == 1)
    }

    #[test]
    fn a_load_comes_out_with_its_sockets_by_kind_and_stays_with_who_packed_it() {
        let [(last, mut last_end), (one, mut one_end), (two, mut two_end)] = [pair(), pair(), pair()];
        let before = load(vec![
            parcel(Kind::Connection, "last", vec![last]),
            parcel(Kind::Ended, "no descriptor", Vec::new()),
            parcel(Kind::Tunnel, "two", vec![one, two]),
        ]);
        let after = before.pack().map(|package| package.unpack().expect("a sound package")).expect("it is packed");
        assert_eq!((&after.head, after.incomplete.len()), (&before.head, 0));
        let [ended, tunnel, connection] = &after.parcels[..] else { panic!("{after:?}") };
        for (is, was) in [(ended, 1), (tunnel, 2), (connection, 0)] {
            let was = &before.parcels[was];
            assert_eq!((is.kind, &is.record, is.descriptors.len()), (was.kind, &was.record, was.descriptors.len()));
        }
        assert!(is_other_end(&mut last_end, &connection.descriptors[0]));
        assert!(is_other_end(&mut one_end, &tunnel.descriptors[0]));
        assert!(is_other_end(&mut two_end, &tunnel.descriptors[1]));
        drop(after);
        assert!(is_other_end(&mut last_end, &before.parcels[0].descriptors[0]), "it was not shut down");
    }

    #[test]
    fn what_lies_behind_a_gap_has_its_own_sockets() {
        let (sockets, mut ends): (Vec<_>, Vec<_>) = (0..6).map(|_| pair()).unzip();
        let [a, b, c, d, e, f] = <[OwnedFd; 6]>::try_from(sockets).expect("six");
        let before = load(vec![
            parcel(Kind::Session, "first", vec![a]),
            parcel(Kind::Tunnel, "misses its first", vec![b, c]),
            parcel(Kind::Tunnel, "misses its second", vec![d, e]),
            parcel(Kind::Connection, "last", vec![f]),
        ]);
        let of = |parcel: usize, place: usize| before.parcels[parcel].descriptors[place].as_fd();
        let package = packed_by_hand(&before, &[(0, &[of(0, 0)]), (2, &[of(1, 1), of(2, 0)]), (5, &[of(3, 0)])]);
        let after = package.unpack().expect("a sound package");
        let texts =
            |parcels: &[Parcel]| -> Vec<String> { parcels.iter().map(|one| one.read().expect("a text")).collect() };
        assert_eq!(texts(&after.parcels), ["first", "last"]);
        assert_eq!(texts(&after.incomplete), ["misses its first", "misses its second"]);
        assert!(after.incomplete.iter().all(|parcel| parcel.descriptors.is_empty()));
        assert!(is_other_end(&mut ends[0], &after.parcels[0].descriptors[0]));
        assert!(is_other_end(&mut ends[5], &after.parcels[1].descriptors[0]));
    }

    /// Each descriptor has one place, and what has none is nobody's.
    #[test]
    fn descriptors_in_the_wrong_places_belong_to_nobody() {
        let [(one, mut one_end), (two, _end)] = [pair(), pair()];
        let before = load(vec![parcel(Kind::Session, "a", vec![one]), parcel(Kind::Session, "b", vec![two])]);
        let [a, b] = [0, 1].map(|parcel| before.parcels[parcel].descriptors[0].as_fd());
        let package = packed_by_hand(&before, &[(0, &[a]), (0, &[b]), (u64::MAX, &[b, b])]);
        let after = package.unpack().expect("a sound package");
        assert_eq!((after.parcels.len(), after.incomplete.len()), (1, 1));
        assert!(is_other_end(&mut one_end, &after.parcels[0].descriptors[0]));
    }

    #[test]
    fn a_package_is_unpacked_once() {
        let package = load(Vec::new()).pack().expect("it is packed");
        let copy: Package = package.as_fd().try_clone_to_owned().expect("a spare descriptor").into();
        package.unpack().expect("the first time");
        assert!(matches!(copy.unpack(), Err(UnpackError::Empty)));
    }

    fn received(descriptors: Vec<(u64, OwnedFd)>) -> Received {
        Received(descriptors.into_iter().peekable())
    }

    fn items(state: Vec<u8>) -> Vec<Item> {
        StateReader::new(state.into()).expect("a state").collect::<Result<_, _>>().expect("a sound state")
    }

    #[test]
    fn kinds_of_a_newer_version_are_skipped_with_their_sockets() {
        let [(one, _one), (two, _two), (own, mut own_end)] = [pair(), pair(), pair()];
        let mut writer = StateWriter::new(Vec::new()).expect("memory");
        let head = rmp_serde::to_vec_named(&load(Vec::new()).head).expect("plain data");
        writer.item(HEAD, 0, &head).expect("memory");
        writer.item(77, 2, b"?").expect("memory");
        writer.item(Kind::Session as u8, 1, b"\xa1x").expect("memory");
        let state = items(writer.end().expect("memory"));
        let load = Load::of(state, received(vec![(0, one), (1, two), (2, own)])).expect("a sound state");
        assert_eq!((load.parcels.len(), load.incomplete.len(), load.head.moment), (1, 0, 5));
        assert!(is_other_end(&mut own_end, &load.parcels[0].descriptors[0]));
        let headless = StateWriter::new(Vec::new()).and_then(StateWriter::end).expect("memory");
        assert!(matches!(Load::of(items(headless), received(Vec::new())), Err(UnpackError::NoHead)));
    }

    #[test]
    fn room_is_made_at_once() {
        let (any, _end) = pair();
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        make_room(any.as_fd(), 10_000);
        let status = std::fs::read_to_string("/proc/self/status").expect("every process has one");
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")?.trim().parse::<u64>().ok());
        assert!(size >= Some(limit.min(10_000)), "{size:?}");
    }

    #[test]
    fn more_descriptors_than_fit_are_refused_and_stay() {
        let (one, mut two) = UnixStream::pair().expect("a pair");
        let copies = (0..4000).map(|_| one.try_clone().expect("a spare descriptor").into());
        let load = load(copies.map(|copy| parcel(Kind::Session, "one", vec![copy])).collect());
        let error = load.pack_into(1).expect_err("the kernel gives a few KiB");
        let fitted = matches!(error, PackError::Full { packed, all: 4000 } if packed > 0 && packed % IN_A_MESSAGE == 0);
        assert!(fitted, "{error}");
        drop(one);
        two.write_all(b"x").expect("the load still has the other end");
        load.pack().expect("it is packed");
    }
}
