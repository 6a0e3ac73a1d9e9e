//! One value of the file: durations, sizes, counts, flags, texts.
//!
//! Enters: a TOML value. Leaves: the Rust value in the unit of its key, or a [`ValueError`] that says what was expected.
//! Must not touch: keys and tables (`reader`), other rooms.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::{DeInteger, DeValue};

const DURATION_HINT: &str = "write for example \"400ms\", \"60s\", \"1m30s\" or \"2h\"; a bare number is seconds";
const SIZE_HINT: &str = "write for example \"64KiB\" or \"1MiB\"; a bare number is bytes";

/// Why a value is refused.
#[derive(Debug)]
pub(super) struct ValueError {
    /// Continues a sentence that begins with the key: "must be …".
    pub(super) what: String,
    /// What to write instead; may be empty.
    pub(super) hint: String,
}

impl ValueError {
    pub(super) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

pub(super) fn flag(value: &DeValue<'_>) -> Result<bool, ValueError> {
    value.as_bool().ok_or_else(|| of_type(value, "true or false", "write true or false, without quotes"))
}

pub(super) fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, ValueError> {
    value.as_str().ok_or_else(|| of_type(value, "a text", "write it in double quotes"))
}

pub(super) fn count(value: &DeValue<'_>) -> Result<u64, ValueError> {
    let number = value.as_integer().ok_or_else(|| of_type(value, "a whole number", "write digits, without quotes"))?;
    integer(number)
}

/// Bytes. Binary units count by 1024, decimal ones by 1000.
pub(super) fn size(value: &DeValue<'_>) -> Result<u64, ValueError> {
    match value {
        DeValue::Integer(bytes) => integer(bytes),
        DeValue::String(text) => size_text(text).ok_or_else(|| ValueError::new("is not a size", SIZE_HINT)),
        _ => Err(of_type(value, "a size", SIZE_HINT)),
    }
}

/// A text with units, or a number of seconds.
pub(super) fn duration(value: &DeValue<'_>) -> Result<Duration, ValueError> {
    let not = || ValueError::new("is not a duration", DURATION_HINT);
    match value {
        DeValue::Integer(seconds) => integer(seconds).map(Duration::from_secs),
        DeValue::Float(seconds) => {
            let seconds: f64 = seconds.as_str().parse().map_err(|_| not())?;
            Duration::try_from_secs_f64(seconds).map_err(|_| not())
        }
        DeValue::String(text) => duration_text(text).ok_or_else(not),
        _ => Err(of_type(value, "a duration", DURATION_HINT)),
    }
}

/// Refuses values outside of `bounds`; `show` prints a value as the operator would write it.
pub(super) fn within<T: PartialOrd + Copy, S: Display>(
    value: T,
    bounds: &RangeInclusive<T>,
    show: impl Fn(T) -> S,
) -> Result<T, ValueError> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    let (low, high) = (show(*bounds.start()), show(*bounds.end()));
    Err(ValueError::new(format!("must be between {low} and {high}, but is {}", show(value)), ""))
}

/// The shortest text that [`duration`] reads back: `1m30s`.
pub(super) fn show_duration(duration: Duration) -> String {
    const UNITS: [(&str, u128); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let mut left = duration.as_millis();
    let mut shown = String::new();
    for (unit, length) in UNITS {
        if left >= length {
            shown += &format!("{}{unit}", left / length);
            left %= length;
        }
    }
    if shown.is_empty() { "0s".to_owned() } else { shown }
}

/// In the largest binary unit that divides it: `64KiB`.
pub(super) fn show_size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let fitting = units.iter().find(|(_, length)| bytes >= *length && bytes.is_multiple_of(*length));
    fitting.map_or_else(|| format!("{bytes}B"), |(unit, length)| format!("{}{unit}", bytes / length))
}

fn of_type(value: &DeValue<'_>, wanted: &str, hint: &str) -> ValueError {
    let article = if matches!(value, DeValue::Integer(_) | DeValue::Array(_)) { "an" } else { "a" };
    ValueError::new(format!("must be {wanted}, not {article} {}", value.type_str()), hint)
}

fn integer(number: &DeInteger<'_>) -> Result<u64, ValueError> {
    let refused = |_| ValueError::new(format!("must be a whole number that is not negative, but is {number}"), "");
    u64::from_str_radix(number.as_str(), number.radix()).map_err(refused)
}

fn size_text(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(digits(text, |c| c.is_ascii_digit()));
    let length: u64 = match unit.trim_start_matches(' ') {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(length)
}

fn duration_text(text: &str) -> Option<Duration> {
    let mut left = text;
    let mut sum = Duration::ZERO;
    while !left.is_empty() {
        let (number, rest) = left.split_at(digits(left, |c| c.is_ascii_digit() || c == '.'));
        let (unit, rest) = rest.split_at(digits(rest, |c| c.is_ascii_alphabetic()));
        sum = sum.checked_add(part(number, unit)?)?;
        left = rest;
    }
    (!text.is_empty()).then_some(sum)
}

/// One number with its unit. Whole numbers are exact, others have the precision of an `f64`.
fn part(number: &str, unit: &str) -> Option<Duration> {
    let millis: u32 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(millis.into()).map(Duration::from_millis),
        Err(_) => Duration::try_from_secs_f64(number.parse::<f64>().ok()? * f64::from(millis) / 1000.0).ok(),
    }
}

/// How many bytes at the start of `text` are of this kind.
fn digits(text: &str, kind: impl Fn(char) -> bool) -> usize {
    text.find(|c| !kind(c)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let good = [("400ms", 400), ("60s", 60_000), ("1m30s", 90_000), ("2h", 7_200_000), ("0.5s", 500), ("0s", 0)];
        for (text, millis) in good {
            assert_eq!(duration_text(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "60", "s", "1.2.3s", "-1s", "1d", "1s ", "99999999999999999999h", "18446744073709551615h", ".s"]
        {
            assert_eq!(duration_text(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("1B", 1), ("64KiB", 65_536), ("1 MiB", 1 << 20), ("2GiB", 1 << 31), ("3KB", 3000)] {
            assert_eq!(size_text(text), Some(bytes), "{text}");
        }
        for text in ["", "64", "64K", "KiB", "-1B", "1.5MiB", "18446744073709551615GiB"] {
            assert_eq!(size_text(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for millis in [0, 1, 999, 1000, 90_500, 86_400_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(duration_text(&show_duration(duration)), Some(duration));
        }
        for bytes in [0, 1, 1023, 1024, 1025, 65_536, 1 << 20, 1 << 30] {
            assert_eq!(size_text(&show_size(bytes)), Some(bytes));
        }
        assert_eq!(show_duration(Duration::from_secs(86_400)), "24h");
        assert_eq!(show_size(64 << 20), "64MiB");
    }
}
