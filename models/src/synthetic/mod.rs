//! Weights made up on the spot, in the shapes of real models: what a model costs to run depends on its shape, not on
//! what it has learned, and 15 GB need not be downloaded to measure it.
//!
//! Every value is a function of the tensor's name and the element's index alone, so any part of a tensor can be read
//! at any time, by several threads, without storing anything. Values are near normal with standard deviation 0.018,
//! about what transformers are initialised with, and multiples of 2^-11 below 1/16 in magnitude: f16 and bf16 hold
//! them exactly. Gains are 1, biases 0.

mod presets;

use std::collections::HashMap;

use joulewise_engine::{EngineError, Format, ModelGraph, TensorInfo, WeightShape, WeightSource, WeightSpec};

use crate::checkpoint::stored_shape;
use crate::config::ModelConfig;

pub use presets::{PRESETS, Preset};

/// The weights that a graph asks for.
#[derive(Debug)]
pub struct SyntheticWeights {
    tensors: HashMap<String, Synthetic>,
}

#[derive(Debug)]
struct Synthetic {
    info: TensorInfo,
    values: Values,
}

#[derive(Clone, Copy, Debug)]
enum Values {
    Constant(f32),
    /// Hashed with this seed.
    Random(u64),
}

impl SyntheticWeights {
    /// Weights for every tensor of `graph`, said to be stored in the format that the configuration names.
    pub fn new(graph: &ModelGraph, config: &ModelConfig) -> Self {
        let format = config.dtype().unwrap_or(Format::F32);
        let tensor = |spec: &WeightSpec| {
            let values = match spec.shape {
                WeightShape::Matrix { .. } => Values::Random(seed(&spec.name)),
                WeightShape::Vector { .. } if spec.name.ends_with(".bias") => Values::Constant(0.0),
                WeightShape::Vector { .. } => Values::Constant(1.0),
            };
            (spec.name.clone(), Synthetic { info: TensorInfo { shape: stored_shape(spec), format }, values })
        };
        SyntheticWeights { tensors: graph.weights.iter().map(tensor).collect() }
    }
}

impl WeightSource for SyntheticWeights {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).map(|tensor| tensor.info.clone())
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<(), EngineError> {
        let tensor = self.tensors.get(name).ok_or_else(|| EngineError::MissingTensor(name.to_owned()))?;
        match tensor.values {
            Values::Constant(value) => out.fill(value),
            Values::Random(seed) => fill(seed, start as u64, out),
        }
        Ok(())
    }
}

/// A prompt of `length` tokens for a model without a tokenizer; the same every time.
pub fn prompt(vocab_size: usize, length: usize) -> Vec<u32> {
    let id = |i: usize| ((u64::from(hash(i as u32, seed("prompt"))) * vocab_size as u64) >> 32) as u32;
    (0..length).map(id).collect()
}

/// `n` numbers like those of a weight of this name.
pub fn noise(name: &str, n: usize) -> Vec<f32> {
    let mut values = vec![0.0; n];
    fill(seed(name), 0, &mut values);
    values
}

