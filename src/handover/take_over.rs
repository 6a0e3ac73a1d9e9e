//! The second way: a successor asks for the package through a unix socket, and the old process lives until it has it.
//!
//! Enters: a listening socket, or its path. Leaves: the package in the other process, and one word that says whose everything is.
//! Must not touch: the package's content.
//!
//! ```text
//! successor                                the old process
//!           prelude  hello      ──►        whose is it, can it read our format?
//!           ◄──      prelude  welcome      or refused, with the reason
//!           go                  ──►        lets go of everything
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

use self::talk::{Talk, TalkError, Word};
use super::Package;
use super::format::FormatError;

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

/// Waits until a successor asks, as often as it needs: whoever may not or cannot take over is refused, and the log says why.
/// `quiesce` is how long it may have to wait for its package. Cancel-safe, but for who is just asking.
pub async fn accept(listener: &UnixListener, quiesce: Duration) -> Successor {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match greet(stream, quiesce).await {
                Ok(successor) => return successor,
                Err(error) => tracing::warn!(%error, "a successor was refused"),
            },
            Err(error) => {
                tracing::warn!(%error, "the socket for take-overs does not accept");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn greet(stream: UnixStream, quiesce: Duration) -> Result<Successor, TakeOverError> {
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
    talk.greet(&Word::Welcome(Process::this(quiesce + PATIENCE))).await?;
    match talk.hear().await? {
        Word::Go => Ok(Successor { talk, process }),
        Word::Failed(why) => Err(TakeOverError::Refused { why }),
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
    talk.greet(&Word::Hello(Process::this(Duration::ZERO))).await?;
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
        Self { pid: 0, program: "?".to_owned(), patience: 0 }
    }
}

impl Process {
    fn this(patience: Duration) -> Self {
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        Self { pid: std::process::id(), program: env!("CARGO_PKG_VERSION").to_owned(), patience }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} (underpass {})", self.pid, self.program)
    }
}
