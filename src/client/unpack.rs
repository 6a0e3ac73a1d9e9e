//! A page that a backend compressed although it was asked not to, unpacked piece by piece.
//!
//! Enters: bytes in a content coding (RFC 9110 section 8.4.1). Leaves: the bytes behind it. Must not touch: what they
//! mean; other rooms. Memory: DEFLATE makes at most 1,032 bytes of one, so a piece of [`PIECE`] bytes bounds what a call
//! can make.

use std::io::{self, Write as _};

use bytes::{BufMut as _, BytesMut};
use flate2::write::{MultiGzDecoder, ZlibDecoder};

/// The most that should be given at once, in bytes.
pub const PIECE: usize = 512;

/// Undoes one content coding.
pub enum Unpacker {
    /// There is none.
    Identity,
    /// `gzip`.
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    /// `deflate`, which is the zlib format.
    Deflate(Box<ZlibDecoder<Vec<u8>>>),
}

impl Unpacker {
    /// For a value of `Content-Encoding`; `None` for one that is not known here (`br`, `zstd`, or several).
    #[must_use]
    pub fn named(coding: &str) -> Option<Self> {
        Some(match coding.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Self::Identity,
            "gzip" | "x-gzip" => Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            "deflate" => Self::Deflate(Box::new(ZlibDecoder::new(Vec::new()))),
            _ => return None,
        })
    }

    /// Takes bytes, at most [`PIECE`] of them where memory matters, and appends those behind them.
    ///
    /// # Errors
    /// When they are not in this coding.
    pub fn write(&mut self, packed: &[u8], out: &mut BytesMut) -> io::Result<()> {
        match self {
            Self::Identity => out.put(packed),
            Self::Gzip(decoder) => {
                decoder.write_all(packed)?;
                decoder.flush()?;
                out.put(&std::mem::take(decoder.get_mut())[..]);
            }
            Self::Deflate(decoder) => {
                decoder.write_all(packed)?;
                decoder.flush()?;
                out.put(&std::mem::take(decoder.get_mut())[..]);
            }
        }
        Ok(())
    }

    /// There is no more.
    ///
    /// # Errors
    /// When it ended in the middle: what came out is not all.
    pub fn end(&mut self, out: &mut BytesMut) -> io::Result<()> {
        match self {
            Self::Identity => {}
            Self::Gzip(decoder) => {
                decoder.try_finish()?;
                out.put(&std::mem::take(decoder.get_mut())[..]);
            }
            Self::Deflate(decoder) => {
                decoder.try_finish()?;
                out.put(&std::mem::take(decoder.get_mut())[..]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn text() -> Vec<u8> {
        (0..20_000u32).flat_map(|number| number.to_le_bytes()).collect()
    }

    fn packed(coding: &str) -> Vec<u8> {
        if coding == "gzip" {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&text()).expect("memory");
            return encoder.finish().expect("memory");
        }
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&text()).expect("memory");
        encoder.finish().expect("memory")
    }

    fn unpacked(coding: &str, bytes: &[u8], piece: usize) -> io::Result<Vec<u8>> {
        let (mut unpacker, mut out) = (Unpacker::named(coding).expect("known"), BytesMut::new());
        bytes.chunks(piece).try_for_each(|piece| unpacker.write(piece, &mut out))?;
        unpacker.end(&mut out)?;
        Ok(out.to_vec())
    }

    #[test]
    fn what_was_packed_comes_out_whole_or_not_at_all() {
        for coding in ["gzip", "deflate"] {
            let bytes = packed(coding);
            for piece in [1, PIECE, usize::MAX] {
                assert!(unpacked(coding, &bytes, piece).expect("whole") == text(), "{coding} by {piece}");
            }
            assert!(unpacked(coding, &bytes[..bytes.len() / 2], PIECE).is_err(), "half a {coding}");
            assert!(unpacked(coding, b"<html>", PIECE).is_err(), "no {coding}");
        }
        assert_eq!(unpacked(" Identity", b"x", 1).expect("whole"), b"x");
        assert!(Unpacker::named("br").is_none() && Unpacker::named("gzip, br").is_none());
    }

    #[test]
    fn early_bytes_come_out_early() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(b"<html>").expect("memory");
        encoder.flush().expect("memory");
        let (mut unpacker, mut out) = (Unpacker::named("gzip").expect("known"), BytesMut::new());
        unpacker.write(encoder.get_ref(), &mut out).expect("gzip");
        assert_eq!(out, "<html>");
    }
}
