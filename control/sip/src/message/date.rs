//! SIP-date (RFC 3261 section 20.17): RFC 1123 form, always GMT, as seconds of Unix time.

use super::error::{Fault, ValueError};

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY_S: u64 = 86_400;

/// Writes a time of 1970 to 9999 (`Sat, 13 Nov 2010 23:29:00 GMT`).
pub fn format(unix_s: u64) -> String {
    let days = unix_s / DAY_S;
    let (year, month, day) = civil_of_days(days);
    let of_day = unix_s % DAY_S;
    let weekday = DAYS[(days % 7) as usize];
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let month = MONTHS[(month - 1) as usize];
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Reads a date of 1970 to 9999; the weekday is not held against the date.
pub fn parse(text: &str) -> Result<u64, ValueError> {
    parse_parts(text.trim()).ok_or(ValueError { fault: Fault::Date, at: 0 })
}

fn parse_parts(text: &str) -> Option<u64> {
    let (weekday, rest) = text.split_once(", ")?;
    DAYS.iter().find(|d| d.eq_ignore_ascii_case(weekday))?;
    let mut parts = rest.split(' ');
    let day = digits(parts.next()?, 2)?;
    let month_name = parts.next()?;
    let month = 1 + MONTHS.iter().position(|m| m.eq_ignore_ascii_case(month_name))? as u64;
    let year = digits(parts.next()?, 4)?;
    let mut clock = parts.next()?.split(':');
    let (hour, minute, second) = (digits(clock.next()?, 2)?, digits(clock.next()?, 2)?, digits(clock.next()?, 2)?);
    let ends_well = parts.next() == Some("GMT") && parts.next().is_none() && clock.next().is_none();
    let in_range = (1970..=9999).contains(&year) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    (ends_well && in_range).then(|| days_of_civil(year, month, day) * DAY_S + hour * 3600 + minute * 60 + second)
}

fn digits(text: &str, len: usize) -> Option<u64> {
    (text.len() == len && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Days since 1970-01-01 of a Gregorian date, by counting from a March year so that leap days come last.
fn days_of_civil(year: u64, month: u64, day: u64) -> u64 {
    let march_year = if month <= 2 { year - 1 } else { year };
    let month_of_march_year = (month + 9) % 12;
    let day_of_year = (153 * month_of_march_year + 2) / 5 + day - 1;
    365 * march_year + march_year / 4 - march_year / 100 + march_year / 400 + day_of_year - DAYS_BEFORE_1970
}

/// Days from 1 March of year 0 to 1 January 1970.
const DAYS_BEFORE_1970: u64 = 719_468;

fn civil_of_days(days: u64) -> (u64, u64, u64) {
    let days = days + DAYS_BEFORE_1970;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_of_march_year = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_of_march_year + 2) / 5 + 1;
    let month = if month_of_march_year < 10 { month_of_march_year + 3 } else { month_of_march_year - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rfcs_example_and_the_edges() {
        assert_eq!(parse("Sat, 13 Nov 2010 23:29:00 GMT").unwrap(), 1_289_690_940);
        assert_eq!(format(1_289_690_940), "Sat, 13 Nov 2010 23:29:00 GMT");
        assert_eq!(format(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(format(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        for unix_s in (0..4_102_444_800).step_by(86_399 * 31) {
            assert_eq!(parse(&format(unix_s)).unwrap(), unix_s);
        }
    }

    #[test]
    fn other_zones_and_forms_are_refused() {
        for bad in [
            "Fri, 01 Jan 2010 16:00:00 EST",
            "Fri, 1 Jan 2010 16:00:00 GMT",
            "01 Jan 2010 16:00:00 GMT",
            "",
            "Fri, 01 Jan 2010 24:00:00 GMT",
            "Fri, 01 Foo 2010 16:00:00 GMT",
            "Fri, 01 Jan 2010 16:00:00 GMT x",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
