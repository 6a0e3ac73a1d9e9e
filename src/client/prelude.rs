//! Writes the script before the script of a worker, which no tag can reach.
//!
//! Enters: the bytes of a worker's script, in any pieces. Leaves: the same bytes behind ours. Must not touch: what the
//! worker's script does; headers; other rooms.
//!
//! The same text runs in classic and in module workers: which of them it will be is not to be seen in the request. It
//! stands on one line, so that the worker's own line numbers stay true.

use bytes::{BufMut as _, BytesMut};

use super::script;

/// How far into a script its first statement is looked for, behind comments and blanks.
const SNIFF: usize = 4 * 1024;
/// The directive that makes a script strict. It counts only as the first statement, so ours must not stand before it.
const STRICT: [&[u8]; 2] = [b"\"use strict\"", b"'use strict'"];

/// Writes the script before one worker's script.
pub struct Prelude {
    /// What came of the worker's script before ours was written; `None` behind it.
    waiting: Option<Vec<u8>>,
    /// The script's address, relative to the worker's.
    address: String,
}

impl Prelude {
    /// For a worker from whose address `address` leads to the script.
    #[must_use]
    pub fn new(address: String) -> Self {
        Self { waiting: Some(Vec::new()), address }
    }

    /// Takes a piece of the worker's script, and appends to `out` what can be sent on.
    pub fn write(&mut self, piece: &[u8], out: &mut BytesMut) {
        let Some(waiting) = &mut self.waiting else { return out.put(piece) };
        waiting.extend_from_slice(piece);
        match is_strict(waiting) {
            None if waiting.len() < SNIFF => {}
            strict => self.begin(strict == Some(true), out),
        }
    }

    /// The worker's script has ended: appends what was kept back.
    pub fn end(&mut self, out: &mut BytesMut) {
        self.begin(false, out);
    }

    fn begin(&mut self, strict: bool, out: &mut BytesMut) {
        let Some(waiting) = self.waiting.take() else { return };
        if strict {
            out.put(&b"\"use strict\";"[..]);
        }
        // The address holds nothing that a text in double quotes could not: it is made of a URL's path.
        out.put(format!("self.underpassAddress=new URL(\"{}\",location.href).href;", self.address).as_bytes());
        out.put(script().trim_end().as_bytes());
        out.put(&b";"[..]);
        out.put(&waiting[..]);
    }
}

/// Whether a script begins with the directive; `None` while too little has come.
fn is_strict(script: &[u8]) -> Option<bool> {
    let mut rest = script.strip_prefix(b"\xef\xbb\xbf").unwrap_or(script);
    loop {
        rest = rest.trim_ascii_start();
        let end: &[u8] = match rest {
            // The last two may become a byte order mark.
            [] | b"/" | [0xef] | [0xef, 0xbb] => return None,
            [b'/', b'/', ..] => b"\n",
            [b'/', b'*', ..] => b"*/",
            _ => break,
        };
        let at = rest.windows(end.len()).skip(2).position(|window| window == end)? + 2;
        rest = &rest[at + end.len()..];
    }
    if STRICT.iter().any(|directive| rest.starts_with(directive)) {
        return Some(true);
    }
    (!STRICT.iter().any(|directive| directive.starts_with(rest))).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(worker: &str, size: usize) -> String {
        let (mut prelude, mut out) = (Prelude::new("../_underpass/client.js".into()), BytesMut::new());
        for piece in worker.as_bytes().chunks(size) {
            prelude.write(piece, &mut out);
        }
        prelude.end(&mut out);
        String::from_utf8(out.to_vec()).expect("text")
    }

    #[test]
    fn the_script_comes_first_however_the_workers_is_cut() {
        for size in [1, 7, 1 << 20] {
            for worker in ["onmessage = () => {}", "", "// \"use strict\"", "/* x */ 'use sloppy'", "\"use stri", "/"] {
                let text = written(worker, size);
                assert!(text.starts_with("self.underpassAddress=new URL(\"../_underpass/client.js\","), "{worker}");
                assert!(text.ends_with(&format!("{};{worker}", script().trim_end())), "{worker}");
            }
        }
    }

    #[test]
    fn a_strict_script_stays_strict() {
        for worker in ["'use strict'; x", "// a\n/* b */\n \"use strict\"\nx", "\u{feff}\"use strict\""] {
            for size in [1, 7, 1 << 20] {
                assert!(written(worker, size).starts_with("\"use strict\";self."), "{worker}");
            }
        }
        assert!(written(&format!("//{}\n'use strict'", "x".repeat(SNIFF)), 100).starts_with("self."));
    }

    #[test]
    fn it_takes_one_line() {
        assert_eq!(written("one\ntwo", 100).lines().count(), 2);
    }
}
