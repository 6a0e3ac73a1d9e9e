//! What the two processes of a take-over say to each other: one word after another, each within a deadline.
//!
//! Enters: words, or what comes on the connection. Leaves: the other. Must not touch: what a word means.
//!
//! Each side begins with the prelude of [`format`](crate::handover::format). A word is its length (u32, big-endian) and
//! MessagePack with names.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{FormatError, Process};
use crate::handover::format::{check_prelude, prelude};

/// The longest word, in bytes: a reason is a sentence.
pub(super) const LONGEST: usize = 64 << 10;

/// What one process says to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    Hello(Process),
    Welcome(Process),
    /// Nothing is given, for this reason.
    Refused(String),
    Go,
    /// Comes with the package's descriptor.
    Package,
    Ok,
    /// What was given is not taken, for this reason.
    Failed(String),
}

/// Why the two processes do not understand each other.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    #[error("it speaks another format: {0}")]
    Format(#[from] FormatError),
    #[error("it has gone")]
    Gone,
    #[error("it does not answer")]
    Silent,
    #[error("it said what it should not at this point")]
    Unexpected,
    #[error("the connection: {0}")]
    Io(io::Error),
}

/// A connection between the two. Whoever stops waiting for a word loses nothing of it.
#[derive(Debug)]
pub(super) struct Talk {
    stream: UnixStream,
    patience: Duration,
    /// What came, up to the end of a word at most once it is one.
    heard: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

impl Talk {
    /// Waits at most for `patience`, wherever it waits.
    pub(super) fn new(stream: UnixStream, patience: Duration) -> Self {
        Self { stream, patience, heard: Vec::new(), descriptor: None }
    }

    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The first word of this side.
    pub(super) async fn greet(&mut self, word: &Word) -> Result<(), TalkError> {
        self.write(&prelude()).await?;
        self.say(word).await
    }

    /// The first word of the other side.
    pub(super) async fn meet(&mut self) -> Result<Word, TalkError> {
        let bytes = timeout(self.patience, self.hear_prelude()).await.map_err(|_| TalkError::Silent)??;
        check_prelude(bytes)?;
        self.hear().await
    }

    pub(super) async fn say(&mut self, word: &Word) -> Result<(), TalkError> {
        self.write(&encode(word)?).await
    }

