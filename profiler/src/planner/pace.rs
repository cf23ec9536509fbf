//! How many rounds of a measurement there is time for.

use crate::clock::Clock;

/// Decides before each round whether there is one more.
pub(super) struct Pace<'a> {
    clock: &'a dyn Clock,
    /// Rounds that are gone through whatever the time, and at most.
    rounds: (usize, usize),
    /// When the last round should have ended.
    end_s: Option<f64>,
    began_s: Option<f64>,
    longest_s: f64,
}

impl<'a> Pace<'a> {
    pub(super) fn new(clock: &'a dyn Clock, least: usize, most: usize, end_s: Option<f64>) -> Self {
        Pace { clock, rounds: (least.min(most), most), end_s, began_s: None, longest_s: 0.0 }
    }

    /// Whether round number `round` is to be run: a round that would take as long as the longest so far has to end in
    /// time.
    pub(super) fn goes_on(&mut self, round: usize) -> bool {
        let now_s = self.clock.now_s();
        if let Some(began_s) = self.began_s.replace(now_s) {
            self.longest_s = self.longest_s.max(now_s - began_s);
        }
        let is_in_time = self.end_s.is_none_or(|end_s| now_s + self.longest_s <= end_s);
        round < self.rounds.1 && (round < self.rounds.0 || is_in_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimulatedClock;

    fn rounds(least: usize, most: usize, end_s: Option<f64>) -> (usize, f64) {
        let clock = SimulatedClock::new();
        let start_s = clock.now_s();
        let mut pace = Pace::new(&*clock, least, most, end_s.map(|end_s| start_s + end_s));
        let mut round = 0;
        while pace.goes_on(round) {
            clock.wait_until(clock.now_s() + 10.0);
            round += 1;
        }
        (round, clock.now_s() - start_s)
    }

    #[test]
    fn no_round_begins_that_would_end_too_late() {
        assert_eq!(rounds(1, 5, None).0, 5);
        assert_eq!(rounds(1, 5, Some(1000.0)).0, 5);
        let (round, taken_s) = rounds(1, 20, Some(45.0));
        assert!(round == 4 && taken_s <= 45.0, "{round} {taken_s}");
        assert_eq!(rounds(3, 20, Some(5.0)).0, 3, "so many whatever the time");
        assert_eq!(rounds(3, 2, Some(5.0)).0, 2, "never more than there may be");
    }
}
