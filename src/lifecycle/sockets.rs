//! Where listening sockets come from: taken from the process before, bound here, or passed by systemd under a name.
//!
//! Enters: a checked [`Address`], the sockets in the environment (`LISTEN_FDS`), and those of a predecessor. Leaves: a [`BoundListener`], or an
//! error that says what to do. Must not touch: what is accepted from them.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::{fs, io};

use listenfd::ListenFd;
use socket2::{Domain, Socket, Type};
use tokio::net::UnixListener;

pub use super::bound::{BindError, BoundListener, SpareListener};
use super::bound::{PRIVATE_MODE, SOCKET_MODE, bind_tcp, bind_unix, explain};
use super::systemd::STORED;
use crate::config::Address;

/// Listening sockets: those passed by systemd, those of a predecessor, and new ones.
#[derive(Default)]
pub struct Sockets {
    /// Name and index of each passed socket that is not in use yet.
    passed: Vec<(String, usize)>,
    fds: Option<ListenFd>,
    /// What systemd has kept for us.
    stored: Option<OwnedFd>,
    /// What listens already, of the predecessor or [bound ahead](Sockets::bind_ahead), and the name under which it is asked for:
    /// its address in the configuration, but for [`Sockets::bind_as`].
    taken: Vec<(String, Socket)>,
}

// === impl Sockets ===

impl Sockets {
    /// Without any passed sockets.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Takes over what systemd passed, if anything, and removes `LISTEN_PID` and `LISTEN_FDS` from the environment.
    /// Must be called once, in `main`, before a runtime (and so another thread) is started.
    ///
    /// # Errors
    /// When the variables contradict each other.
    pub fn from_env() -> io::Result<Self> {
        let names: Vec<String> = sd_notify::listen_fds_with_names()?.map(|(_, name)| name).collect();
        if names.is_empty() {
            return Ok(Self::none());
        }
        let mut fds = ListenFd::from_env();
        let (stored, passed): (Vec<_>, Vec<_>) = names.into_iter().zip(0..).partition(|(name, _)| name == STORED);
        let kept = |&(_, index): &(String, usize)| {
            fds.take_custom(index, Domain::UNIX.into(), Type::SEQPACKET.into(), "package of a hand-over").ok()?
        };
        // There is never more than one: whoever stores it removes any other.
        let stored = stored.iter().find_map(kept);
        Ok(Self { passed, fds: Some(fds), stored, taken: Vec::new() })
    }

    /// Whether systemd has kept something for this process under the name [`STORED`].
    #[must_use]
    pub fn has_stored(&self) -> bool {
        self.stored.is_some()
    }

    /// What systemd has kept for this process under the name [`STORED`].
    pub fn stored(&mut self) -> Option<OwnedFd> {
        self.stored.take()
    }

    /// With listening sockets of a predecessor, each with the address that it had in the configuration. Those that
    /// are not bound to again are closed with this value.
    #[must_use]
    pub fn with_taken(mut self, taken: Vec<(String, OwnedFd)>) -> Self {
        for (address, descriptor) in taken {
            let socket = Socket::from(descriptor);
            // The workers of a process may all accept from one socket.
            let twin = |(_, known): &(_, Socket)| known.cookie().ok() == socket.cookie().ok();
            if !self.taken.iter().any(twin) {
                self.taken.push((address, socket));
            }
        }
        self
    }

