//! A service manager that keeps descriptors over a restart, as systemd 252 does (`src/core/service.c` and `manager.c` there;
//! sd_notify(3), sd_listen_fds(3)): who may notify, what is kept, what is thrown away, and how it is passed on. Must not touch: the
//! machine's own service manager.

use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};
use tokio::process::{Child, Command};

use super::scratch::Scratch;
use super::site::FOREVER;

/// What a unit is to systemd: a main process, and a store.
pub struct Manager {
    shared: Arc<Shared>,
    path: PathBuf,
    /// Dropped with us, which ends the thread.
    _end: std::io::PipeWriter,
    _folder: Scratch,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// `FileDescriptorStoreMax=`.
    most: usize,
    /// Passed as first ones: sockets of a socket unit.
    sockets: Vec<(String, OwnedFd)>,
    store: Vec<Stored>,
    /// The main process. `NotifyAccess=main`: nobody else is listened to.
    main: Option<i32>,
    /// Lines that it has sent.
    said: Vec<String>,
}

struct Stored {
    name: String,
    descriptor: OwnedFd,
    /// Without `FDPOLL=0` it is thrown away when it hangs up.
    is_polled: bool,
}

/// A datagram of the main process.
struct Notification {
    lines: Vec<String>,
    descriptors: Vec<OwnedFd>,
    from: i32,
}

impl Manager {
    /// One with room for so many descriptors.
    pub fn new(name: &str, most: usize) -> Self {
        let folder = Scratch::new(name);
        let path = folder.path("notify");
        let socket = UnixDatagram::bind(&path).expect("a free address");
        sockopt::set_socket_passcred(&socket, true).expect("a socket of ours");
        let shared = Arc::new(Shared { state: Mutex::new(State { most, ..State::default() }), ..Shared::default() });
        let (end, _end) = std::io::pipe().expect("a pipe");
        let inside = Arc::clone(&shared);
        thread::spawn(move || while inside.step(&socket, &end) {});
        Self { shared, path, _end, _folder: folder }
    }

    /// With a socket unit's socket.
    #[must_use]
    pub fn with_socket(self, name: &str, socket: OwnedFd) -> Self {
        self.shared.lock().sockets.push((name.to_owned(), socket));
        self
    }

