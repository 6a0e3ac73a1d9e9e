//! The second way: a successor asks for the package through a unix socket, and the old process lives until it has it.
//!
//! Enters: a listening socket, or its path. Leaves: the package in the other process, and one word that says whose everything is.
//! Must not touch: the package's content.
//!
//! ```text
//! successor                                the old process
//!           prelude  hello      ──►        whose is it, can it read our format?
//!           ◄──      prelude  welcome      with the addresses that it gives; or refused, with the reason
//!           go                  ──►        lets go of everything; or failed, with the reason: an address cannot be had
//!           ◄──      package               or refused
//!           ok                  ──►        or failed, with the reason, or the end of the connection
//! ```
//!
//! Until it has read `ok` the old process has everything, and without it goes on. The two agree although either may die at any
//! moment: before it gives up, the old process shuts the connection down and reads what is left, so that an `ok` is either written before
//! that and read, or cannot be written.

mod talk;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use self::talk::{LONGEST, Talk, TalkError, Word};
use super::Package;
use super::format::FormatError;
use super::reserve::Reserve;

/// How long one process waits for the next word of the other, where nothing is said of how long it takes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Behind a failed accept: too many files, most likely.
const PAUSE: Duration = Duration::from_secs(1);

/// What the two processes say of themselves, for logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    pub pid: u32,
    pub program: String,
    /// How long the other one may have to wait for the package, in milliseconds.
    pub patience: u64,
    /// The names of the listening sockets that the other one will be given: all of them, or none where it does not say.
    pub addresses: Vec<String>,
}

/// Why a successor got nothing, or may not go on with what it got.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    #[error("nobody listens at {}: {source}; is the process that has `handover.socket` running?", path.display())]
    Nobody { path: PathBuf, source: io::Error },
    #[error("the process at the other end belongs to user {uid}: run its successor as that user")]
    Stranger { uid: u32 },
    #[error("the running process refused: {why}")]
    Refused { why: String },
    /// It has asked for nothing: an address cannot be had, most likely.
    #[error("the successor cannot start: {why}")]
    GaveUp { why: String },
    /// It goes on by itself, so that nothing of what was taken may be touched.
    #[error("the running process has taken everything back: this one was too slow")]
    TakenBack,
    #[error("the running process: {0}")]
    Talk(#[from] TalkError),
}

/// A process that has asked for everything, seen by the old one.
#[derive(Debug)]
pub struct Successor {
    talk: Talk,
    process: Process,
}

/// The process that has everything, seen by its successor.
#[derive(Debug)]
pub struct Predecessor {
    talk: Talk,
    process: Process,
}

