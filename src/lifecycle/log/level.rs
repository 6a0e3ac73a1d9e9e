//! The level of the log, which the operator may change while the process runs.
//!
//! Enters: levels and directives, in the words of `RUST_LOG`. Leaves: the filter in force. Must not touch: lines.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tracing_subscriber::reload::{Handle, Layer};
use tracing_subscriber::{EnvFilter, Registry};

/// The filter of this process and what it was made of; `None` before the log is started, as in tests.
static IN_FORCE: Mutex<Option<InForce>> = Mutex::new(None);

/// The longest text of directives, in bytes.
const LONGEST: usize = 1024;

struct InForce {
    handle: Handle<EnvFilter, Registry>,
    level: String,
}

/// Why a level was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// It is none.
    #[error(
        "`{level}` is no level: write off, error, warn, info, debug or trace, or directives as in RUST_LOG ({why})"
    )]
    Malformed {
        /// What was asked for, shortened.
        level: String,
        /// What the parser says.
        why: String,
    },
    /// This process has no log whose level can be changed.
    #[error("this process has no log whose level can be changed")]
    NoLog,
}

/// A layer that filters by `level` until another level is set.
pub(super) fn layer(level: &str, filter: EnvFilter) -> Layer<EnvFilter, Registry> {
    let (layer, handle) = Layer::new(filter);
    *IN_FORCE.lock().unwrap_or_else(PoisonError::into_inner) = Some(InForce { handle, level: level.to_owned() });
    layer
}

/// The level in force, or the directives; `None` when the log was not started.
#[must_use]
pub fn level() -> Option<String> {
    IN_FORCE.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|force| force.level.clone())
}

/// Sets the level of all lines from now on, until the process ends. Takes no effect on what was started with colours or
/// JSON: the form stays.
///
/// # Errors
/// [`LevelError`]; the old level stays.
pub fn set_level(level: &str) -> Result<(), LevelError> {
    let filter = parse(level)?;
    let mut force = IN_FORCE.lock().unwrap_or_else(PoisonError::into_inner);
    let force = force.as_mut().ok_or(LevelError::NoLog)?;
    force.handle.reload(filter).map_err(|_| LevelError::NoLog)?;
    let before = std::mem::replace(&mut force.level, level.to_owned());
    tracing::warn!(before, level, "the operator changed the log's level");
    Ok(())
}

fn parse(level: &str) -> Result<EnvFilter, LevelError> {
    let malformed = |why: &dyn fmt::Display| {
        let level = level.chars().take(40).flat_map(char::escape_default).collect();
        LevelError::Malformed { level, why: why.to_string() }
    };
    // A single word that is no level would be taken for the name of a module, and silence everything.
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let word = level.split([',', '=']).count() == 1;
    if level.len() > LONGEST || (word && !levels.contains(&level.to_ascii_lowercase().as_str())) {
        return Err(malformed(&"unknown word"));
    }
    EnvFilter::try_new(level).map_err(|error| malformed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_taken_and_nothing_else() {
        for sound in ["off", "info", "DEBUG", "warn,underpass::registry=debug", "underpass=trace"] {
            assert!(parse(sound).is_ok(), "{sound}");
        }
        for wrong in ["", "verbose", "underpass=loud", "info,,,=", &"x".repeat(2000)] {
            let error = parse(wrong).expect_err(wrong).to_string();
            assert!(error.contains("is no level: write off, error"), "{error}");
        }
    }
}
