//! A page that a backend compressed although it was asked not to, unpacked piece by piece.
//!
//! Enters: bytes in a content coding (RFC 9110 section 8.4.1). Leaves: the bytes behind it. Must not touch: what they
//! mean; other rooms. Memory: a call makes `MOST` bytes and fails beyond. DEFLATE makes at most 1,032 bytes of one, so a
//! piece of [`PIECE`] bytes stays below; Brotli has no such bound, and keeps a window of up to 16 MiB besides (RFC 7932
//! section 9.1), of which it takes what the page fills.

use std::io::{self, Write};

use brotli_decompressor::DecompressorWriter;
use bytes::{BufMut as _, BytesMut};
use flate2::write::{MultiGzDecoder, ZlibDecoder};

/// The most that should be given at once, in bytes.
pub const PIECE: usize = 512;
/// The most that one call makes, in bytes: 2,048 for each of a piece.
const MOST: usize = 2048 * PIECE;
/// What Brotli hands out at once, in bytes.
const BLOCK: usize = 4 * 1024;

/// Undoes one content coding.
pub enum Unpacker {
    /// There is none.
    Identity,
    /// `gzip`.
    Gzip(Box<MultiGzDecoder<Made>>),
    /// `deflate`, which is the zlib format.
    Deflate(Box<ZlibDecoder<Made>>),
    /// `br`.
    Brotli(Box<DecompressorWriter<Made>>),
}

impl Unpacker {
    /// For a value of `Content-Encoding`; `None` for one that is not known here (`zstd`, or several).
    #[must_use]
    pub fn named(coding: &str) -> Option<Self> {
        Some(match coding.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Self::Identity,
            "gzip" | "x-gzip" => Self::Gzip(Box::new(MultiGzDecoder::new(Made::default()))),
            "deflate" => Self::Deflate(Box::new(ZlibDecoder::new(Made::default()))),
            "br" => Self::Brotli(Box::new(DecompressorWriter::new(Made::default(), BLOCK))),
            _ => return None,
        })
    }

    /// Takes bytes, at most [`PIECE`] of them where memory matters, and appends those behind them.
    ///
    /// # Errors
    /// When they are not in this coding, or make more than a page would.
    pub fn write(&mut self, packed: &[u8], out: &mut BytesMut) -> io::Result<()> {
        match self {
            Self::Identity => out.put(packed),
            Self::Gzip(decoder) => through(&mut **decoder, packed)?,
            Self::Deflate(decoder) => through(&mut **decoder, packed)?,
            Self::Brotli(decoder) => through(&mut **decoder, packed)?,
        }
        self.take(out);
        Ok(())
    }

    /// There is no more.
    ///
    /// # Errors
    /// When it ended in the middle: what came out is not all.
    pub fn end(&mut self, out: &mut BytesMut) -> io::Result<()> {
        match self {
            Self::Identity => {}
            Self::Gzip(decoder) => decoder.try_finish()?,
            Self::Deflate(decoder) => decoder.try_finish()?,
            Self::Brotli(decoder) => decoder.close()?,
        }
        self.take(out);
        Ok(())
    }

    fn take(&mut self, out: &mut BytesMut) {
        let made = match self {
            Self::Identity => return,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Deflate(decoder) => decoder.get_mut(),
            Self::Brotli(decoder) => decoder.get_mut(),
        };
        out.put(&std::mem::take(&mut made.0)[..]);
    }
}

fn through(decoder: &mut impl Write, packed: &[u8]) -> io::Result<()> {
    decoder.write_all(packed)?;
    decoder.flush()
}

/// What a decoder made in one call.
#[derive(Default)]
pub struct Made(Vec<u8>);

impl Write for Made {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MOST {
            return Err(io::Error::other(format!("{PIECE} bytes of a page make more than {MOST}: it is no page")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
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
        if coding == "br" {
            return squeezed(&text());
        }
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&text()).expect("memory");
        encoder.finish().expect("memory")
    }

    /// In Brotli.
    fn squeezed(text: &[u8]) -> Vec<u8> {
        let (mut out, mut params) = (Vec::new(), brotli::enc::BrotliEncoderParams::default());
        params.quality = 4;
        brotli::BrotliCompress(&mut &text[..], &mut out, &params).expect("memory");
        out
    }

    fn unpacked(coding: &str, bytes: &[u8], piece: usize) -> io::Result<Vec<u8>> {
        let (mut unpacker, mut out) = (Unpacker::named(coding).expect("known"), BytesMut::new());
        bytes.chunks(piece).try_for_each(|piece| unpacker.write(piece, &mut out))?;
        unpacker.end(&mut out)?;
        Ok(out.to_vec())
    }

    #[test]
    fn what_was_packed_comes_out_whole_or_not_at_all() {
        for coding in ["gzip", "deflate", "br"] {
            let bytes = packed(coding);
            for piece in [1, PIECE, usize::MAX] {
                assert!(unpacked(coding, &bytes, piece).expect("whole") == text(), "{coding} by {piece}");
            }
            assert!(unpacked(coding, &bytes[..bytes.len() / 2], PIECE).is_err(), "half a {coding}");
            assert!(unpacked(coding, b"<html>", PIECE).is_err(), "no {coding}");
        }
        assert_eq!(unpacked(" Identity", b"x", 1).expect("whole"), b"x");
        assert!(Unpacker::named("zstd").is_none() && Unpacker::named("gzip, br").is_none());
    }

    #[test]
    fn a_small_piece_never_becomes_a_large_memory() {
        let blanks = vec![b' '; 2 * MOST];
        let bomb = squeezed(&blanks);
        assert!(bomb.len() < PIECE, "{}", bomb.len());
        let (mut unpacker, mut out) = (Unpacker::named("br").expect("known"), BytesMut::new());
        let error = unpacker.write(&bomb, &mut out).expect_err("a bomb");
        assert!(error.to_string().contains("no page") && out.is_empty(), "{error}");
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