/// FNV-1a (Fowler, Noll, Vo), whose values no release of a library can change.
fn seed(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn fill(seed: u64, start: u64, out: &mut [f32]) {
    // The hash counts in 32 bits; tensors of more elements get another seed for each stretch of 2^32.
    let mut index = start;
    let mut rest = out;
    while !rest.is_empty() {
        let stretch = (1 << 32) - (index & 0xffff_ffff);
        let (now, later) = rest.split_at_mut(rest.len().min(usize::try_from(stretch).unwrap_or(usize::MAX)));
        let (first, seed) =
            (index as u32, seed.wrapping_add((index >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        for (i, value) in now.iter_mut().enumerate() {
            *value = near_normal(hash(first.wrapping_add(i as u32), seed));
        }
        index += now.len() as u64;
        rest = later;
    }
}

/// Mixes a counter with both halves of a seed: Wellons' `lowbias32`, once more with the upper half in between.
#[inline(always)]
fn hash(counter: u32, seed: u64) -> u32 {
    let mut x = counter ^ seed as u32;
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= (x >> 15) ^ (seed >> 32) as u32;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// The sum of four uniform bytes is near normal: mean 510, standard deviation 147.8. Without its two lowest bits it has
/// eight significant ones.
#[inline(always)]
fn near_normal(bits: u32) -> f32 {
    let pairs = (bits & 0x00ff_00ff) + ((bits >> 8) & 0x00ff_00ff);
    let sum = (pairs & 0xffff) + (pairs >> 16);
    ((sum as i32 - 510) >> 2) as f32 / 2048.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families;
    use half::{bf16, f16};
    use proptest::prelude::*;

    fn values(name: &str, start: u64, n: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; n];
        fill(seed(name), start, &mut out);
        out
    }

    #[test]
    fn values_are_normal_enough_and_exact_in_sixteen_bits() {
        let values = values("model.layers.0.mlp.up_proj.weight", 0, 1 << 16);
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let deviation = (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n - mean * mean).sqrt();
        // The standard error of the mean is 0.018 / 256; dropping two bits shifts it by 3/8 of a step of 2^-11.
        assert!((mean + 0.375 / 2048.0).abs() < 3.0 * 0.018 / 256.0, "{mean}");
        assert!((deviation - 147.8 / 4.0 / 2048.0).abs() < 2e-4, "{deviation}");
        for value in values {
            assert_eq!(f16::from_f32(value).to_f32(), value);
            assert_eq!(bf16::from_f32(value).to_f32(), value);
        }
    }

    #[test]
    fn neighbours_and_tensors_are_unrelated() {
        let correlation = |a: &[f32], b: &[f32]| {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).abs()
        };
        let a = values("a", 0, 1 << 16);
        // Four standard errors of a correlation of independent values.
        let bound = 4.0 / f64::from(1 << 8);
        for lag in [1, 2, 64, 768, 4096] {
            assert!(correlation(&a[lag..], &a[..a.len() - lag]) < bound, "{lag}");
        }
        assert!(correlation(&a, &values("b", 0, 1 << 16)) < bound);
        assert!(correlation(&a, &values("a", 1 << 32, 1 << 16)) < bound);
    }

    proptest! {
        #[test]
        fn any_part_reads_like_the_whole(start in 0u64..5000, n in 0usize..3000, base in prop_oneof![Just(0u64), Just((1 << 32) - 4000)]) {
            let whole = values("w", base, 8000);
            prop_assert_eq!(&values("w", base + start, n)[..], &whole[start as usize..start as usize + n]);
        }
    }

    #[test]
    fn presets_have_the_published_number_of_parameters() {
        for preset in PRESETS {
            let config = preset.config().unwrap();
            let graph = families::build(&config).unwrap();
            let got = graph.parameters() as f64 / 1e6;
            assert!((got - preset.parameters_millions).abs() < 0.006, "{}: {got}", preset.name);
        }
    }

    #[test]
    fn shapes_follow_the_layout() {
        let config = PRESETS.iter().find(|preset| preset.name == "gpt2").unwrap().config().unwrap();
        let weights = SyntheticWeights::new(&families::build(&config).unwrap(), &config);
        assert_eq!(weights.info("transformer.h.0.mlp.c_fc.weight").unwrap().shape, [768, 3072]);
        let mut out = [f32::NAN; 2];
        weights.read("transformer.ln_f.weight", 766, &mut out).unwrap();
        assert_eq!(out, [1.0; 2]);
        weights.read("transformer.ln_f.bias", 0, &mut out).unwrap();
        assert_eq!(out, [0.0; 2]);
        assert!(weights.read("nothing", 0, &mut out).is_err());
    }

    #[test]
    fn prompts_stay_in_the_vocabulary() {
        let ids = prompt(320, 1000);
        assert!(ids.iter().all(|id| *id < 320) && ids.iter().any(|id| *id > 300));
        assert_eq!(ids[..10], prompt(320, 10));
    }
}
