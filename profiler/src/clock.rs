//! One time line for samples, windows and spans.
//!
//! Every time in this crate is a number of seconds on the monotonic clock since the first call of this process, so
//! that a window and a sample can be compared with `<`; one anchor ties the line to the calendar.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

struct Epoch {
    instant: Instant,
    unix_s: f64,
}

fn epoch() -> &'static Epoch {
    static EPOCH: OnceLock<Epoch> = OnceLock::new();
    EPOCH.get_or_init(|| Epoch {
        instant: Instant::now(),
        // A calendar before 1970 means an unset clock: the anchor is then 1970 itself.
        unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
    })
}

/// Seconds since the first call.
pub fn now_s() -> f64 {
    let epoch = epoch();
    epoch.instant.elapsed().as_secs_f64()
}

/// The calendar time of a moment on the time line, in seconds since 1970 (UTC).
pub fn to_unix_s(time_s: f64) -> f64 {
    epoch().unix_s + time_s
}

/// The moment on the time line of a calendar time, in seconds since 1970 (UTC).
pub fn from_unix_s(unix_s: f64) -> f64 {
    unix_s - epoch().unix_s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_line_runs_forward_and_is_anchored_to_the_calendar() {
        let first = now_s();
        let second = now_s();
        assert!(second >= first);
        // Seconds since 1970 need 31 bits of the 53: what is left resolves 2^-22 s.
        assert!((from_unix_s(to_unix_s(second)) - second).abs() < 1e-6);
        let calendar = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        // The calendar of a test machine may be slewed, not stepped by a minute.
        assert!((to_unix_s(now_s()) - calendar).abs() < 60.0);
    }
}
