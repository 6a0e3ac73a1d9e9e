//! Holds our readers against hyper.
//!
//! Enters: any bytes. Leaves: whether our reader took them, or how hyper sees them otherwise. Must not touch: how the bytes
//! came about.
//!
//! What our readers leave is hyper's anyway, so nothing is to be said of it.

use std::fmt::Debug;

use bytes::Bytes;

use super::oracle::{self, Ending, RequestSeen, ResponseSeen};
use super::ours::{self, Limits, Verdict};

/// The answer to the key of RFC 6455 section 1.3.
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The longest beginning of a response for whose end our reader waits.
const MOST_IN_PIECES: usize = 4 * 1024;

/// Whether our reader takes a request at the beginning of these bytes. hyper gets them whole, and cut at each of `cuts`.
///
/// # Errors
/// What hyper sees otherwise.
pub(crate) fn request(bytes: &[u8], limits: Limits, cuts: &[usize]) -> Result<bool, String> {
    let all = Bytes::copy_from_slice(bytes);
    let Some((request, end, keeps_alive)) = ours::read_request(&all, limits) else { return Ok(false) };
    let read = ours::readable(bytes, &request);
    // The encoded target is longer, which is not the client's doing.
    let limits = Limits { bytes: limits.bytes + read.len() - bytes.len(), ..limits };
    let bytes = read;
    let taken = Ok(Some(RequestSeen::new(request, all.slice(end..))));
    for pieces in pieces(&bytes, cuts) {
        same(&taken, &oracle::serve(limits, &pieces), &pieces)?;
    }
    let serves_on = oracle::serves_on(limits, &bytes);
    if keeps_alive == serves_on { Ok(true) } else { Err(format!("kept alive: ours {keeps_alive}, hyper {serves_on}")) }
}

/// Whether our readers take these bytes as the response to a request, or as that to a handshake.
///
/// # Errors
/// What hyper sees otherwise.
pub(crate) fn response(bytes: &[u8], cuts: &[usize]) -> Result<bool, String> {
    let all = Bytes::copy_from_slice(bytes);
    let (short, switch) = (ours::read_response(&all), ours::read_switch(&all, ACCEPT));
    let taken = matches!(short, Verdict::Taken(_)) || matches!(switch, Verdict::Taken(_));
    for pieces in pieces(bytes, cuts) {
        match &short {
            Verdict::Taken(response) => {
                let (parts, body) = response.clone().into_parts();
                let taken = ResponseSeen::new(&parts, body, Bytes::new(), true);
                same(&Ok(Some(taken)), &oracle::ask(&pieces, Ending::Open), &pieces)?;
            }
            // Who waits for more must not wait for what hyper would not wait for.
            Verdict::Unfinished if bytes.len() < MOST_IN_PIECES => {
                same(&Ok(None), &oracle::ask(&pieces, Ending::Open), &pieces)?;
            }
            Verdict::Unfinished | Verdict::Left => {}
        }
        match &switch {
            Verdict::Taken((parts, rest)) => {
                let taken = ResponseSeen::new(parts, Bytes::new(), rest.clone(), false);
                same(&Ok(Some(taken)), &oracle::switch(&pieces), &pieces)?;
            }
            Verdict::Unfinished if bytes.len() < MOST_IN_PIECES => {
                same(&Ok(None), &oracle::switch(&pieces), &pieces)?;
            }
            Verdict::Unfinished | Verdict::Left => {}
        }
    }
    Ok(taken)
}

/// The bytes whole, and in two at each cut.
fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> impl Iterator<Item = [&'a [u8]; 2]> {
    let cuts = cuts.iter().map(move |cut| {
        let (before, behind) = bytes.split_at(cut % (bytes.len() + 1));
        [before, behind]
    });
    [[bytes, &[]]].into_iter().chain(cuts.collect::<Vec<_>>())
}

fn same<T: PartialEq + Debug>(ours: &T, hyper: &T, pieces: &[&[u8]]) -> Result<(), String> {
    if ours == hyper {
        return Ok(());
    }
    let pieces: Vec<String> = pieces.iter().map(|piece| piece.escape_ascii().to_string()).collect();
    Err(format!("bytes {pieces:?}\nours  {ours:?}\nhyper {hyper:?}"))
}
