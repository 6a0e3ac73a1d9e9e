//! Paths of unix sockets.
//!
//! Enters: a value. Leaves: a path that a socket can have, or an error. Must not touch: files.

use std::path::PathBuf;

use super::values::ValueError;

/// The longest path of a unix socket that the kernel accepts, without the final zero byte.
const UNIX_PATH_MAX: usize = 107;

/// What stands behind `unix:`.
pub(super) fn unix(path: &str) -> Result<PathBuf, ValueError> {
    checked(path, "needs an absolute path after `unix:`", "write for example \"unix:/run/underpass.sock\"")
}

/// A socket that can be nothing else, without `unix:`.
pub(super) fn socket(path: &str) -> Result<Option<PathBuf>, ValueError> {
    checked(path, "needs an absolute path", "write for example \"/run/underpass/handover.sock\"").map(Some)
}

fn checked(path: &str, relative: &str, hint: &str) -> Result<PathBuf, ValueError> {
    match path {
        _ if path.starts_with("//") => Err(ValueError::new("has no host to name", hint)),
        _ if !path.starts_with('/') || path.len() < 2 => Err(ValueError::new(relative, hint)),
        _ if path.contains('\0') => Err(ValueError::new("has a zero byte in its path", hint)),
        _ if path.len() > UNIX_PATH_MAX => Err(ValueError::new(
            format!("has a path of {} bytes; sockets take at most {UNIX_PATH_MAX}", path.len()),
            hint,
        )),
        _ => Ok(PathBuf::from(path)),
    }
}
