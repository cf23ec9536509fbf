//! Reference tensors beside a model, and the comparison with them.
//!
//! `golden.safetensors` holds, per case: `case{i}.input_ids` `[batch, tokens]`, where padded
//! `case{i}.attention_mask`, then `case{i}.logits` or `case{i}.last_hidden_state`, `case{i}.hidden.{k}` (the
//! embeddings, then the output of block k; the last one behind the final norm) and `case{i}.greedy_ids`
//! `[batch, generated]`, the greedy continuation.

use std::path::Path;

use joulewise_engine::{ForwardOptions, OutputKind, Session, TokenBatch, greedy};
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, Result};

/// All cases of one file.
#[derive(Clone, Debug)]
pub struct Golden {
    cases: Vec<Case>,
}

/// One input and what the reference made of it.
#[derive(Clone, Debug)]
struct Case {
    index: usize,
    input: TokenBatch,
    logits: Option<Vec<f32>>,
    last_hidden_state: Option<Vec<f32>>,
    hidden: Vec<Vec<f32>>,
    /// `[batch, generated]`.
    greedy_ids: Option<Vec<u32>>,
}

/// Outcome of a comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    /// Whether every NMSE is within the bound and every greedy continuation exact.
    pub passed: bool,
    /// The largest NMSE of all tensors.
    pub worst_nmse: f64,
    /// The bound that was asked for.
    pub bound: f64,
    /// Case by case.
    pub cases: Vec<CaseVerification>,
}

/// Outcome of one case. `NMSE = |a - b|^2 / |b|^2` over the positions that the mask attends to.
#[derive(Clone, Debug, Serialize)]
pub struct CaseVerification {
    /// Number in the file.
    pub case: usize,
    /// NMSE of the logits, or of the last hidden state of a model without a head.
    pub logits_nmse: f64,
    /// NMSE of each hidden state the file has, embeddings first.
    pub hidden_nmse: Vec<f64>,
    /// Whether the greedy continuation is the reference's; true where the file has none.
    pub greedy_match: bool,
    /// Tokens of the continuation that were compared.
    pub greedy_tokens: usize,
}

