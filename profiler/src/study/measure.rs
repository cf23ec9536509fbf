//! One trial: answers to all sentences, then the same sentences again and again under the meter.

use std::hint::black_box;

use serde::{Deserialize, Serialize};

use super::Readout;
use crate::energy::Energy;
use crate::error::Result;
use crate::meter::{EnergyMeter, MeteredDevice};

/// Updates of a slow sensor that the window has to hold.
const MIN_UPDATES: f64 = 12.0;

/// What a trial measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// How answers were read out.
    pub readout: Readout,
    /// The answers, sentence by sentence.
    pub answers: Vec<u32>,
    /// How many of them are right.
    pub correct: usize,
    /// Sentences under the meter, each a run of its own.
    pub sentences: usize,
    /// How long they took.
    pub duration_s: f64,
    /// Processor time of the process meanwhile.
    pub cpu_time_s: Option<f64>,
    /// What they took in joules.
    pub energy: Energy,
}

/// Runs a model over sentences, one at a time as they would come in, for at least `min_duration_s`.
///
/// `run` is told the index of a sentence and returns the model's output for it. The first pass over all sentences gives
/// the answers and warms up; it is not measured.
///
/// # Errors
/// Those of `run`.
pub fn measure(
    labels: &[u32],
    readout: Readout,
    run: &mut dyn FnMut(usize) -> Result<Vec<f32>>,
    (meter, device): (&EnergyMeter, MeteredDevice),
    min_duration_s: f64,
) -> Result<Measured> {
    let outputs = (0..labels.len()).map(&mut *run).collect::<Result<Vec<_>>>()?;
    let answers = readout.answers(&outputs, labels);
    let correct = answers.iter().zip(labels).filter(|(answer, label)| answer == label).count();
    let primary = meter.primary(device);
    let min_duration_s = min_duration_s.max(MIN_UPDATES * meter.update_period_s(&primary));
    let window = meter.begin();
    let mut sentences = 0;
    // Whole passes, so that every trial has the same sentences.
    while sentences == 0 || meter.close(window).duration_s < min_duration_s {
        for index in 0..labels.len() {
            black_box(run(index)?);
        }
        sentences += labels.len();
    }
    let measurement = meter.end(window);
    Ok(Measured {
        readout,
        answers,
        correct,
        sentences,
        duration_s: measurement.duration_s,
        cpu_time_s: measurement.cpu_time_s,
        energy: measurement.energy(&primary),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_passes_are_measured_behind_one_that_is_not() {
        let meter = EnergyMeter::start(Vec::new());
        let mut calls = Vec::new();
        let mut run = |index: usize| {
            calls.push(index);
            Ok(vec![1.0, index as f32])
        };
        let labels = [0, 1, 1];
        let measured =
            measure(&labels, Readout::Classes, &mut run, (&meter, MeteredDevice::Cpu), 1e-3).unwrap();
        // Equal logits go to the first class.
        assert_eq!((measured.answers, measured.correct), (vec![0, 0, 1], 2));
        assert_eq!(calls.len(), measured.sentences + labels.len());
        assert!(calls.iter().enumerate().all(|(at, index)| at % 3 == *index));
        assert!(measured.duration_s >= 1e-3);
        // Without a sensor there is no number.
        assert_eq!(measured.energy.energy_j, None);
    }
}
