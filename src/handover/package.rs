//! A load as one descriptor, which can be stored or sent, and back.
//!
//! Enters: a [`Load`], or a [`Package`]. Leaves: the other. Must not touch: the sockets themselves; whoever packs keeps its own
//! descriptors of them, and they stay as they are.
//!
//! The descriptor is the receiving end of a pair of sequenced-packet sockets. In it wait: a message with the state, a sealed file in
//! memory, and then the descriptors of all items, 250 to a message. So there is one thing to keep for a service manager that
//! compares each new descriptor with all it has, and what was unpacked once is empty: it cannot come back.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, IoSlice, IoSliceMut, Seek as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};

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
    #[error("a descriptor of a {} is no socket: {source}", kind.as_str())]
    NoSocket { kind: Kind, source: io::Error },
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
    /// Packs copies of all descriptors, the ones first that must not be missing when there are too many for the successor: in the
    /// order of [`Kind`]. Takes no longer than copying takes.
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
        let state = self.write_state()?;
        let mut parcels: Vec<_> = self.parcels.iter().filter(|parcel| !parcel.descriptors.is_empty()).collect();
        parcels.sort_by_key(|parcel| parcel.kind as u8);
        let all: Vec<_> = parcels.into_iter().flat_map(|parcel| &parcel.descriptors).map(AsFd::as_fd).collect();
        let refused = |error, packed| match error {
            Errno::AGAIN => PackError::Full { packed, all: all.len() },
            Errno::TOOMANYREFS => PackError::TooMany { packed, all: all.len() },
            other => PackError::Io(other.into()),
        };
        send(sending.as_fd(), &prelude(), &[state.as_fd()]).map_err(|error| refused(error, 0))?;
        for (sent, some) in all.chunks(IN_A_MESSAGE).enumerate() {
            let packed = sent * IN_A_MESSAGE;
            send(sending.as_fd(), &[0], some).map_err(|error| refused(error, packed))?;
        }
        Ok(Package { receiving, sending: Some(sending) })
    }

    /// The state, in memory and for good.
    fn write_state(&self) -> Result<File, PackError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("underpass-state", flags).map_err(io::Error::from)?);
        let mut writer = StateWriter::new(BufWriter::with_capacity(64 << 10, &file))?;
        let head = rmp_serde::to_vec_named(&self.head).map_err(io::Error::other)?;
        writer.item(HEAD, &[], &head)?;
        for Parcel { kind, record, descriptors } in &self.parcels {
            let cookies: io::Result<Vec<_>> = descriptors.iter().map(cookie).collect();
            let cookies = cookies.map_err(|source| PackError::NoSocket { kind: *kind, source })?;
            writer.item(*kind as u8, &cookies, record)?;
        }
        writer.end()?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        fcntl_add_seals(&file, seals).map_err(io::Error::from)?;
        Ok(file)
    }

    fn read(
        items: impl Iterator<Item = Result<Item, FormatError>>,
        sockets: &mut Sockets,
    ) -> Result<Self, UnpackError> {
        let (mut head, mut parcels, mut incomplete) = (None, Vec::new(), Vec::new());
        for item in items {
            let Item { kind, cookies, record } = item?;
            if kind == HEAD {
                head = rmp_serde::from_slice::<Head>(&record).ok();
            }
            // Of a kind that only a newer version has: it and its descriptors end here.
            let Some(kind) = Kind::numbered(kind) else { continue };
            match sockets.take(&cookies) {
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
        let state = state.into_iter().next().ok_or(UnpackError::Empty)?;
        let mut sockets = Sockets::receive(self.receiving.as_fd())?;
        let mut file = File::from(state);
        let size = file.metadata()?.len();
        file.rewind()?;
        let load = Load::read(StateReader::new(BufReader::with_capacity(64 << 10, file), size)?, &mut sockets);
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

/// Sockets by their cookies. Several descriptors of one socket are alike.
#[derive(Default)]
struct Sockets(HashMap<u64, Vec<OwnedFd>>);

impl Sockets {
    /// All that still waits in the pair.
    fn receive(from: BorrowedFd<'_>) -> io::Result<Self> {
        let mut sockets = Self::default();
        while let Some((_, descriptors)) = receive(from)? {
            for descriptor in descriptors {
                // What is no socket is nobody's.
                if let Ok(cookie) = cookie(&descriptor) {
                    sockets.0.entry(cookie).or_default().push(descriptor);
                }
            }
        }
        Ok(sockets)
    }

    /// All of them, or none.
    fn take(&mut self, cookies: &[u64]) -> Option<Vec<OwnedFd>> {
        cookies.iter().map(|cookie| self.0.get_mut(cookie)?.pop()).collect()
    }
}

/// By what a socket is recognised in another process.
fn cookie(descriptor: &OwnedFd) -> io::Result<u64> {
    Ok(sockopt::socket_cookie(descriptor)?)
}

fn send(to: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(IN_A_MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(descriptors));
    sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message, if there is one: as much of it as a prelude has, and those of its descriptors for which there is room.
fn receive(from: BorrowedFd<'_>) -> io::Result<Option<([u8; 8], Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(IN_A_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 8];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    match recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
        Ok(message) if message.bytes == 0 => return Ok(None),
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

    /// Of a load as `load` makes it, with the bundle's messages as they are told.
    fn packed_by_hand(state: &Load, descriptors: &[BorrowedFd<'_>]) -> Package {
        let flags = SocketFlags::CLOEXEC;
        let (sending, receiving) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a pair");
        let file = state.write_state().expect("memory");
        send(sending.as_fd(), &prelude(), &[file.as_fd()]).expect("there is room");
        send(sending.as_fd(), &[0], descriptors).expect("there is room");
        receiving.into()
    }

    #[test]
    fn a_load_comes_out_as_it_went_in_and_stays_with_who_packed_it() {
        let (mut here, there) = UnixStream::pair().expect("a pair");
        let (one, two) = UnixStream::pair().expect("a pair");
        let parcels = vec![
            parcel(Kind::Connection, "last", vec![there.into()]),
            parcel(Kind::Ended, "no descriptor", Vec::new()),
            parcel(Kind::Tunnel, "two", vec![one.into(), two.into()]),
        ];
        let before = load(parcels);
        let after = before.pack().map(|package| package.unpack().expect("a sound package")).expect("it is packed");
        assert_eq!((&after.head, after.incomplete.len()), (&before.head, 0));
        assert_eq!(after.parcels.len(), 3);
        for (was, is) in before.parcels.iter().zip(&after.parcels) {
            let cookies = |parcel: &Parcel| parcel.descriptors.iter().map(|d| cookie(d).expect("a socket")).collect();
            let (was_cookies, is_cookies): (Vec<_>, Vec<_>) = (cookies(was), cookies(is));
            assert_eq!((was.kind, &was.record, was_cookies), (is.kind, &is.record, is_cookies));
        }
        drop(after);
        let kept = before.parcels[0].descriptors[0].try_clone().expect("a spare descriptor");
        UnixStream::from(kept).write_all(b"still here").expect("it was not shut down");
        let mut heard = [0; 10];
        here.read_exact(&mut heard).expect("it was not shut down");
        assert_eq!(&heard, b"still here");
    }

    #[test]
    fn descriptors_of_one_socket_are_given_to_each_who_has_one() {
        let (one, _two) = UnixStream::pair().expect("a pair");
        let copy = || one.try_clone().expect("a spare descriptor").into();
        let before = load(vec![parcel(Kind::Listener, "a", vec![copy()]), parcel(Kind::Listener, "b", vec![copy()])]);
        let after = before.pack().expect("it is packed").unpack().expect("a sound package");
        assert_eq!((after.parcels.len(), after.incomplete.len()), (2, 0));
    }

    #[test]
    fn a_package_is_unpacked_once() {
        let package = load(Vec::new()).pack().expect("it is packed");
        let copy: Package = package.as_fd().try_clone_to_owned().expect("a spare descriptor").into();
        package.unpack().expect("the first time");
        assert!(matches!(copy.unpack(), Err(UnpackError::Empty)));
    }

    #[test]
    fn what_has_not_its_own_descriptors_is_named_and_the_rest_crosses() {
        let (one, two) = UnixStream::pair().expect("a pair");
        let (other, _end) = UnixStream::pair().expect("a pair");
        let before = load(vec![
            parcel(Kind::Session, "crosses", vec![one.into()]),
            parcel(Kind::Session, "has another's", vec![two.into()]),
        ]);
        let package = packed_by_hand(&before, &[before.parcels[0].descriptors[0].as_fd(), other.as_fd()]);
        let after = package.unpack().expect("a sound package");
        assert_eq!((after.parcels.len(), after.incomplete.len()), (1, 1));
        assert_eq!(after.incomplete[0].read::<String>().expect("a text"), "has another's");
    }

    #[test]
    fn kinds_of_a_newer_version_are_skipped() {
        let mut writer = StateWriter::new(Vec::new()).expect("memory");
        let head = rmp_serde::to_vec_named(&load(Vec::new()).head).expect("plain data");
        writer.item(HEAD, &[], &head).expect("memory");
        writer.item(77, &[1, 2], b"?").expect("memory");
        writer.item(Kind::Nonce as u8, &[], b"\xa1x").expect("memory");
        let bytes = writer.end().expect("memory");
        let reader = StateReader::new(bytes.as_slice(), bytes.len() as u64).expect("a sound state");
        let load = Load::read(reader, &mut Sockets::default()).expect("a sound state");
        assert_eq!((load.parcels.len(), load.incomplete.len(), load.head.moment), (1, 0, 5));
        let headless = StateWriter::new(Vec::new()).and_then(StateWriter::end).expect("memory");
        let reader = StateReader::new(headless.as_slice(), headless.len() as u64).expect("a sound state");
        assert!(matches!(Load::read(reader, &mut Sockets::default()), Err(UnpackError::NoHead)));
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

    #[test]
    fn what_is_no_socket_cannot_be_packed() {
        let file = File::open("/proc/self/exe").expect("a running program has a file");
        let error = load(vec![parcel(Kind::Tunnel, "a file", vec![file.into()])]).pack().expect_err("it is no socket");
        assert!(error.to_string().contains("of a tunnel"), "{error}");
    }
}