    /// The main process runs this; what is kept is passed to it. To be started by [`Manager::start`].
    pub fn command(&self, program: &str) -> Command {
        let state = self.shared.lock();
        let stored = state.store.iter().map(|stored| (&stored.name, &stored.descriptor));
        let passed: Vec<_> = state.sockets.iter().map(|(name, socket)| (name, socket)).chain(stored).collect();
        // Descriptors go through standard input and output: those without CLOEXEC would leak into what other tests start.
        let script = match passed.len() {
            0 => r#"exec "$0" "$@""#,
            1 => r#"exec 3<&0 </dev/null; LISTEN_PID=$$ exec "$0" "$@""#,
            2 => r#"exec 3<&0 4>&1 </dev/null >/dev/null; LISTEN_PID=$$ exec "$0" "$@""#,
            more => panic!("{more} descriptors are more than a test should need"),
        };
        let mut command = Command::new("sh");
        command.args(["-c", script, program]).env("NOTIFY_SOCKET", &self.path).kill_on_drop(true);
        for name in ["RUST_LOG", "FDSTORE", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if !passed.is_empty() {
            let names: Vec<_> = passed.iter().map(|(name, _)| name.as_str()).collect();
            command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        }
        let mut copies = passed.iter().map(|(_, passed)| Stdio::from(passed.try_clone().expect("a spare descriptor")));
        if let Some(first) = copies.next() {
            command.stdin(first);
        }
        if let Some(second) = copies.next() {
            command.stdout(second);
        }
        command
    }

    /// Starts the main process.
    pub fn start(&self, command: &mut Command) -> Child {
        let mut state = self.shared.lock();
        let child = command.spawn().expect("it runs");
        state.main = child.id().and_then(|id| i32::try_from(id).ok());
        state.said.clear();
        self.shared.changed.notify_all();
        child
    }

    /// Keeps this as if the process before had given it.
    pub fn keep(&self, name: &str, descriptor: OwnedFd) {
        self.shared.lock().store.push(Stored { name: name.to_owned(), descriptor, is_polled: false });
    }

    /// The unit is stopped, not restarted: what was kept is let go of.
    pub fn stopped(&self) {
        self.shared.lock().store.clear();
    }

    /// Returns when what the main process has sent was worked through, so that nothing else is kept than this.
    pub fn stores(&self, expected: &[&str]) {
        let end = Instant::now() + FOREVER;
        let mut state = self.shared.lock();
        while !state.store.iter().map(|stored| stored.name.as_str()).eq(expected.iter().copied()) {
            assert!(Instant::now() < end, "waited in vain for {expected:?} to be kept");
            state = self.shared.changed.wait_timeout(state, FOREVER).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The names of what is kept.
    pub fn stored(&self) -> Vec<String> {
        self.shared.lock().store.iter().map(|stored| stored.name.clone()).collect()
    }

    /// A copy of what is kept under this name.
    pub fn copy(&self, name: &str) -> Option<OwnedFd> {
        let state = self.shared.lock();
        let stored = state.store.iter().find(|stored| stored.name == name)?;
        Some(stored.descriptor.try_clone().expect("a spare descriptor"))
    }

    /// The lines that the main process has sent until now.
    pub fn said(&self) -> Vec<String> {
        self.shared.lock().said.clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for whatever comes next; false at the end.
    fn step(&self, socket: &UnixDatagram, end: &std::io::PipeReader) -> bool {
        let polled: Vec<_> = {
            let state = self.lock();
            let polled = state.store.iter().filter(|stored| stored.is_polled);
            polled.map(|stored| stored.descriptor.try_clone().expect("a spare descriptor")).collect()
        };
        let mut all = vec![PollFd::new(end, PollFlags::IN), PollFd::new(socket, PollFlags::IN)];
        all.extend(polled.iter().map(|descriptor| PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::empty())));
        retry_on_intr(|| poll(&mut all, None)).expect("descriptors of ours");
        let has_come: Vec<_> = all.iter().map(|one| !one.revents().is_empty()).collect();
        if has_come[0] {
            return false;
        }
        let mut hung_up = has_come[2..].iter();
        self.lock().store.retain(|stored| !(stored.is_polled && hung_up.next() == Some(&true)));
        if has_come[1] {
            self.notified(receive(socket));
        }
        true
    }

    /// As `manager_invoke_notify_message` and `service_notify_message` have it.
    fn notified(&self, Notification { lines, descriptors, from }: Notification) {
        // A barrier is asked for alone, and by anybody.
        if lines == ["BARRIER=1"] {
            assert_eq!(descriptors.len(), 1, "a barrier has one descriptor");
            return;
        }
        let mut state = self.lock();
        // systemd knows a process from its fork on.
        while state.main.is_none() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.main != Some(from) {
            return;
        }
        let value = |key: &str| lines.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let name = value("FDNAME").unwrap_or("stored");
        if value("FDSTOREREMOVE") == Some("1") {
            state.store.retain(|stored| stored.name != name);
        }
        if value("FDSTORE") == Some("1") {
            for descriptor in descriptors {
                if state.store.len() < state.most {
                    let is_polled = value("FDPOLL") != Some("0");
                    state.store.push(Stored { name: name.to_owned(), descriptor, is_polled });
                }
            }
        }
        state.said.extend(lines);
        self.changed.notify_all();
    }
}

fn receive(socket: &UnixDatagram) -> Notification {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253), ScmCredentials(1))];
    let (mut control, mut bytes) = (RecvAncillaryBuffer::new(&mut space), [0; 4096]);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
    let length = received.expect("a datagram").bytes;
    let (mut descriptors, mut from) = (Vec::new(), 0);
    for message in control.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(rights) => descriptors.extend(rights),
            RecvAncillaryMessage::ScmCredentials(who) => from = who.pid.as_raw_nonzero().get(),
            _ => {}
        }
    }
    let text = String::from_utf8(bytes[..length].to_vec()).expect("text");
    Notification { lines: text.lines().map(str::to_owned).collect(), descriptors, from }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
