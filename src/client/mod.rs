//! The browser client as it is served: a script, the same as a module, and its types.
//!
//! Enters: a request's method, headers and query. Leaves: the file, its compressed form, or 304. Must not touch: what is
//! in the files; other rooms.
//!
//! `inject` writes the script's tag into pages, `prelude` the script before those of workers, `policy` decides whether a
//! page's Content-Security-Policy allows the script, `unpack` undoes the compression of a page on its way.
//!
//! A file that is requested with its hash (`client.js?v=<hash>`, see [`hash`]) may be cached for a year. Without the hash
//! it must be revalidated each time, which its `ETag` makes cheap.

pub mod inject;
pub mod policy;
pub mod prelude;
pub mod unpack;

use std::io::Write as _;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

/// The script, made of `script/`; a test holds it against what those files make. Its first line says so and is not served.
const SCRIPT: &str = include_str!("client.min.js");
/// Its types.
const TYPES: &str = include_str!("client.d.ts");
/// The start of the module: it gives the script its own address, since `import.meta` is an error in a script.
const MODULE_HEAD: &str = include_str!("module/address.js");
/// The end of the module: its exports.
const MODULE_FOOT: &str = include_str!("module/exports.js");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// `client.js`: replaces the page's `WebSocket`.
    Script,
    /// `client.mjs`: the same text as a module; it replaces nothing by itself.
    Module,
    /// `client.d.ts`: the types of the module.
    Types,
}

impl File {
    /// The file of this name under the prefix.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "client.js" => Self::Script,
            "client.mjs" => Self::Module,
            "client.d.ts" => Self::Types,
            _ => return None,
        })
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Script | Self::Module => "text/javascript; charset=utf-8",
            Self::Types => "text/plain; charset=utf-8",
        })
    }

    fn made(self) -> &'static Made {
        static MADE: LazyLock<[Made; 3]> = LazyLock::new(|| {
            let script = script();
            let module = format!("{MODULE_HEAD}{script}{MODULE_FOOT}");
            [Made::new(script.into()), Made::new(module.into()), Made::new(TYPES.into())]
        });
        &MADE[self as usize]
    }
}

/// The hash of a file, for `?v=` behind its address.
#[must_use]
pub fn hash(file: File) -> &'static str {
    &file.made().hash
}

/// The script's digest, as a tag's `integrity` has it (Subresource Integrity, section 3.1).
#[must_use]
pub fn integrity() -> &'static str {
    static INTEGRITY: LazyLock<String> = LazyLock::new(|| {
        let digest = ring::digest::digest(&ring::digest::SHA384, script().as_bytes());
        format!("sha384-{}", STANDARD.encode(digest))
    });
    &INTEGRITY
}

/// The script as it is served.
fn script() -> &'static str {
    SCRIPT.split_once('\n').map_or(SCRIPT, |(_, script)| script)
}

