//! The format of a state: what a successor reads, perhaps of an older or a newer version than its own.
//!
//! Enters: items, or the bytes of a state. Leaves: the other. Must not touch: descriptors, and what a record says.
//!
//! ```text
//! state   "UPHO"  major u16  minor u16  item*  end
//! item    kind u8  length u32  number of descriptors u8  record
//! end     255 u8   length u32 = 4  number of items before it u32
//! ```
//!
//! Numbers are big-endian; `length` counts what follows it. Records are MessagePack with the names of fields. Kind 1 is the
//! head, kinds from 3 on those of `lifecycle::moving::Kind`. Whoever reads skips kinds and fields that it does not know, so
//! that a minor version may add some; another major version is refused. The descriptors come beside the state (see
//! [`package`](super::package)), in the order of their items: the first item that has some has the places from 0 on, every other one
//! those behind the places of all items before it. They are of sockets that do not block.

use std::io::{self, Write};

use bytes::{Buf as _, Bytes};

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
    Damaged { at: usize },
}

/// One item of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub kind: u8,
    /// How many belong to it.
    pub descriptors: u8,
    pub record: Bytes,
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
    pub fn item(&mut self, kind: u8, descriptors: usize, record: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::new(io::ErrorKind::InvalidInput, "a record has 4 GiB or more");
        let descriptors = u8::try_from(descriptors).map_err(io::Error::other)?;
        let [a, b, c, d] = u32::try_from(1 + record.len()).map_err(too_large)?.to_be_bytes();
        self.to.write_all(&[kind, a, b, c, d, descriptors])?;
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
pub struct StateReader {
    left: Bytes,
    size: usize,
    items: u32,
    ended: bool,
}

impl StateReader {
    /// Of a whole state, of which the records are parts.
    ///
    /// # Errors
    /// [`FormatError`]: it is none that can be read here.
    pub fn new(state: Bytes) -> Result<Self, FormatError> {
        let mut reader = Self { size: state.len(), left: state, items: 0, ended: false };
        check_prelude(reader.bytes().map_err(|_| FormatError::Foreign)?)?;
        Ok(reader)
    }

    fn item(&mut self) -> Result<Option<Item>, FormatError> {
        let [kind] = self.bytes()?;
        let length = u32::from_be_bytes(self.bytes()?);
        if kind == END {
            return self.end(length).map(|()| None);
        }
        let [descriptors] = self.bytes()?;
        let length = length.checked_sub(1).and_then(|length| usize::try_from(length).ok());
        let Some(length) = length.filter(|length| *length <= self.left.len()) else { return Err(self.damaged()) };
        let record = self.left.split_to(length);
        self.items = self.items.saturating_add(1);
        Ok(Some(Item { kind, descriptors, record }))
    }

    fn end(&mut self, length: u32) -> Result<(), FormatError> {
        let items = u32::from_be_bytes(self.bytes()?);
        let fits = length == 4 && items == self.items && self.left.is_empty();
        if fits { Ok(()) } else { Err(self.damaged()) }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let bytes = self.left.first_chunk().copied().ok_or_else(|| self.damaged())?;
        self.left.advance(N);
        Ok(bytes)
    }

    fn damaged(&self) -> FormatError {
        FormatError::Damaged { at: self.size - self.left.len() }
    }
}

impl Iterator for StateReader {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(items: &[Item]) -> Vec<u8> {
        let mut writer = StateWriter::new(Vec::new()).expect("memory takes all");
        for Item { kind, descriptors, record } in items {
            writer.item(*kind, usize::from(*descriptors), record).expect("memory takes all");
        }
        writer.end().expect("memory takes all")
    }

    fn read(bytes: &[u8]) -> Result<Vec<Item>, FormatError> {
        StateReader::new(Bytes::copy_from_slice(bytes))?.collect()
    }

    fn items() -> impl Strategy<Value = Vec<Item>> {
        let record = prop::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from);
        let item = (0..255_u8, any::<u8>(), record);
        prop::collection::vec(item.prop_map(|(kind, descriptors, record)| Item { kind, descriptors, record }), 0..10)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(items in items()) {
            prop_assert_eq!(read(&written(&items)).expect("a sound state"), items);
        }

        #[test]
        fn a_state_that_is_cut_is_known_as_such(items in items(), at in any::<prop::sample::Index>()) {
            let bytes = written(&items);
            let cut = &bytes[..at.index(bytes.len())];
            let is_known = matches!(read(cut), Err(FormatError::Foreign | FormatError::Damaged { .. }));
            prop_assert!(is_known);
        }

        /// It ends, with items or an error, and no byte is read twice.
        #[test]
        fn whatever_is_read_does_no_harm(items in items(), at in any::<prop::sample::Index>(), by in 1..=255_u8) {
            let mut bytes = written(&items);
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            if let Ok(read) = read(&bytes) {
                prop_assert!(read.iter().map(|item| item.record.len()).sum::<usize>() <= bytes.len());
            }
        }
    }

    #[test]
    fn a_newer_minor_version_is_read_and_another_major_is_not() {
        let mut bytes = written(&[Item { kind: 99, descriptors: 1, record: Bytes::from_static(b"new") }]);
        bytes[6..8].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(read(&bytes).expect("it is 1.65535").len(), 1);
        bytes[4..6].copy_from_slice(&[0, 2]);
        let error = read(&bytes).expect_err("it is of major version 2").to_string();
        assert!(error.contains("2.65535") && error.contains("1.x"), "{error}");
        bytes[0] = b'u';
        assert!(matches!(read(&bytes), Err(FormatError::Foreign)));
        assert!(matches!(read(b"UPH"), Err(FormatError::Foreign)));
    }

    #[test]
    fn what_stands_behind_the_end_or_does_not_fit_its_count_is_damage() {
        let item = Item { kind: 4, descriptors: 0, record: Bytes::from_static(&[1]) };
        let mut longer = written(std::slice::from_ref(&item));
        longer.push(0);
        assert!(matches!(read(&longer), Err(FormatError::Damaged { .. })));
        let mut miscounted = written(&[item.clone(), item]);
        *miscounted.last_mut().expect("the count's last byte") = 1;
        assert!(matches!(read(&miscounted), Err(FormatError::Damaged { .. })));
    }
}