impl Golden {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ModelError::Io`], or [`ModelError::Safetensors`] when a tensor is missing or of the wrong kind.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(&path.display().to_string(), &Checkpoint::open_file(path)?)
    }

    /// Reads the tensors of an open file; `origin` is what error messages call it.
    ///
    /// # Errors
    /// As [`Golden::open`].
    pub fn read(origin: &str, tensors: &Checkpoint) -> Result<Self> {
        let broken = |problem: String| ModelError::Safetensors { origin: origin.to_owned(), problem };
        let mut indices: Vec<usize> = tensors
            .names()
            .filter_map(|name| name.strip_prefix("case")?.strip_suffix(".input_ids")?.parse().ok())
            .collect();
        indices.sort_unstable();
        if indices.is_empty() {
            return Err(broken("it has no tensor `case0.input_ids`".to_owned()));
        }
        let floats = |name: &str| -> Result<Option<Vec<f32>>> {
            let Some(shape) = tensors.shape(name) else { return Ok(None) };
            let mut values = vec![0.0; shape.iter().product()];
            tensors.read_f32(name, 0, &mut values)?;
            Ok(Some(values))
        };
        // Ids and flags; a negative one is as wrong as one past the vocabulary.
        let integers = |name: &str| -> Result<Option<Vec<u32>>> {
            if tensors.shape(name).is_none() {
                return Ok(None);
            }
            let narrow =
                |id: i64| u32::try_from(id).map_err(|_| broken(format!("`{name}` holds the id {id}")));
            tensors.read_integers(name)?.into_iter().map(narrow).collect::<Result<_>>().map(Some)
        };
        let case = |index: usize| -> Result<Case> {
            let name = |part: &str| format!("case{index}.{part}");
            let ids = integers(&name("input_ids"))?.unwrap_or_default();
            let shape = tensors.shape(&name("input_ids")).unwrap_or_default();
            let &[batch, _] = shape else {
                let input = name("input_ids");
                return Err(broken(format!("`{input}` has shape {shape:?}, expected two sizes")));
            };
            let mut input = TokenBatch::dense(ids, batch)?;
            if let Some(mask) = integers(&name("attention_mask"))? {
                input = input.with_mask(mask.iter().map(|flag| u8::from(*flag != 0)).collect())?;
            }
            if let Some(types) = integers(&name("token_type_ids"))? {
                input = input.with_token_types(types)?;
            }
            let mut hidden = Vec::new();
            while let Some(state) = floats(&name(&format!("hidden.{}", hidden.len())))? {
                hidden.push(state);
            }
            Ok(Case {
                index,
                input,
                logits: floats(&name("logits"))?,
                last_hidden_state: floats(&name("last_hidden_state"))?,
                hidden,
                greedy_ids: integers(&name("greedy_ids"))?,
            })
        };
        Ok(Golden { cases: indices.into_iter().map(case).collect::<Result<_>>()? })
    }

    /// Number of cases.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Never true: a file without cases is refused.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// Runs every case and compares. `on_case` is told how many are done.
    ///
    /// # Errors
    /// Those of the session; a tensor that differs is not an error but a failed verification.
    pub fn verify(
        &self,
        session: &mut Session,
        bound: f64,
        mut on_case: impl FnMut(usize),
    ) -> Result<Verification> {
        let mut cases = Vec::new();
        for case in &self.cases {
            cases.push(case.verify(session)?);
            on_case(cases.len());
        }
        let all = cases.iter().flat_map(|case| case.hidden_nmse.iter().chain([&case.logits_nmse]));
        // NaN must not hide behind `max`, which would drop it.
        let worst_nmse =
            all.fold(0.0, |worst: f64, nmse| if nmse.is_nan() { f64::INFINITY } else { worst.max(*nmse) });
        let passed = worst_nmse <= bound && cases.iter().all(|case| case.greedy_match);
        Ok(Verification { passed, worst_nmse, bound, cases })
    }
}

impl Case {
    fn verify(&self, session: &mut Session) -> Result<CaseVerification> {
        let all_logits = session.graph().output_kind == OutputKind::NextToken;
        let options = ForwardOptions { all_logits, keep_hidden_states: true };
        // A cache that rounds is part of what is compared; in it, padding would move.
        let output = if session.rounds_cache() && self.input.mask().is_none() {
            session.prefill_with(&self.input, options)?
        } else {
            session.forward_with(&self.input, options)?
        };
        // Logits have a row per token in a language model, else a row per sequence, which no mask hides.
        let mask = self.input.mask().filter(|_| all_logits);
        let mut output_nmse = self.logits.as_ref().map(|expected| nmse(output.data, expected, mask));
        let states = session.graph().hidden_states.len();
        let mut hidden_nmse = Vec::with_capacity(self.hidden.len());
        for (index, expected) in self.hidden.iter().enumerate() {
            hidden_nmse.push(nmse(session.hidden_state(index)?.data, expected, self.input.mask()));
        }
        if let Some(expected) = &self.last_hidden_state {
            let last = session.hidden_state(states.saturating_sub(1))?;
            output_nmse = Some(nmse(last.data, expected, self.input.mask()));
        }
        let (greedy_match, greedy_tokens) = match &self.greedy_ids {
            None => (true, 0),
            Some(expected) => (self.continue_greedily(session, expected.len())? == *expected, expected.len()),
        };
        let logits_nmse = output_nmse.unwrap_or(0.0);
        Ok(CaseVerification { case: self.index, logits_nmse, hidden_nmse, greedy_match, greedy_tokens })
    }

    /// The `count` most likely tokens behind the prompts, `[batch, count / batch]`.
    fn continue_greedily(&self, session: &mut Session, count: usize) -> Result<Vec<u32>> {
        let batch = self.input.batch();
        let generated = count / batch;
        let mut ids = vec![0; count];
        let mut output = session.prefill(&self.input)?;
        for position in 0..generated {
            let next: Vec<u32> = (0..batch).map(|sequence| greedy(output.row(sequence))).collect();
            for (sequence, id) in next.iter().enumerate() {
                ids[sequence * generated + position] = *id;
            }
            if position + 1 < generated {
                output = session.decode(&next)?;
            }
        }
        Ok(ids)
    }
}

/// `|got - expected|^2 / |expected|^2`, over the rows that `mask` shows; infinite when the sizes differ.
fn nmse(got: &[f32], expected: &[f32], mask: Option<&[u8]>) -> f64 {
    if got.len() != expected.len() || expected.is_empty() {
        return f64::INFINITY;
    }
    let cols = mask.map_or(expected.len(), |mask| expected.len() / mask.len());
    let (mut difference, mut norm) = (0.0, 0.0);
    for (row, (got, expected)) in got.chunks_exact(cols).zip(expected.chunks_exact(cols)).enumerate() {
        if mask.is_some_and(|mask| mask[row] == 0) {
            continue;
        }
        for (got, expected) in got.iter().zip(expected) {
            difference += (f64::from(*got) - f64::from(*expected)).powi(2);
            norm += f64::from(*expected).powi(2);
        }
    }
    if difference == 0.0 { 0.0 } else { difference / norm }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    #[test]
    fn nmse_looks_only_where_the_mask_does() {
        assert_eq!(nmse(&[1.0, 2.0, 9.0, 9.0], &[1.0, 1.0, 0.0, 0.0], Some(&[1, 0])), 0.5);
        assert_eq!(nmse(&[1.0], &[1.0], None), 0.0);
        assert_eq!(nmse(&[1.0], &[1.0, 2.0], None), f64::INFINITY);
        assert!(nmse(&[f32::NAN], &[1.0], None).is_nan());
    }

    fn problem(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> String {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        let file = safetensors::serialize(views, None).unwrap();
        let checkpoint = Checkpoint::from_bytes("g", file).unwrap();
        Golden::read("g", &checkpoint).unwrap_err().to_string()
    }

    #[test]
    fn unusable_files_are_refused() {
        assert!(problem(&[]).ends_with("it has no tensor `case0.input_ids`"));
        let flat = problem(&[("case0.input_ids", Dtype::I32, vec![1], vec![1, 0, 0, 0])]);
        assert!(flat.ends_with("`case0.input_ids` has shape [1], expected two sizes"), "{flat}");
        let negative = problem(&[("case0.input_ids", Dtype::I32, vec![1, 1], vec![255; 4])]);
        assert!(negative.ends_with("`case0.input_ids` holds the id -1"), "{negative}");
        let floats = problem(&[("case0.input_ids", Dtype::F32, vec![1, 1], vec![0; 4])]);
        assert!(floats.ends_with("is stored as F32, expected I32 or I64"), "{floats}");
        assert_eq!(problem(&[("case0.input_ids", Dtype::I32, vec![0, 5], vec![])]), "the input is empty");
    }
}
