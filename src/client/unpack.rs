//! Decompresses a page piece by piece, when a backend compressed it although we asked it not to.
//!
//! Enters: bytes in a content coding (RFC 9110 section 8.4.1). Leaves: the decoded bytes. Must not touch: what they mean;
//! other rooms. Memory: a call produces at most `LIMIT` bytes, and fails beyond. DEFLATE expands one byte to at most 1,032,
//! so a piece of [`PIECE`] bytes stays below. Brotli has no such limit, and also keeps a window of up to 16 MiB (RFC 7932
//! section 9.1), of which it allocates as much as the page fills.

use std::io::{self, Write};

use brotli_decompressor::DecompressorWriter;
use bytes::{BufMut as _, BytesMut};
use flate2::write::{MultiGzDecoder, ZlibDecoder};

/// The most that should be given to one call, in bytes.
pub const PIECE: usize = 512;
/// The most that one call produces, in bytes: 2,048 for each byte of a piece.
const LIMIT: usize = 2048 * PIECE;
/// Size of the buffer between the Brotli decoder and us, in bytes.
const BLOCK: usize = 4 * 1024;

/// The decoder of one content coding.
pub enum Unpacker {
    /// No coding.
    Identity,
    Gzip(Box<MultiGzDecoder<Output>>),
    /// `deflate`, which is the zlib format.
    Deflate(Box<ZlibDecoder<Output>>),
    Brotli(Box<DecompressorWriter<Output>>),
}

impl Unpacker {
    /// For a value of `Content-Encoding`; `None` for one that is not known here (`zstd`, or several).
    #[must_use]
    pub fn named(coding: &str) -> Option<Self> {
        Some(match coding.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Self::Identity,
            "gzip" | "x-gzip" => Self::Gzip(Box::new(MultiGzDecoder::new(Output::default()))),
            "deflate" => Self::Deflate(Box::new(ZlibDecoder::new(Output::default()))),
            "br" => Self::Brotli(Box::new(DecompressorWriter::new(Output::default(), BLOCK))),
            _ => return None,
        })
    }

    /// Decodes bytes, at most [`PIECE`] of them where memory matters, and appends the result.
    ///
    /// # Errors
    /// When they are not in this coding, or expand to more than a page would.
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

    /// The body has ended.
    ///
    /// # Errors
    /// When it ended in the middle, so that the result is not complete.
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
        let output = match self {
            Self::Identity => return,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Deflate(decoder) => decoder.get_mut(),
            Self::Brotli(decoder) => decoder.get_mut(),
        };
        out.put(&std::mem::take(&mut output.0)[..]);
    }
}

fn through(decoder: &mut impl Write, packed: &[u8]) -> io::Result<()> {
    decoder.write_all(packed)?;
    decoder.flush()
}

/// What a decoder produced in one call.
#[derive(Default)]
pub struct Output(Vec<u8>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > LIMIT {
            return Err(io::Error::other(format!("{PIECE} bytes of a page make more than {LIMIT}: it is no page")));
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

    /// `text` in Brotli.
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
        let blanks = vec![b' '; 2 * LIMIT];
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