    /// Listens at `address`. One socket, except that all sockets of one name are taken together (a socket unit may have
    /// several `ListenStream=` lines), and all that a predecessor had at this address (each of its workers may have a queue). Must
    /// be called on a runtime.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(&mut self, address: &Address) -> Result<Vec<BoundListener>, BindError> {
        self.bind_as(&address.to_string(), address)
    }

    /// The same, where the predecessor's sockets go by another name than their address: those of a listener that is not for
    /// everybody.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind_as(&mut self, name: &str, address: &Address) -> Result<Vec<BoundListener>, BindError> {
        let taken = self.take_over(name, address)?;
        match address {
            // The same ones, or newer: the socket unit may have changed.
            Address::Activated(name) if taken.is_empty() || self.passed.iter().any(|(passed, _)| passed == name) => {
                self.take(name)
            }
            _ if !taken.is_empty() => Ok(taken),
            Address::Tcp(at) => Ok(vec![bind_tcp(*at).map_err(|error| explain(at.to_string(), error))?]),
            Address::Unix(path) => Ok(vec![bind_unix(path, SOCKET_MODE)?]),
            Address::Activated(_) => Ok(taken),
        }
    }

    /// Listens at `address` now, for whoever asks for it under this name later: connections wait in the queue until then. For an
    /// address that no predecessor has. Must be called on a runtime.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind_ahead(&mut self, name: &str, address: &Address) -> Result<(), BindError> {
        // Several listeners may have port 0. The first one that asks gets all of a name.
        if self.taken.iter().any(|(of, _)| of == name) {
            return Ok(());
        }
        for bound in self.bind_as(name, address)? {
            let socket = bound.into_socket().map_err(|error| explain(address.to_string(), error))?;
            self.taken.push((name.to_owned(), socket.into()));
        }
        Ok(())
    }

    /// Listens at a unix socket to which only the owner may connect; with one of a predecessor, if there is one. Must be called on a
    /// runtime.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind_private(&mut self, path: &Path) -> Result<UnixListener, BindError> {
        let address = Address::Unix(path.to_owned());
        let taken = self.take_over(&address.to_string(), &address)?.pop();
        match taken.map_or_else(|| bind_unix(path, PRIVATE_MODE), Ok)? {
            BoundListener::Unix(listener) => Ok(listener),
            BoundListener::Tcp(_) => Err(BindError::NotASocket { path: path.to_owned() }),
        }
    }

    /// All that a predecessor had under this name, and that still listen at this address.
    fn take_over(&mut self, name: &str, address: &Address) -> Result<Vec<BoundListener>, BindError> {
        let (wanted, others): (Vec<_>, Vec<_>) = self.taken.drain(..).partition(|(of, _)| of == name);
        self.taken = others;
        let fitting = wanted.into_iter().filter(|(_, socket)| listens_at(socket, address));
        let adopted: io::Result<Vec<_>> = fitting.map(|(_, socket)| BoundListener::of(socket.into())).collect();
        adopted.map_err(|error| explain(address.to_string(), error))
    }

    /// Names that were passed but not used by [`Sockets::bind`]: probably an error in the configuration.
    pub fn untaken(&self) -> impl Iterator<Item = &str> {
        self.passed.iter().map(|(name, _)| name.as_str())
    }

    fn take(&mut self, name: &str) -> Result<Vec<BoundListener>, BindError> {
        let (wanted, others): (Vec<_>, Vec<_>) = self.passed.drain(..).partition(|(passed, _)| passed == name);
        self.passed = others;
        let Some(fds) = self.fds.as_mut().filter(|_| !wanted.is_empty()) else {
            let passed = self.untaken().map(str::to_owned).collect();
            return Err(BindError::NotPassed { name: name.to_owned(), passed });
        };
        let taken: io::Result<Vec<_>> = wanted.iter().map(|(_, index)| adopt(fds, *index)).collect();
        taken.map_err(|error| explain(format!("systemd:{name}"), error))
    }
}

fn adopt(fds: &mut ListenFd, index: usize) -> io::Result<BoundListener> {
    // A failed take does not remove the socket, so the other kind can be tried.
    if let Ok(Some(listener)) = fds.take_unix_listener(index) {
        return BoundListener::unix(listener);
    }
    match fds.take_tcp_listener(index)? {
        Some(listener) => BoundListener::tcp(listener),
        None => Err(io::Error::new(io::ErrorKind::NotFound, "the passed socket is already in use")),
    }
}

/// Whether it is a listening socket of this kind and place. One that was bound to port 0 has another port; a unix socket whose
/// file is gone can be reached by nobody.
fn listens_at(socket: &Socket, address: &Address) -> bool {
    let listens = socket.is_listener().unwrap_or(false) && socket.r#type().ok() == Some(Type::STREAM);
    let Some(local) = socket.local_addr().ok().filter(|_| listens) else { return false };
    match address {
        Address::Tcp(at) => {
            local.as_socket().is_some_and(|local| local.ip() == at.ip() && [0, local.port()].contains(&at.port()))
        }
        Address::Unix(path) => {
            let is_there = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
            is_there && local.as_pathname() == Some(path)
        }
        Address::Activated(_) => local.is_unix() || local.as_socket().is_some(),
    }
}

#[cfg(test)]
mod tests {
    //! Tests of `sockets`: real sockets in a temporary directory and on port 0. Must not touch: fixed ports.

    use std::io::Read;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("underpass-sockets-{name}-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    fn bind(address: &Address) -> Result<BoundListener, BindError> {
        Sockets::none().bind(address).map(|mut all| all.pop().expect("one address is one listener"))
    }

