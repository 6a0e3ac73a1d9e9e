//! The time of a line of the log.
//!
//! Enters: a time. Leaves: its text, as RFC 3339 writes it. Must not touch: the clock.

use std::cell::RefCell;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing_subscriber::fmt::format::Writer;

thread_local! {
    /// The second that was written last, and its text.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// RFC 3339 with microseconds. Everything before the fraction is formatted only once a second.
pub(super) fn put_time(writer: &mut Writer<'_>, now: SystemTime) -> fmt::Result {
    // Only a clock that is wrong is before 1970.
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != since.as_secs() || text.is_empty() {
            (*second, *text) = (since.as_secs(), second_of(since.as_secs()));
        }
        writer.write_str(text)
    })?;
    let micros = since.subsec_micros();
    let digits = [100_000, 10_000, 1000, 100, 10, 1].map(|least| b'0' + (micros / least % 10) as u8);
    writer.write_str(std::str::from_utf8(&digits).unwrap_or_default())?;
    writer.write_char('Z')
}

/// Date and time of a second since 1970, up to and including the point before the fraction.
fn second_of(second: u64) -> String {
    let (year, month, day) = date_of(second / 86_400);
    let (hour, minute, second) = (second / 3600 % 24, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.")
}

/// Year, month and day of a day since 1970. Computed in eras of 400 years whose years begin in March, so that the leap day
/// is the last day of a year.
fn date_of(day: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    let shifted = day + 719_468;
    let of_era = shifted % ERA;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / (ERA - 1)) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = shifted / ERA * 400 + year_of_era + u64::from(month <= 2);
    (year, month, of_year - (153 * from_march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_those_of_another_calendar() {
        let years = (0..140 * 366).map(|day| day * 86_400 + day % 86_400);
        for second in years.chain([1_795_418_373]) {
            let http = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            let (date, time) = (http.split(' ').collect::<Vec<_>>(), second_of(second));
            let month = "JanFebMarAprMayJunJulAugSepOctNovDec".find(date[2]).expect("a month") / 3 + 1;
            assert_eq!(time, format!("{}-{month:02}-{}T{}.", date[3], date[1], date[4]));
        }
        let mut written = String::new();
        let now = UNIX_EPOCH + Duration::from_micros(1_795_418_373_012_345);
        put_time(&mut Writer::new(&mut written), now).expect("memory takes all");
        assert_eq!(written, "2026-11-23T07:19:33.012345Z");
    }
}
