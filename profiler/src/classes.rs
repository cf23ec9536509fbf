//! Classes of modules: those that do the same work on the same formats, in every layer, and so share one cost.

use joulewise_engine::{ModuleId, ModuleKind};

use crate::ballast::{Ballast, Cache, ballast_of};
use crate::workload::Part;

/// Modules of the same kind and shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    /// What people call it: the kind, and more where two classes are of one kind.
    pub name: String,
    /// Its modules, in program order.
    pub modules: Vec<ModuleId>,
    /// Matrix bytes of all of them.
    pub weight_bytes: u64,
    /// Bytes that a sweep reads and nobody has just written: weights, and the cache of keys and values.
    pub cold_bytes: f64,
    /// What it is swept with, so that its weights are as cold as in the whole program.
    pub ballast: Ballast,
}

/// Whether two modules do the same work on the same formats, in different layers: one may then stand for the other.
pub fn are_equal(a: &Part, b: &Part) -> bool {
    a.kind == b.kind
        && a.block.is_some() == b.block.is_some()
        && a.format == b.format
        && a.cost == b.cost
        && a.path.rsplit('.').next() == b.path.rsplit('.').next()
}

/// The classes of a program's modules. Those whose path is in `apart` are classes of their own; `caches` are the
/// device's, as far as they are known.
pub fn classes_of(parts: &[Part], apart: &[String], caches: &[Cache]) -> Vec<Class> {
    let mut groups: Vec<Vec<&Part>> = Vec::new();
    let is_apart = |part: &Part| apart.contains(&part.path);
    for part in parts {
        let same = |other: &Part| {
            !is_apart(part)
                && !is_apart(other)
                && (other.kind, &other.format, other.cost) == (part.kind, &part.format, part.cost)
        };
        match groups.iter_mut().find(|group| same(group[0])) {
            Some(group) => group.push(part),
            None => groups.push(vec![part]),
        }
    }
    let n_of_kind = |part: &Part| groups.iter().filter(|group| group[0].kind == part.kind).count();
    let name = |group: &[&Part]| {
        let part = group[0];
        let kind = part.kind.name();
        let leaf = part.path.rsplit('.').next().unwrap_or_default();
        match (is_apart(part), n_of_kind(part) > 1) {
            (true, _) => part.path.clone(),
            (false, true) => format!("{kind} ({leaf})"),
            (false, false) => kind.to_owned(),
        }
    };
    let mut classes: Vec<Class> = groups
        .iter()
        .map(|group| Class {
            name: name(group),
            modules: group.iter().map(|part| part.module).collect(),
            weight_bytes: group.iter().map(|part| part.weight_bytes).sum(),
            cold_bytes: group.iter().map(|part| cold_bytes(part)).sum(),
            ballast: Ballast::None,
        })
        .collect();
    let cold_bytes: Vec<f64> = classes.iter().map(|class| class.cold_bytes).collect();
    for (class, ballast) in classes.iter_mut().zip(ballast_of(&cold_bytes, caches)) {
        class.ballast = ballast;
    }
    classes
}

fn cold_bytes(part: &Part) -> f64 {
    match part.kind {
        // What attention reads is mostly keys and values of earlier tokens.
        ModuleKind::Attention => part.cost.bytes_read,
        _ => part.cost.weight_bytes,
    }
}

/// The first, middle and last of each set of equal modules.
pub(crate) fn sample_of_equals(parts: &[Part]) -> Vec<ModuleId> {
    let is_sampled = |part: &&Part| {
        let equals: Vec<ModuleId> =
            parts.iter().filter(|other| are_equal(part, other)).map(|other| other.module).collect();
        let picks = [Some(&equals[0]), equals.get(equals.len() / 2), equals.last()];
        picks.contains(&Some(&part.module))
    };
    parts.iter().filter(is_sampled).map(|part| part.module).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulewise_engine::Cost;

    fn part(id: u32, path: &str, kind: ModuleKind, weight_bytes: u64) -> Part {
        Part {
            module: ModuleId(id),
            path: path.to_owned(),
            kind,
            block: None,
            format: None,
            weight_bytes,
            cost: Cost { weight_bytes: weight_bytes as f64, ..Cost::default() },
        }
    }

    fn parts() -> Vec<Part> {
        vec![
            part(1, "h.0.ln", ModuleKind::Norm, 0),
            part(2, "h.0.up", ModuleKind::MlpUp, 600),
            part(3, "h.1.ln", ModuleKind::Norm, 0),
            part(4, "h.1.up", ModuleKind::MlpUp, 600),
            part(5, "head", ModuleKind::Head, 500),
            part(6, "small_head", ModuleKind::Head, 100),
        ]
    }

    #[test]
    fn modules_of_one_kind_and_shape_are_one_class() {
        let classes = classes_of(&parts(), &[], &[]);
        let names: Vec<_> = classes.iter().map(|class| (class.name.as_str(), class.modules.len())).collect();
        assert_eq!(names, [("norm", 2), ("mlp.up", 2), ("head (head)", 1), ("head (small_head)", 1)]);
        let classes = classes_of(&parts(), &["h.1.up".to_owned()], &[]);
        let names: Vec<_> = classes.iter().map(|class| class.name.as_str()).collect();
        assert_eq!(names, ["norm", "mlp.up (up)", "h.1.up", "head (head)", "head (small_head)"]);
    }

    #[test]
    fn classes_whose_weights_would_stay_in_the_cache_get_ballast() {
        // 1800 bytes of weights: 1200, 500 and 100. Norms have none.
        let ballast = |size_bytes| -> Vec<Ballast> {
            let caches = [Cache { size_bytes, is_shared: false }];
            classes_of(&parts(), &[], &caches).iter().map(|class| class.ballast).collect()
        };
        assert_eq!(ballast(600), [Ballast::None, Ballast::Sole, Ballast::Beside, Ballast::Beside]);
        assert_eq!(ballast(700), [Ballast::None, Ballast::Part, Ballast::Part, Ballast::Part]);
    }
}
