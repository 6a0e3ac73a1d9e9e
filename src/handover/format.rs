//! The format of a state: what a successor reads, perhaps of an older or a newer version than its own.
//!
//! Enters: items, or the bytes of a state. Leaves: the other. Must not touch: descriptors, and what a record says.
//!
//! ```text
//! state   "UPHO"  major u16  minor u16  item*  end
//! item    kind u8  length u32  number of descriptors u8  cookie u64 of each  record
//! end     255 u8   length u32 = 4  number of items before it u32
//! ```
//!
//! Numbers are big-endian; `length` counts what follows it. Records are MessagePack with the names of fields. Kind 1 is the
//! head, kinds from 3 on those of `lifecycle::moving::Kind`. Whoever reads skips kinds and fields that it does not know, so
//! that a minor version may add some; another major version is refused. A cookie is a socket's `SO_COOKIE` (socket(7)), by which it is
//! recognised in another process.

use std::io::{self, Read, Write};

/// What a state begins with.
pub const MAGIC: [u8; 4] = *b"UPHO";
/// Raised when an older program could no longer read it.
pub const MAJOR: u16 = 1;
/// Raised with each kind or field that is added.
pub const MINOR: u16 = 0;

/// The kind of the head.
pub const HEAD: u8 = 1;
/// The kind of the end.
const END: u8 = 255;

/// Why a state cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error("it is no state of underpass")]
    Foreign,
    #[error("its format is {major}.{minor}, and this program reads {MAJOR}.x: use a version of underpass that does")]
    OtherMajor { major: u16, minor: u16 },
    #[error("it is cut or damaged at byte {at}")]
    Damaged { at: u64 },
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// One item of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub kind: u8,
    /// Of the descriptors that belong to it, in their order.
    pub cookies: Vec<u64>,
    pub record: Vec<u8>,
}

/// The version that a state, or a process, says it has: the first eight bytes of either.
#[must_use]
pub fn prelude() -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&MAJOR.to_be_bytes());
    bytes[6..].copy_from_slice(&MINOR.to_be_bytes());
    bytes
}

/// Whether what begins so can be read.
///
/// # Errors
/// [`FormatError::Foreign`] and [`FormatError::OtherMajor`].
pub fn check_prelude(bytes: [u8; 8]) -> Result<(), FormatError> {
    if bytes[..4] != MAGIC {
        return Err(FormatError::Foreign);
    }
    let [.., a, b, c, d] = bytes;
    match (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])) {
        (MAJOR, _) => Ok(()),
        (major, minor) => Err(FormatError::OtherMajor { major, minor }),
    }
}

/// Writes a state.
pub struct StateWriter<W> {
    to: W,
    items: u32,
}

impl<W: Write> StateWriter<W> {
    /// # Errors
    /// Those of `to`, as in all of these.
    pub fn new(mut to: W) -> io::Result<Self> {
        to.write_all(&prelude())?;
        Ok(Self { to, items: 0 })
    }

    /// # Errors
    /// Also when the record is longer than 4 GiB, or more than 255 descriptors belong to it.
    pub fn item(&mut self, kind: u8, cookies: &[u64], record: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::new(io::ErrorKind::InvalidInput, "a record has 4 GiB or more");
        let count = u8::try_from(cookies.len()).map_err(io::Error::other)?;
        let length = u32::try_from(1 + 8 * cookies.len() + record.len()).map_err(too_large)?;
        self.to.write_all(&[kind])?;
        self.to.write_all(&length.to_be_bytes())?;
        self.to.write_all(&[count])?;
        for cookie in cookies {
            self.to.write_all(&cookie.to_be_bytes())?;
        }
        self.to.write_all(record)?;
        self.items = self.items.saturating_add(1);
        Ok(())
    }

    /// Ends the state; what it was written to.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn end(mut self) -> io::Result<W> {
        self.to.write_all(&[END])?;
        self.to.write_all(&4_u32.to_be_bytes())?;
        self.to.write_all(&self.items.to_be_bytes())?;
        self.to.flush()?;
        Ok(self.to)
    }
}

/// Reads a state item by item, of any kind; the last one was read when there is none any more. After an error there is none.
pub struct StateReader<R> {
    from: R,
    /// How many bytes there are: no item is longer than what is left of them.
    size: u64,
    at: u64,
    items: u32,
    ended: bool,
}

impl<R: Read> StateReader<R> {
    /// Of a state that has `size` bytes.
    ///
    /// # Errors
    /// [`FormatError`]: it is none that can be read here.
    pub fn new(from: R, size: u64) -> Result<Self, FormatError> {
        let mut reader = Self { from, size, at: 0, items: 0, ended: false };
        let bytes = reader.bytes().map_err(|error| match error {
            FormatError::Damaged { .. } => FormatError::Foreign,
            other => other,
        })?;
        check_prelude(bytes)?;
        Ok(reader)
    }

    fn item(&mut self) -> Result<Option<Item>, FormatError> {
        let [kind] = self.bytes()?;
        let length = u64::from(u32::from_be_bytes(self.bytes()?));
        if kind == END {
            return self.end(length).map(|()| None);
        }
        let [count] = self.bytes()?;
        let cookies = (0..count).map(|_| self.bytes().map(u64::from_be_bytes)).collect::<Result<Vec<_>, _>>()?;
        let Some(length) = length.checked_sub(1 + 8 * u64::from(count)) else { return Err(self.damaged()) };
        let record = self.record(length)?;
        self.items = self.items.saturating_add(1);
        Ok(Some(Item { kind, cookies, record }))
    }

    fn end(&mut self, length: u64) -> Result<(), FormatError> {
        let items = u32::from_be_bytes(self.bytes()?);
        let fits = length == 4 && items == self.items && self.at == self.size;
        if fits { Ok(()) } else { Err(self.damaged()) }
    }

    fn record(&mut self, length: u64) -> Result<Vec<u8>, FormatError> {
        let length = usize::try_from(length).ok().filter(|_| length <= self.size - self.at);
        let mut record = vec![0; length.ok_or(FormatError::Damaged { at: self.at })?];
        self.fill(&mut record)?;
        Ok(record)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), FormatError> {
        if bytes.len() as u64 > self.size - self.at {
            return Err(self.damaged());
        }
        self.from.read_exact(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn damaged(&self) -> FormatError {
        FormatError::Damaged { at: self.at }
    }
}

impl<R: Read> Iterator for StateReader<R> {
    type Item = Result<Item, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.item();
        self.ended = !matches!(item, Ok(Some(_)));
        item.transpose()
    }
}