/// Waits until a successor asks for everything. `quiesce` is how long it may have to wait for its package, which has listening
/// sockets of these `addresses`. `reserve` has a descriptor for its connection, if there is no other. Cancel-safe, but for who is
/// just asking.
///
/// # Errors
/// [`TakeOverError`]: it may not or cannot take over, and gets nothing.
pub async fn accept(
    listener: &UnixListener,
    quiesce: Duration,
    addresses: &[String],
    reserve: &Reserve,
) -> Result<Successor, TakeOverError> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return greet(stream, quiesce, addresses).await,
            Err(error) => {
                tracing::warn!(%error, "the socket for take-overs does not accept");
                // At once, or another connection has it.
                if !reserve.release_one() {
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn greet(stream: UnixStream, quiesce: Duration, addresses: &[String]) -> Result<Successor, TakeOverError> {
    check_owner(&stream)?;
    let mut talk = Talk::new(stream, PATIENCE);
    let process = match talk.meet().await {
        Ok(Word::Hello(process)) => process,
        Ok(_) => return Err(TalkError::Unexpected.into()),
        Err(error) => {
            // Another format: the answer begins with ours, which says why.
            let _ = talk.greet(&Word::Refused(error.to_string())).await;
            return Err(error.into());
        }
    };
    talk.greet(&Word::Welcome(Process::this(quiesce + PATIENCE, addresses))).await?;
    match talk.hear().await? {
        Word::Go => Ok(Successor { talk, process }),
        Word::Failed(why) => Err(TakeOverError::GaveUp { why }),
        _ => Err(TalkError::Unexpected.into()),
    }
}

/// Asks the process that listens at `path` whether everything can be taken over. Nothing has happened to it yet.
///
/// # Errors
/// [`TakeOverError`]; it goes on.
pub async fn ask(path: &Path) -> Result<Predecessor, TakeOverError> {
    let nobody = |source| TakeOverError::Nobody { path: path.to_owned(), source };
    let stream = timeout(PATIENCE, UnixStream::connect(path)).await;
    let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(nobody)?;
    check_owner(&stream)?;
    let mut talk = Talk::new(stream, PATIENCE);
    talk.greet(&Word::Hello(Process::this(Duration::ZERO, &[]))).await?;
    match talk.meet().await? {
        Word::Welcome(process) => {
            let patience = PATIENCE + Duration::from_millis(process.patience);
            Ok(Predecessor { talk: talk.with_patience(patience), process })
        }
        Word::Refused(why) => Err(TakeOverError::Refused { why }),
        _ => Err(TalkError::Unexpected.into()),
    }
}

/// Who could as well kill us or read our memory may take over.
fn check_owner(stream: &UnixStream) -> Result<(), TakeOverError> {
    let uid = stream.peer_cred().map_err(TalkError::from)?.uid();
    if uid == 0 || uid == rustix::process::geteuid().as_raw() { Ok(()) } else { Err(TakeOverError::Stranger { uid }) }
}

// === impl Successor ===

impl Successor {
    /// Who it is, for the log.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Returns when it has gone, or said what it should not: there is nobody to let go of anything for. Cancel-safe.
    pub async fn gone(&self) {
        self.talk.something_to_read().await;
    }

    /// It gets nothing.
    pub async fn refuse(mut self, why: &str) {
        let _ = self.talk.say(&Word::Refused(why.to_owned())).await;
    }

    /// Sends it everything.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn send(&mut self, package: &Package) -> Result<(), TalkError> {
        self.talk.say_with(&Word::Package, package).await
    }

    /// True when it has everything, and this process nothing any more. False when it has failed, died or taken longer than
    /// `limit`: then it can never again say that it has.
    pub async fn committed(mut self, limit: Duration) -> bool {
        let heard = match timeout(limit, self.talk.hear_patiently()).await {
            Ok(heard) => heard,
            Err(_) => self.talk.hear_the_last().await,
        };
        match heard {
            Ok(Word::Ok) => return true,
            Ok(Word::Failed(why)) => tracing::warn!(successor = %self.process, why, "the successor failed"),
            Ok(_) => tracing::warn!(successor = %self.process, error = %TalkError::Unexpected, "the successor failed"),
            Err(error) => tracing::warn!(successor = %self.process, %error, "the successor failed"),
        }
        false
    }
}

// === impl Predecessor ===

impl Predecessor {
    /// Who it is, for the log.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Has it let go of everything, and takes it. Nothing may be touched before [`Predecessor::commit`].
    ///
    /// # Errors
    /// [`TakeOverError`]; it goes on.
    pub async fn take(&mut self) -> Result<Package, TakeOverError> {
        self.talk.say(&Word::Go).await?;
        match self.talk.hear_with_descriptor().await? {
            (Word::Package, Some(descriptor)) => Ok(Package::from(descriptor)),
            (Word::Refused(why), _) => Err(TakeOverError::Refused { why }),
            _ => Err(TalkError::Unexpected.into()),
        }
    }

    /// Says that everything is here: from now on it is this process's.
    ///
    /// # Errors
    /// [`TakeOverError`]; the old process goes on, and nothing of what was taken may be touched.
    pub async fn commit(mut self) -> Result<(), TakeOverError> {
        self.talk.say(&Word::Ok).await.map_err(|error| match error {
            TalkError::Gone => TakeOverError::TakenBack,
            other => other.into(),
        })
    }

    /// Gives up, and says why: the old process goes on.
    pub async fn fail(mut self, why: &str) {
        let _ = self.talk.say(&Word::Failed(why.to_owned())).await;
    }
}

// === impl Process ===

impl Default for Process {
    fn default() -> Self {
        Self { pid: 0, program: "?".to_owned(), patience: 0, addresses: Vec::new() }
    }
}

impl Process {
    fn this(patience: Duration, addresses: &[String]) -> Self {
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        // What is longer than a word may be is not said: the successor then finds out late which addresses it cannot have.
        let fits = addresses.iter().map(|address| address.len() + 5).sum::<usize>() < LONGEST / 2;
        let addresses = if fits { addresses.to_vec() } else { Vec::new() };
        Self { pid: std::process::id(), program: env!("CARGO_PKG_VERSION").to_owned(), patience, addresses }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} (underpass {})", self.pid, self.program)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream as Pair;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::handover::Load;
    use crate::lifecycle::moving::{Kind, Parcel};

    const LONG: Duration = Duration::from_secs(60);

    /// A socket for take-overs in a folder of its own.
    struct Socket {
        listener: UnixListener,
        path: PathBuf,
    }

    impl Socket {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("underpass-take-over-{name}-{}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            Self { listener: UnixListener::bind(&path).expect("a free address"), path }
        }

        /// Both sides, at the point where the old one is to let go.
        async fn met(&self) -> (Successor, tokio::task::JoinHandle<(Predecessor, Result<Package, TakeOverError>)>) {
            let path = self.path.clone();
            let new = tokio::spawn(async move {
                let mut predecessor = ask(&path).await.expect("it is there");
                assert_eq!(predecessor.process().program, env!("CARGO_PKG_VERSION"));
                let package = predecessor.take().await;
                (predecessor, package)
            });
            (self.accept().await.expect("it asks"), new)
        }

        async fn accept(&self) -> Result<Successor, TakeOverError> {
            accept(&self.listener, Duration::ZERO, &["127.0.0.1:8080".to_owned()], &Reserve::default()).await
        }
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn load() -> Load {
        let (one, two): (OwnedFd, OwnedFd) = Pair::pair().map(|(one, two)| (one.into(), two.into())).expect("a pair");
        Load { parcels: vec![Parcel::new(Kind::Tunnel, &"both", vec![one, two])], ..Load::default() }
    }

    #[tokio::test]
    async fn a_successor_gets_everything_and_says_so() {
        let socket = Socket::new("all");
        let (mut old, new) = socket.met().await;
        assert_eq!(old.process().pid, std::process::id());
        old.send(&load().pack().expect("it is packed")).await.expect("it waits");
        let (new, package) = new.await.expect("the task does not panic");
        let load = package.map(|package| package.unpack().expect("sound")).expect("it was sent");
        assert_eq!(load.parcels.len(), 1);
        let (committed, said) = tokio::join!(old.committed(LONG), new.commit());
        said.expect("the other one listens");
        assert!(committed);
    }

    #[tokio::test]
    async fn a_refusal_names_its_reason() {
        let socket = Socket::new("refused");
        let (old, new) = socket.met().await;
        old.refuse("it drains").await;
        let error = new.await.expect("the task does not panic").1.expect_err("it was refused");
        assert!(error.to_string().contains("refused: it drains"), "{error}");
    }

    #[tokio::test]
    async fn a_successor_that_fails_or_dies_has_not_committed() {
        let socket = Socket::new("fails");
        for says_why in [true, false] {
            let (mut old, new) = socket.met().await;
            old.send(&load().pack().expect("it is packed")).await.expect("it waits");
            let (new, _package) = new.await.expect("the task does not panic");
            if says_why {
                new.fail("no room").await;
            } else {
                drop(new);
            }
            assert!(!old.committed(LONG).await);
        }
    }

    #[tokio::test]
    async fn who_dies_before_anything_was_let_go_of_is_noticed() {
        let socket = Socket::new("gone");
        let (old, new) = socket.met().await;
        let early = timeout(Duration::from_millis(10), old.gone()).await;
        assert!(early.is_err(), "it waits for its package");
        new.abort();
        timeout(LONG, old.gone()).await.expect("it has gone");
    }

    /// Whatever the order of `ok` and the end of patience: both sides say the same.
    #[tokio::test]
    async fn an_ok_counts_if_and_only_if_it_could_be_said() {
        let socket = Socket::new("late");
        for before in [true, false] {
            let (mut old, new) = socket.met().await;
            old.send(&load().pack().expect("it is packed")).await.expect("it waits");
            let (new, _package) = new.await.expect("the task does not panic");
            if before {
                new.commit().await.expect("there is still time");
                assert!(old.committed(Duration::ZERO).await, "it was said in time");
            } else {
                assert!(!old.committed(Duration::ZERO).await, "nothing was said");
                assert!(matches!(new.commit().await, Err(TakeOverError::TakenBack)));
            }
        }
    }

    #[tokio::test]
    async fn another_format_is_refused_on_both_sides_with_both_versions() {
        let socket = Socket::new("format");
        let path = socket.path.clone();
        let newer = tokio::spawn(async move {
            let mut stream = UnixStream::connect(&path).await.expect("it listens");
            stream.write_all(b"UPHO\0\x02\0\0and words of another kind").await.expect("it reads");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect("it answers");
            answer
        });
        let (answer, refused) = tokio::join!(newer, socket.accept());
        let refused = refused.expect_err("nobody may take over").to_string();
        assert!(refused.contains("2.0"), "{refused}");
        assert_eq!(answer.expect("the task does not panic")[..8], *b"UPHO\0\x01\0\0", "it can tell what it met");

        let asking = ask(&socket.path);
        let answering = async {
            let (mut stream, _) = socket.listener.accept().await.expect("somebody asks");
            stream.write_all(b"UPHO\0\x02\0\0").await.expect("it reads");
            stream
        };
        let (asked, _stream) = tokio::join!(asking, answering);
        let error = asked.expect_err("it is of another format").to_string();
        assert!(error.contains("2.0") && error.contains("1.x"), "{error}");
    }

    #[tokio::test]
    async fn who_cannot_start_knows_the_addresses_and_says_why_it_asks_for_nothing() {
        let socket = Socket::new("gives-up");
        let asking = async {
            let new = ask(&socket.path).await.expect("it is there");
            let addresses = new.process().addresses.clone();
            new.fail("192.0.2.1:80 is not ours").await;
            addresses
        };
        let (addresses, asked) = tokio::join!(asking, socket.accept());
        assert_eq!(addresses, ["127.0.0.1:8080"]);
        let Err(TakeOverError::GaveUp { why }) = asked else { panic!("{asked:?}") };
        assert_eq!(why, "192.0.2.1:80 is not ours");
    }

    /// Versions before this one do not say what they give, and read what says it.
    #[tokio::test]
    async fn a_process_that_names_no_addresses_is_understood_and_understands() {
        #[derive(Debug, Serialize, Deserialize)]
        struct Before {
            pid: u32,
            program: String,
            patience: u64,
        }
        let before = Before { pid: 1, program: "0.1.0".into(), patience: 2 };
        let read: Process =
            rmp_serde::from_slice(&rmp_serde::to_vec_named(&before).expect("plain data")).expect("it is known");
        assert_eq!((read.patience, read.addresses), (2, Vec::<String>::new()));
        let now = Process::this(Duration::from_millis(3), &["127.0.0.1:80".to_owned()]);
        let read: Before =
            rmp_serde::from_slice(&rmp_serde::to_vec_named(&now).expect("plain data")).expect("it is known");
        assert_eq!(read.patience, 3);
    }

    #[tokio::test]
    async fn more_addresses_than_a_word_has_room_for_do_not_prevent_a_hand_over() {
        let socket = Socket::new("many");
        let many: Vec<_> = (0..10_000).map(|port| format!("127.0.0.1:{port}")).collect();
        let asking = async {
            let mut new = ask(&socket.path).await.expect("it is there");
            assert_eq!(new.process().addresses, Vec::<String>::new());
            new.take().await
        };
        let answering = async {
            let reserve = Reserve::default();
            let old = accept(&socket.listener, Duration::ZERO, &many, &reserve).await.expect("it asks");
            old.refuse("enough").await;
        };
        let (taken, ()) = tokio::join!(asking, answering);
        assert!(matches!(taken, Err(TakeOverError::Refused { .. })), "{taken:?}");
    }

    #[tokio::test]
    async fn strangers_to_the_protocol_hold_nothing_up() {
        let socket = Socket::new("noise");
        let mut noise = UnixStream::connect(&socket.path).await.expect("it listens");
        noise.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("it reads");
        socket.accept().await.expect_err("it is no successor");
        let (old, new) = socket.met().await;
        old.refuse("enough").await;
        assert!(new.await.expect("the task does not panic").1.is_err());
    }

    #[tokio::test]
    async fn where_nobody_listens_one_is_told_what_to_do() {
        let path = Path::new("/nonexistent/handover.sock");
        let error = ask(path).await.expect_err("nobody is there").to_string();
        assert!(error.contains("/nonexistent/handover.sock") && error.contains("handover.socket"), "{error}");
    }
}
