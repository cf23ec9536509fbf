//! Decision groups: the weights that get one format together.
//!
//! Projections that read the same values (query, key and value; gate and up) are one group, because servers fuse them
//! and demand one scheme; a table that is also the head is one weight and thus one group. Tables of positions and token
//! types are never narrowed below 16 bits. Norms and biases are never quantized, but what they cost depends on the formats
//! around them, so every module without a matrix follows a group: an attention the projection of its queries, whose format
//! says whether its products are rounded; a norm the product that reads it, for which it may round what it writes;
//! activations, sums and what is left the product in front of them, which may end with them. All of this follows from the
//! steps of the model; no name is looked at.

use joulewise_engine::{IndexInput, ModelGraph, ModuleId, ModuleKind, Op, Step, Strategy, ValueId, WeightId};

/// Weights that are decided on together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The paths of its modules, shortened: `layer.3.attention.{q,k,v}_lin`.
    pub name: String,
    /// What its modules do, each kind once.
    pub kinds: Vec<ModuleKind>,
    /// The layer it belongs to.
    pub block: Option<u32>,
    /// Its modules, in program order.
    pub modules: Vec<ModuleId>,
    /// The paths of its modules, in program order.
    pub paths: Vec<String>,
    /// Modules without a matrix, whose cost depends on its format, too.
    pub followers: Vec<ModuleId>,
    /// Its weights.
    pub weights: Vec<WeightId>,
    /// Elements of its weights.
    pub parameters: usize,
    /// It must stay at 16 bits or more.
    pub is_wide: bool,
}

/// What a step does with a matrix.
struct Use {
    module: ModuleId,
    weight: WeightId,
    /// Where a linear reads from; tables read nothing.
    input: Option<ValueId>,
    is_wide: bool,
}

impl Group {
    /// All groups of a model, in the order of their first step.
    pub fn of_model(graph: &ModelGraph) -> Vec<Group> {
        let mut groups: Vec<Vec<Use>> = Vec::new();
        for step in &graph.steps {
            let used = match &step.op {
                Op::Embed { table, index, .. } => {
                    let is_wide = *index != IndexInput::TokenIds;
                    Use { module: step.module, weight: *table, input: None, is_wide }
                }
                Op::Linear { x, weight, .. } => {
                    Use { module: step.module, weight: *weight, input: Some(x.value), is_wide: false }
                }
                _ => continue,
            };
            let kind = |module: ModuleId| graph.modules.get(module).kind;
            let belongs = |other: &Use| {
                other.weight == used.weight
                    || used.input.is_some()
                        && other.input == used.input
                        && kind(other.module) == kind(used.module)
            };
            match groups.iter_mut().find(|group| group.iter().any(belongs)) {
                Some(group) => group.push(used),
                None => groups.push(vec![used]),
            }
        }
        let mut groups: Vec<Group> = groups.iter().map(|uses| Group::of_uses(graph, uses)).collect();
        follow(graph, &mut groups);
        groups
    }

    fn of_uses(graph: &ModelGraph, uses: &[Use]) -> Group {
        let mut weights: Vec<WeightId> = uses.iter().map(|used| used.weight).collect();
        weights.sort();
        weights.dedup();
        let mut kinds = Vec::new();
        for used in uses {
            let kind = graph.modules.get(used.module).kind;
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        let paths: Vec<String> =
            uses.iter().map(|used| graph.modules.get(used.module).path.clone()).collect();
        Group {
            name: joined(&paths),
            kinds,
            block: uses.first().and_then(|used| graph.modules.get(used.module).block),
            modules: uses.iter().map(|used| used.module).collect(),
            paths,
            followers: Vec::new(),
            parameters: weights.iter().map(|weight| graph.weight(*weight).shape.elements()).sum(),
            weights,
            is_wide: uses.iter().any(|used| used.is_wide),
        }
    }

    /// What its modules do, in words: `embedding + head` where a table is tied.
    pub fn kind_name(&self) -> String {
        self.kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(" + ")
    }

    /// Whether a strategy may be given to it at all.
    pub fn may_be(&self, strategy: Strategy) -> bool {
        !self.is_wide || strategy.precision().weight.spec().code_bits >= 16
    }

    /// Whether one of its steps is among the modules of `module`.
    pub fn has(&self, module: ModuleId) -> bool {
        self.modules.contains(&module)
    }
}

/// Lets every module without a matrix follow a group, in program order, so that what it reads has its group already.
fn follow(graph: &ModelGraph, groups: &mut [Group]) {
    let has = |group: &Group, module: ModuleId| group.has(module) || group.followers.contains(&module);
    for step in &graph.steps {
        let of = |module: ModuleId| groups.iter().position(|group| has(group, module));
        if of(step.module).is_some() {
            continue;
        }
        let inputs = step.op.inputs();
        let reads =
            |other: &&Step| matches!(&other.op, Op::Linear { x, .. } if Some(x.value) == step.op.output());
        let decided = match step.op {
            Op::Attention { .. } => graph.projection_of(step),
            Op::Norm { .. } => graph.steps.iter().find(reads).map(|other| other.module),
            _ => None,
        };
        // What was written last is the product's result; the other summand of a residual is from before it.
        let writes = |other: &&Step| inputs.iter().any(|input| Some(input.value) == other.op.output());
        let in_front = || graph.steps.iter().rev().find(writes).map(|other| other.module);
        if let Some(group) = decided.or_else(in_front).and_then(of) {
            groups[group].followers.push(step.module);
        }
    }
}

/// Several paths as one name: what they share, and in braces what they do not.
fn joined(paths: &[String]) -> String {
    let [first, rest @ ..] = paths else { return String::new() };
    if rest.is_empty() {
        return first.clone();
    }
    let parent = |path: &str| path.rfind('.').map_or(0, |dot| dot + 1);
    let shared = parent(first);
    if shared == 0 || rest.iter().any(|path| parent(path) != shared || path[..shared] != first[..shared]) {
        return paths.join(" + ");
    }
    let last: Vec<&[u8]> = paths.iter().map(|path| &path.as_bytes()[shared..]).collect();
    let shortest = last.iter().map(|name| name.len()).min().unwrap_or(0);
    // Cut at an underscore, so that `q_proj` and `k_proj` share `_proj` and not `q` and `k` alone.
    let is_shared = |n: usize| last.iter().all(|name| name[name.len() - n..] == last[0][last[0].len() - n..]);
    let suffix = (1..shortest).rev().find(|n| is_shared(*n) && last[0][last[0].len() - n] == b'_');
    let suffix = suffix.unwrap_or(0);
    let middles: Vec<&str> = paths.iter().map(|path| &path[shared..path.len() - suffix]).collect();
    format!("{}{{{}}}{}", &first[..shared], middles.join(","), &first[first.len() - suffix..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_paths_share() {
        let name = |paths: &[&str]| joined(&paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
        assert_eq!(name(&["h.0.attn.c_attn"]), "h.0.attn.c_attn");
        assert_eq!(name(&["l.1.attn.q_proj", "l.1.attn.k_proj"]), "l.1.attn.{q,k}_proj");
        assert_eq!(name(&["l.1.attn.query", "l.1.attn.key"]), "l.1.attn.{query,key}");
        assert_eq!(name(&["transformer.wte", "lm_head"]), "transformer.wte + lm_head");
    }
}
