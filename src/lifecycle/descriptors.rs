//! How many file descriptors the process has open, and how many it may have (proc(5)).
//!
//! Enters: nothing. Leaves: numbers, where the system has them. Must not touch: descriptors.

use std::fs;

/// Those that are open.
#[must_use]
pub fn open() -> Option<u64> {
    // Since Linux 6.2 the directory's size is the number of open files; before, it is 0 and they must be listed, with
    // one more for the listing itself.
    let known = fs::metadata("/proc/self/fd").ok()?.len();
    if known > 0 { Some(known) } else { Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1)) }
}

/// The most that this process may have; `None` also when there is no limit.
#[must_use]
pub fn limit() -> Option<u64> {
    parse_limit(&fs::read_to_string("/proc/self/limits").ok()?)
}

/// `Max open files            1024                 524288               files`: the soft limit.
fn parse_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_read() {
        let text = "Limit  Soft Limit Hard Limit Units\nMax open files            1024                 524288  files\n";
        assert_eq!(parse_limit(text), Some(1024));
        assert_eq!(parse_limit("Max open files  unlimited unlimited files"), None);
        assert!(open().is_none_or(|open| open > 0));
    }
}
