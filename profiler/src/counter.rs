//! A counter of joules that may wrap around or start again.

/// Turns the raw readings of an energy counter into joules since the first reading.
///
/// A reading below the last one means one of two things. A counter of known range (RAPL) wrapped: the energy went on
/// from zero. Or it was reset (a driver was reloaded, a machine was suspended): what was used meanwhile is unknown.
/// They are told apart by the step that a wrap would imply: readers poll many times per range, so a step of more
/// than half the range is a reset. A counter without a range (NVML's 64 bits of millijoules) never wraps.
#[derive(Clone, Debug)]
pub struct Counter {
    range_j: Option<f64>,
    last_raw_j: Option<f64>,
    total_j: f64,
}

/// What a new raw reading said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Advance {
    /// The first reading: there is nothing to compare it with.
    Started,
    /// The counter has not been updated since the last reading.
    Unchanged,
    /// So many joules were used since the last reading.
    By(f64),
    /// The counter started again; the energy since the last reading is unknown.
    Reset,
}

impl Counter {
    /// A counter that wraps at `range_j` joules, or never.
    pub fn new(range_j: Option<f64>) -> Self {
        Counter { range_j, last_raw_j: None, total_j: 0.0 }
    }

    /// Takes in a raw reading in joules.
    pub fn advance(&mut self, raw_j: f64) -> Advance {
        let Some(last_j) = self.last_raw_j.replace(raw_j) else { return Advance::Started };
        let mut step_j = raw_j - last_j;
        if step_j < 0.0 {
            step_j += match self.range_j {
                Some(range_j) if step_j + range_j <= range_j / 2.0 => range_j,
                _ => return Advance::Reset,
            };
        }
        if step_j == 0.0 {
            return Advance::Unchanged;
        }
        self.total_j += step_j;
        Advance::By(step_j)
    }

    /// Joules since the first reading, wraps added, resets counted as nothing.
    pub fn total_j(&self) -> f64 {
        self.total_j
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(range_j: Option<f64>, readings: &[f64]) -> (Vec<Advance>, f64) {
        let mut counter = Counter::new(range_j);
        let steps = readings.iter().map(|&raw_j| counter.advance(raw_j)).collect();
        (steps, counter.total_j())
    }

    #[test]
    fn steps_add_up() {
        let (steps, total_j) = feed(None, &[5.0, 5.0, 7.5, 8.0]);
        assert_eq!(steps, [Advance::Started, Advance::Unchanged, Advance::By(2.5), Advance::By(0.5)]);
        assert_eq!(total_j, 3.0);
    }

    #[test]
    fn a_counter_of_known_range_wraps() {
        // 98 -> 3 over a range of 100 is 5 J; then it wraps again, 40 -> 80 -> 10 is 40 + 30.
        let (steps, total_j) = feed(Some(100.0), &[98.0, 3.0, 40.0, 80.0, 10.0]);
        assert_eq!(steps[1], Advance::By(5.0));
        assert_eq!(total_j, 5.0 + 37.0 + 40.0 + 30.0);
    }

    #[test]
    fn a_fall_that_no_wrap_explains_is_a_reset() {
        // A wrap from 50 to 10 would be a step of 60 out of 100.
        let (steps, total_j) = feed(Some(100.0), &[40.0, 50.0, 10.0, 12.0]);
        assert_eq!(steps[2], Advance::Reset);
        assert_eq!(total_j, 10.0 + 2.0);
    }

    #[test]
    fn a_counter_without_range_never_wraps() {
        let (steps, total_j) = feed(None, &[1.0e6, 0.0, 4.0]);
        assert_eq!(steps[1], Advance::Reset);
        assert_eq!(total_j, 4.0);
    }
}