    /// A word, and a descriptor with it.
    pub(super) async fn say_with(&mut self, word: &Word, descriptor: &impl AsFd) -> Result<(), TalkError> {
        let bytes = encode(word)?;
        let rights = [descriptor.as_fd()];
        let send = |stream: &UnixStream| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&rights));
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            Ok(sendmsg(stream, &[IoSlice::new(&bytes)], &mut control, flags)?)
        };
        let patience = self.patience;
        let sent = self.in_time(patience, async |s| s.async_io(Interest::WRITABLE, || send(s)).await).await?;
        self.write(&bytes[sent..]).await
    }

    pub(super) async fn hear(&mut self) -> Result<Word, TalkError> {
        timeout(self.patience, self.hear_patiently()).await.map_err(|_| TalkError::Silent)?
    }

    /// A word, and the descriptor that came with it or before it, if any.
    pub(super) async fn hear_with_descriptor(&mut self) -> Result<(Word, Option<OwnedFd>), TalkError> {
        let word = self.hear().await?;
        Ok((word, self.descriptor.take()))
    }

    /// A word, whenever it comes. To be limited by the caller. Cancel-safe.
    pub(super) async fn hear_patiently(&mut self) -> Result<Word, TalkError> {
        loop {
            if let Some(word) = self.take_word()? {
                return Ok(word);
            }
            self.read().await?;
        }
    }

    /// The word that was written already, if there is one: afterwards the other side can write none.
    pub(super) async fn hear_the_last(&mut self) -> Result<Word, TalkError> {
        SockRef::from(&self.stream).shutdown(Shutdown::Both).map_err(TalkError::Io)?;
        self.hear().await.map_err(|error| match error {
            TalkError::Gone => TalkError::Silent,
            other => other,
        })
    }

    /// Returns when the other side has said something, or gone.
    pub(super) async fn something_to_read(&self) {
        let peek = || Ok(recv(&self.stream, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT)?);
        if self.heard.is_empty() {
            let _ = self.stream.async_io(Interest::READABLE, peek).await;
        }
    }

    async fn hear_prelude(&mut self) -> Result<[u8; 8], TalkError> {
        loop {
            if let Some(bytes) = self.heard.first_chunk().copied() {
                self.heard.drain(..bytes.len());
                return Ok(bytes);
            }
            self.read().await?;
        }
    }

    /// The first word of what came, if it is there to its end.
    fn take_word(&mut self) -> Result<Option<Word>, TalkError> {
        let Some((length, rest)) = self.heard.split_first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > LONGEST {
            return Err(TalkError::Unexpected);
        }
        let Some(text) = rest.get(..length) else { return Ok(None) };
        let word = rmp_serde::from_slice(text).map_err(|_| TalkError::Unexpected)?;
        self.heard.drain(..4 + length);
        Ok(Some(word))
    }

    /// Appends what there is to what came. Cancel-safe.
    async fn read(&mut self) -> Result<(), TalkError> {
        let Self { stream, heard, descriptor, .. } = self;
        let read = stream.async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let (mut control, mut bytes) = (RecvAncillaryBuffer::new(&mut space), [0; 1024]);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let read = recvmsg(&*stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    *descriptor = rights.last();
                }
            }
            heard.extend_from_slice(&bytes[..read.bytes]);
            Ok(read.bytes)
        });
        match read.await? {
            0 => Err(TalkError::Gone),
            _ => Ok(()),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), TalkError> {
        self.in_time(self.patience, async |stream| stream.write_all(bytes).await).await
    }

    async fn in_time<T>(
        &mut self,
        patience: Duration,
        work: impl AsyncFnOnce(&mut UnixStream) -> io::Result<T>,
    ) -> Result<T, TalkError> {
        timeout(patience, work(&mut self.stream)).await.map_err(|_| TalkError::Silent)?.map_err(TalkError::from)
    }
}

impl From<io::Error> for TalkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

fn encode(word: &Word) -> Result<Vec<u8>, TalkError> {
    let text = rmp_serde::to_vec_named(word).map_err(io::Error::other)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    Ok([length.to_be_bytes().as_slice(), &text].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn pair() -> (Talk, Talk) {
        let (one, two) = UnixStream::pair().expect("a pair");
        (Talk::new(one, LONG), Talk::new(two, LONG))
    }

    #[tokio::test]
    async fn what_was_said_before_the_end_is_heard_and_nothing_can_be_said_after_it() {
        let (mut old, mut new) = pair();
        new.say(&Word::Ok).await.expect("it listens");
        assert_eq!(old.hear_the_last().await.expect("it was said"), Word::Ok);
        assert!(matches!(new.say(&Word::Ok).await, Err(TalkError::Gone)));
        assert!(matches!(old.hear().await, Err(TalkError::Gone)));
    }

    #[tokio::test]
    async fn a_word_that_comes_byte_by_byte_survives_impatience() {
        let (mut old, mut new) = pair();
        let word = Word::Failed("no room".into());
        for byte in encode(&word).expect("it is a word") {
            assert!(timeout(Duration::ZERO, old.hear_patiently()).await.is_err(), "it is not there to its end");
            new.write(&[byte]).await.expect("it listens");
        }
        assert_eq!(old.hear().await.expect("it is there"), word);
    }

    #[tokio::test]
    async fn what_is_no_word_is_refused() {
        for bytes in [&[0xff; 8][..], &[0, 0, 0, 1, 0xc1]] {
            let (mut old, mut new) = pair();
            new.write(bytes).await.expect("it listens");
            assert!(matches!(old.hear().await, Err(TalkError::Unexpected)), "{bytes:?}");
        }
    }
}