/// The response to a `GET` or `HEAD` for a file.
#[must_use]
pub fn respond(file: File, method: &Method, headers: &HeaderMap, query: Option<&str>) -> Response<Bytes> {
    let made = file.made();
    let (bytes, tag, gzip) = match accepts_gzip(headers) {
        true => (&made.gzip, &made.gzip_tag, true),
        false => (&made.plain, &made.plain_tag, false),
    };
    let known = is_known(headers, made);
    let empty = known || *method == Method::HEAD;
    let mut response = Response::new(if empty { Bytes::new() } else { bytes.clone() });
    let mut put = |name: HeaderName, value: HeaderValue| response.headers_mut().insert(name, value);
    put(ETAG, tag.clone());
    put(VARY, HeaderValue::from_static("Accept-Encoding"));
    put(CACHE_CONTROL, cache_control(query, &made.hash));
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    put(CONTENT_TYPE, file.content_type());
    if gzip {
        put(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if empty {
        put(http::header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
    response
}

/// A file, plain and compressed.
struct Made {
    hash: String,
    plain: Bytes,
    plain_tag: HeaderValue,
    gzip: Bytes,
    gzip_tag: HeaderValue,
}

impl Made {
    fn new(plain: Bytes) -> Self {
        let hash = format!("{:016x}", fnv1a(&plain));
        let tag = |form| HeaderValue::try_from(format!("\"{hash}{form}\"")).expect("hexadecimal digits");
        let (plain_tag, gzip_tag) = (tag(""), tag("-gzip"));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&plain).expect("memory takes every write");
        let gzip = encoder.finish().expect("memory takes every write").into();
        Self { hash, plain, plain_tag, gzip, gzip_tag }
    }
}

/// FNV-1a, 64 bits. It only has to tell our own versions apart, so a cryptographic hash is not needed.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    elements(headers, &ACCEPT_ENCODING).any(|element| {
        let (coding, weight) = element.split_once(';').unwrap_or((element, ""));
        let refused = weight.trim().strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()).is_some_and(|q| q <= 0.0);
        coding.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

/// Whether the client has the file already, in either form (RFC 9110 section 13.1.2: weak comparison).
fn is_known(headers: &HeaderMap, made: &Made) -> bool {
    elements(headers, &IF_NONE_MATCH).any(|tag| {
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        tag == "*" || [&made.plain_tag, &made.gzip_tag].iter().any(|ours| *ours == tag)
    })
}

fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

fn cache_control(query: Option<&str>, hash: &str) -> HeaderValue {
    let named = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("v="));
    HeaderValue::from_static(match named == Some(hash) {
        true => "public, max-age=31536000, immutable",
        false => "no-cache",
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn response(headers: &[(HeaderName, &str)], query: Option<&str>) -> Response<Bytes> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        respond(File::Script, &Method::GET, &map, query)
    }

    #[test]
    fn the_script_and_the_module_are_small_enough() {
        for file in [File::Script, File::Module] {
            let size = file.made().gzip.len();
            assert!(size <= 11 * 1024, "{file:?}: {size} bytes compressed");
        }
    }

    #[test]
    fn both_forms_are_the_same_file() {
        let plain = response(&[], None);
        let packed = response(&[(ACCEPT_ENCODING, "br, gzip;q=0.5")], None);
        assert_eq!(packed.headers()[CONTENT_ENCODING], "gzip");
        assert_ne!(plain.headers()[ETAG], packed.headers()[ETAG]);
        let mut text = String::new();
        flate2::read::GzDecoder::new(&packed.body()[..]).read_to_string(&mut text).expect("gzip");
        assert_eq!(text.as_bytes(), plain.body());
        assert!(!response(&[(ACCEPT_ENCODING, "gzip;q=0")], None).headers().contains_key(CONTENT_ENCODING));
    }

    #[test]
    fn what_is_known_is_not_sent_again() {
        let tag = response(&[], None).headers()[ETAG].to_str().expect("text").to_owned();
        for known in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
            let again = response(&[(IF_NONE_MATCH, &known)], None);
            assert_eq!((again.status(), again.body().len()), (StatusCode::NOT_MODIFIED, 0), "{known}");
        }
        assert_eq!(response(&[(IF_NONE_MATCH, "\"x\"")], None).status(), StatusCode::OK);
    }

    #[test]
    fn only_its_own_hash_makes_it_cacheable() {
        let named = format!("a=1&v={}", hash(File::Script));
        assert_eq!(response(&[], Some(&named)).headers()[CACHE_CONTROL], "public, max-age=31536000, immutable");
        for query in [None, Some("v=0"), Some("")] {
            assert_eq!(response(&[], query).headers()[CACHE_CONTROL], "no-cache");
        }
    }

    #[test]
    fn the_module_is_the_script_and_its_exports() {
        let module = std::str::from_utf8(&File::Module.made().plain).expect("text");
        assert!(module.starts_with(MODULE_HEAD) && module.ends_with(MODULE_FOOT));
        assert!(module.contains(script()));
    }
}
