//! Rotary position embedding tables.
//!
//! Source of the method: Su et al. 2021. Source of the scalings: the `rope_parameters` of Hugging Face
//! configurations (`default`, `linear`, `llama3`, `yarn`; Peng et al. 2023 for YaRN), reproduced so that cos and sin
//! agree with transformers' to f32 rounding.

use std::f64::consts::PI;

/// How frequencies are stretched beyond the trained context.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// Every frequency divided by `factor`.
    Linear {
        /// Stretch.
        factor: f64,
    },
    /// Every frequency divided by its own number (the form in which GGUF files have Llama 3.1's).
    Divisors {
        /// One for each pair of dimensions.
        divisors: Vec<f64>,
    },
    /// Low frequencies stretched, high ones kept, a smooth band between (Llama 3.1).
    Llama3 {
        /// Stretch of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_positions / low_freq_factor` are stretched fully.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_positions / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Trained context.
        original_max_positions: f64,
    },
    /// "NTK by parts" with a temperature on cos and sin (YaRN).
    Yarn {
        /// Stretch.
        factor: f64,
        /// Trained context.
        original_max_positions: f64,
        /// Rotations above which a dimension is kept.
        beta_fast: f64,
        /// Rotations below which a dimension is stretched fully.
        beta_slow: f64,
        /// Multiplied onto cos and sin; `None`: `0.1 ln(factor) + 1`, or the ratio of the two `mscale`s.
        attention_factor: Option<f64>,
        /// Numerator and denominator of the temperature, where the configuration has both.
        mscale: Option<(f64, f64)>,
        /// Whether the band is rounded to whole dimensions.
        truncate: bool,
    },
}

/// What a table is computed from.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Base of the frequencies.
    pub theta: f64,
    /// Rotated dimensions of a head, even.
    pub rotary: usize,
    /// Stretch.
    pub scaling: RopeScaling,
}

/// `cos` and `sin`, each `[positions, rotary / 2]`.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// Cosines, temperature folded in.
    pub cos: Vec<f32>,
    /// Sines, temperature folded in.
    pub sin: Vec<f32>,
    /// Rotated dimensions of a head.
    pub rotary: usize,
}

impl RopeSpec {
    /// Angular frequency of each pair of dimensions `[rotary / 2]`.
    pub fn frequencies(&self) -> Vec<f64> {
        let dim = self.rotary as f64;
        let plain = (0..self.rotary / 2).map(|i| self.theta.powf(-((2 * i) as f64) / dim));
        match &self.scaling {
            RopeScaling::Default => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
            RopeScaling::Divisors { divisors } => {
                plain.zip(divisors).map(|(f, divisor)| f / divisor).collect()
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                plain
                    .map(|f| {
                        let wavelength = 2.0 * PI / f;
                        if wavelength < original_max_positions / high_freq_factor {
                            f
                        } else if wavelength > original_max_positions / low_freq_factor {
                            f / factor
                        } else {
                            let smooth = (original_max_positions / wavelength - low_freq_factor)
                                / (high_freq_factor - low_freq_factor);
                            (1.0 - smooth) * f / factor + smooth * f
                        }
                    })
                    .collect()
            }
            RopeScaling::Yarn { factor, original_max_positions, beta_fast, beta_slow, truncate, .. } => {
                let dimension_of = |rotations: f64| {
                    dim * (original_max_positions / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (dimension_of(*beta_fast), dimension_of(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
                if low == high {
                    high += 0.001;
                }
                plain
                    .enumerate()
                    .map(|(i, f)| {
                        let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        f / factor * ramp + f * (1.0 - ramp)
                    })
                    .collect()
            }
        }
    }

    /// What cos and sin are multiplied with.
    pub fn temperature(&self) -> f64 {
        let RopeScaling::Yarn { factor, attention_factor, mscale, .. } = &self.scaling else { return 1.0 };
        let scale = |m: f64| if *factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
        match (attention_factor, mscale) {
            (Some(explicit), _) => *explicit,
            (None, Some((numerator, denominator))) => scale(*numerator) / scale(*denominator),
            (None, None) => scale(1.0),
        }
    }

    /// The table for positions `0 .. positions`.
    pub fn table(&self, positions: usize) -> RopeTable {
        // The reference rounds frequencies and angles to f32 before taking cos and sin; so do we.
        let frequencies: Vec<f32> = self.frequencies().iter().map(|f| *f as f32).collect();
        let temperature = self.temperature();
        let mut cos = Vec::with_capacity(positions * frequencies.len());
        let mut sin = Vec::with_capacity(positions * frequencies.len());
        for position in 0..positions {
            for frequency in &frequencies {
                let angle = f64::from(position as f32 * frequency);
                cos.push((angle.cos() * temperature) as f32);
                sin.push((angle.sin() * temperature) as f32);
            }
        }
        RopeTable { cos, sin, rotary: self.rotary }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(scaling: RopeScaling) -> RopeSpec {
        RopeSpec { theta: 10_000.0, rotary: 8, scaling }
    }

    #[test]
    fn position_zero_is_the_identity() {
        let table = spec(RopeScaling::Default).table(2);
        assert_eq!(&table.cos[..4], &[1.0; 4]);
        assert_eq!(&table.sin[..4], &[0.0; 4]);
        assert_eq!(table.sin[4], 1f64.sin() as f32);
    }

    #[test]
    fn llama3_keeps_high_and_stretches_low_frequencies() {
        let scaled = spec(RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 64.0,
        })
        .frequencies();
        let plain = spec(RopeScaling::Default).frequencies();
        // Wavelengths 6.3, 63, 628, 6283 against the bounds 16 and 64.
        assert_eq!(scaled[0], plain[0]);
        assert!(scaled[1] < plain[1] && scaled[1] > plain[1] / 8.0);
        assert_eq!(scaled[3], plain[3] / 8.0);
    }

    #[test]
    fn yarn_without_stretch_changes_nothing() {
        let scaling = RopeScaling::Yarn {
            factor: 1.0,
            original_max_positions: 64.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
            mscale: None,
            truncate: true,
        };
        assert_eq!(spec(scaling.clone()).temperature(), 1.0);
        for (scaled, plain) in
            spec(scaling).frequencies().iter().zip(spec(RopeScaling::Default).frequencies())
        {
            assert!((scaled / plain - 1.0).abs() < 1e-15);
        }
    }
}