    /// A process that another test starts has copies of all our sockets between its fork and its exec, so that a socket just
    /// dropped may live a little longer.
    async fn bind_once_free(address: &Address) {
        let free = async {
            while let Err(error) = bind(address) {
                assert!(matches!(error, BindError::InUse { .. }), "{error}");
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), free).await.expect("the address is never free again");
    }

    #[tokio::test]
    async fn port_zero_is_told_and_a_second_bind_is_explained() {
        let first = bind(&Address::Tcp(([127, 0, 0, 1], 0).into())).expect("a free address");
        let at = first.local_addr().expect("a bound socket");
        assert!(matches!(at, Address::Tcp(at) if at.port() != 0));
        let error = bind(&at).expect_err("the port is taken");
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        drop(first);
        bind_once_free(&at).await;
    }

    #[tokio::test]
    async fn a_foreign_address_is_explained() {
        let error = bind(&Address::Tcp(([192, 0, 2, 1], 0).into())).expect_err("a foreign address");
        assert!(matches!(error, BindError::NotAvailable { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_unix_socket_is_for_owner_and_group() {
        let path = scratch("mode");
        let listener = bind(&Address::Unix(path.clone())).expect("a free address");
        assert_eq!(listener.local_addr().expect("a bound socket"), Address::Unix(path.clone()));
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, SOCKET_MODE);
        fs::remove_file(&path).expect("a writable temporary directory");
    }

    #[tokio::test]
    async fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let path = scratch("stale");
        let address = Address::Unix(path.clone());
        let live = bind(&address).expect("a free address");
        let error = bind(&address).expect_err("the socket is taken");
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        drop(live);
        bind_once_free(&address).await;
        fs::remove_file(&path).expect("a writable temporary directory");
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_left_alone() {
        let path = scratch("file");
        fs::write(&path, "precious").expect("a writable temporary directory");
        let error = bind(&Address::Unix(path.clone())).expect_err("a file is in the way");
        assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read(&path).expect("a readable file"), b"precious");
        fs::remove_file(&path).expect("a writable temporary directory");
    }

    #[tokio::test]
    async fn a_missing_directory_is_explained() {
        let error = bind(&Address::Unix("/nonexistent/underpass.sock".into())).expect_err("no such directory");
        assert!(error.to_string().contains("unix:/nonexistent/underpass.sock"), "{error}");
    }

    fn descriptor(listener: &BoundListener) -> OwnedFd {
        listener.copy().expect("a spare descriptor")
    }

    #[tokio::test]
    async fn sockets_of_a_predecessor_are_taken_all_and_each_once() {
        let address = Address::Tcp(([127, 0, 0, 1], 0).into());
        let first = bind(&address).expect("a free address");
        let local = first.local_addr().expect("a bound socket");
        let second = first.another(true).expect("a second queue").adopt().expect("a runtime");
        let taken = [&first, &first, &second].map(|listener| ("127.0.0.1:0".to_owned(), descriptor(listener)));
        let mut sockets = Sockets::none().with_taken(taken.into());
        let bound = sockets.bind(&address).expect("nothing to bind");
        let at: Vec<_> = bound.iter().map(|bound| bound.local_addr().expect("a bound socket")).collect();
        assert_eq!(at, [local.clone(), local.clone()]);
        let new = sockets.bind(&address).expect("a free address");
        assert_ne!(new[0].local_addr().expect("a bound socket"), local, "what was taken is taken");
    }

    #[tokio::test]
    async fn what_is_bound_ahead_is_had_once_and_beside_the_sockets_of_a_predecessor() {
        let any = Address::Tcp(([127, 0, 0, 1], 0).into());
        let old = bind(&any).expect("a free address");
        let at = old.local_addr().expect("a bound socket");
        let unix = Address::Unix(scratch("ahead"));
        let mut sockets = Sockets::none();
        for (name, address) in [("127.0.0.1:0", &any), ("127.0.0.1:0", &any), ("admin unix", &unix)] {
            sockets.bind_ahead(name, address).expect("a free address");
        }
        assert_eq!(sockets.taken.len(), 2, "the second at port 0 is bound when it asks");
        let error = sockets.bind_ahead("at the same port", &at).expect_err("the port is taken");
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        let mut sockets = sockets.with_taken(vec![(at.to_string(), descriptor(&old))]);
        let addresses = |bound: Vec<BoundListener>| -> Vec<Address> {
            bound.iter().map(|bound| bound.local_addr().expect("a bound socket")).collect()
        };
        assert_eq!(addresses(sockets.bind(&at).expect("it was taken")), std::slice::from_ref(&at));
        // A second time it could not be bound.
        assert_eq!(addresses(sockets.bind_as("admin unix", &unix).expect("it is there")), std::slice::from_ref(&unix));
        assert_eq!(sockets.bind(&any).expect("it is there").len(), 1);
        assert!(sockets.taken.is_empty());
        let Address::Unix(path) = unix else { unreachable!() };
        fs::remove_file(path).expect("it is there");
    }

    #[tokio::test]
    async fn what_does_not_listen_there_is_not_taken() {
        let path = scratch("taken");
        let unix = Address::Unix(path.clone());
        let tcp = bind(&Address::Tcp(([127, 0, 0, 1], 0).into())).expect("a free address");
        let no_listener = UnixStream::pair().expect("a pair").0.into();
        let taken = vec![(unix.to_string(), descriptor(&tcp)), (unix.to_string(), no_listener)];
        let mut sockets = Sockets::none().with_taken(taken);
        let [BoundListener::Unix(bound)] = &sockets.bind(&unix).expect("a free address")[..] else {
            panic!("its kind")
        };
        let taken =
            |address: &str| vec![(address.to_owned(), bound.as_fd().try_clone_to_owned().expect("a descriptor"))];
        let mut sockets = Sockets::none().with_taken(taken(&unix.to_string()));
        drop(sockets.bind_private(&path).expect("the same socket again"));
        fs::remove_file(&path).expect("it is there");
        let mut sockets = Sockets::none().with_taken(taken(&unix.to_string()));
        drop(sockets.bind_private(&path).expect("a new one: nobody can reach the old one"));
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, PRIVATE_MODE);
        fs::remove_file(&path).expect("it is there");
        let mut sockets = Sockets::none().with_taken(taken("systemd:front"));
        assert_eq!(sockets.bind(&Address::Activated("front".into())).expect("it was taken").len(), 1);
    }

    #[tokio::test]
    async fn an_unknown_name_lists_the_known_ones() {
        let passed = vec![("http".into(), 0)];
        let mut sockets = Sockets { passed, fds: Some(ListenFd::empty()), ..Sockets::none() };
        let error = sockets.bind(&Address::Activated("https".into())).expect_err("no such socket was passed");
        assert!(error.to_string().contains("`https`") && error.to_string().contains("passed: http)"), "{error}");
        assert_eq!(sockets.untaken().collect::<Vec<_>>(), ["http"]);
    }

    /// Run under `systemd-socket-activate` by [`a_passed_socket_is_taken_by_name`].
    #[test]
    fn child_serves_a_passed_socket() {
        if std::env::var_os("UNDERPASS_SOCKETS_CHILD").is_none() {
            return;
        }
        let mut sockets = Sockets::from_env().expect("sockets as systemd passes them");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listeners = sockets.bind(&Address::Activated("front".into())).expect("a socket of this name");
            let [BoundListener::Unix(listener)] = listeners.as_slice() else { panic!("{listeners:?}") };
            assert_eq!(sockets.untaken().count(), 0);
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.writable().await.expect("a live connection");
            stream.try_write(b"taken").expect("the other end reads");
        });
    }

    #[test]
    fn a_passed_socket_is_taken_by_name() {
        let path = scratch("passed");
        let child = Command::new("systemd-socket-activate")
            .args(["--fdname=front", "-E", "UNDERPASS_SOCKETS_CHILD=1", "-l"])
            .arg(&path)
            .arg(std::env::current_exe().expect("a running program has a file"))
            .args(["--exact", "lifecycle::sockets::tests::child_serves_a_passed_socket"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        let Ok(mut child) = child else {
            println!("skipped: systemd-socket-activate is not installed");
            return;
        };
        // The helper has no way to say that it listens; the connect is the event, so it is tried until it succeeds.
        let mut stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(_) if child.try_wait().expect("a child of ours").is_none() => std::thread::yield_now(),
                Err(error) => panic!("the helper went away: {error}"),
            }
        };
        let mut heard = [0; 5];
        let got = stream.read_exact(&mut heard);
        let status = child.wait().expect("a child of ours");
        let _ = fs::remove_file(&path);
        got.expect("the child took the socket");
        assert_eq!(&heard, b"taken");
        assert!(status.success());
    }
}
