//! One time line for samples, windows and spans.
//!
//! Every time in this crate is a number of seconds on the monotonic clock since the first call of this process, so
//! that a window and a sample can be compared with `<`; one anchor ties the line to the calendar.
//!
//! Whoever waits as part of a measurement asks a [`Clock`] to: the real one, or a [`SimulatedClock`], under which an
//! experiment of minutes is over in milliseconds and every run with the same seed is the same to the last bit.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

/// Tells the time and waits.
pub trait Clock: Send + Sync {
    /// The time on the time line.
    fn now_s(&self) -> f64;

    /// Returns at `time_s`, at once when that is past.
    fn wait_until(&self, time_s: f64);
}

/// The time of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock;

impl Clock for WallClock {
    fn now_s(&self) -> f64 {
        now_s()
    }

    fn wait_until(&self, time_s: f64) {
        let missing_s = time_s - now_s();
        if missing_s > 0.0 {
            thread::sleep(Duration::from_secs_f64(missing_s));
        }
    }
}

/// Something that happens at times of its own while others wait.
pub trait Follower: Send + Sync {
    /// When it wants to act next.
    fn due_s(&self) -> f64;

    /// Acts, at the time it asked for. It must not wait.
    fn act(&self);
}

/// A time that passes only when somebody waits, and then at once.
#[derive(Default)]
pub struct SimulatedClock {
    now_s: Mutex<f64>,
    followers: Mutex<Vec<Arc<dyn Follower>>>,
}

impl SimulatedClock {
    /// A clock at the time 0.
    pub fn new() -> Arc<Self> {
        Arc::new(SimulatedClock::default())
    }

    /// Has somebody act while time passes.
    pub fn follow(&self, follower: Arc<dyn Follower>) {
        lock(&self.followers).push(follower);
    }
}

impl Clock for SimulatedClock {
    fn now_s(&self) -> f64 {
        *lock(&self.now_s)
    }

    fn wait_until(&self, time_s: f64) {
        let followers = lock(&self.followers).clone();
        loop {
            let next = followers.iter().map(|follower| (follower.due_s(), follower));
            let next = next.min_by(|a, b| a.0.total_cmp(&b.0)).filter(|(due_s, _)| *due_s <= time_s);
            let Some((due_s, follower)) = next else { break };
            let mut now_s = lock(&self.now_s);
            *now_s = now_s.max(due_s);
            drop(now_s);
            follower.act();
        }
        let mut now_s = lock(&self.now_s);
        *now_s = now_s.max(time_s);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under one of these locks leaves a number or a list that is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Acts every 0.3 s and writes down when.
    struct Ticks(Arc<SimulatedClock>, Mutex<Vec<f64>>);

    impl Follower for Ticks {
        fn due_s(&self) -> f64 {
            0.3 * (lock(&self.1).len() + 1) as f64
        }

        fn act(&self) {
            lock(&self.1).push(self.0.now_s());
        }
    }

    #[test]
    fn simulated_time_passes_by_waiting_and_others_act_meanwhile() {
        let clock = SimulatedClock::new();
        let ticks = Arc::new(Ticks(clock.clone(), Mutex::default()));
        clock.follow(ticks.clone());
        clock.wait_until(1.0);
        clock.wait_until(0.5);
        assert_eq!((clock.now_s(), lock(&ticks.1).clone()), (1.0, vec![0.3, 0.6, 0.3 * 3.0]));
    }

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
