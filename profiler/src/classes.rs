//! Classes of modules: those that do the same work on the same formats, in every layer, and so share one cost.

use joulewise_engine::{ModuleId, ModuleKind};

use crate::ballast::{Ballast, Cache, Traffic, ballast_of};
use crate::workload::Part;

/// Modules of the same kind and shape, or *units* of neighbours that are so in each layer: a device that does an
/// activation within the product in front of it never runs it alone, so that only both together have a cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    /// What people call it: the kinds of a unit, and more where two classes are of one kind.
    pub name: String,
    /// Its modules, in program order, unit by unit.
    pub modules: Vec<ModuleId>,
    /// Modules of a unit.
    pub unit: usize,
    /// Matrix bytes of all of them.
    pub weight_bytes: u64,
    /// Bytes that a sweep reads and nobody has just written: weights, and the cache of keys and values.
    pub cold_bytes: f64,
    /// In what company it is swept, so that its weights are as cold as in the whole program.
    pub ballast: Ballast,
}

impl Class {
    /// How many units it has.
    pub fn n_units(&self) -> usize {
        self.modules.len() / self.unit.max(1)
    }
}

/// Whether two modules do the same work on the same formats, in different layers: one may then stand for the other.
pub fn are_equal(a: &Part, b: &Part) -> bool {
    a.kind == b.kind
        && a.block.is_some() == b.block.is_some()
        && a.format == b.format
        && a.cost == b.cost
        && a.path.rsplit('.').next() == b.path.rsplit('.').next()
}

/// What decides in what company classes are swept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings<'a> {
    /// The device's caches, as far as they are known.
    pub caches: &'a [Cache],
    /// Whether the device begins one piece of work before it has ended the one in front.
    pub overlaps: bool,
    /// Whether attention reads keys and values of earlier passes.
    pub has_past: bool,
}

/// The classes of a program's modules. Those whose path is in `apart` are classes of their own.
pub fn classes_of(parts: &[Part], apart: &[String], around: Surroundings<'_>) -> Vec<Class> {
    let is_apart = |unit: &[Part]| unit.iter().any(|part| apart.contains(&part.path));
    let units = parts.chunk_by(|_, next| next.is_joined);
    let mut groups: Vec<Vec<&[Part]>> = Vec::new();
    for unit in units {
        let same = |other: &[Part]| !is_apart(unit) && !is_apart(other) && do_the_same(unit, other);
        match groups.iter_mut().find(|group| same(group[0])) {
            Some(group) => group.push(unit),
            None => groups.push(vec![unit]),
        }
    }
    let n_of_kind = |unit: &[Part]| groups.iter().filter(|group| kinds(group[0]) == kinds(unit)).count();
    let name = |unit: &[Part]| {
        let leaf = unit[0].path.rsplit('.').next().unwrap_or_default();
        match (is_apart(unit), n_of_kind(unit) > 1) {
            (true, _) => unit[0].path.clone(),
            (false, true) => format!("{} ({leaf})", kinds(unit)),
            (false, false) => kinds(unit),
        }
    };
    let mut classes: Vec<Class> = groups
        .iter()
        .map(|group| Class {
            name: name(group[0]),
            modules: group.iter().copied().flatten().map(|part| part.module).collect(),
            unit: group[0].len(),
            weight_bytes: group.iter().copied().flatten().map(|part| part.weight_bytes).sum(),
            cold_bytes: group.iter().copied().flatten().map(|part| cold_bytes(part, around.has_past)).sum(),
            ballast: Ballast::None,
        })
        .collect();
    let traffic = classes.iter().zip(&groups).map(|(class, group)| Traffic {
        cold_bytes: class.cold_bytes,
        moved_bytes: group
            .iter()
            .copied()
            .flatten()
            .map(|part| part.cost.bytes_read + part.cost.bytes_written)
            .sum(),
        needs_neighbours: around.overlaps && group.iter().copied().flatten().any(|part| part.block.is_some()),
    });
    let roles = ballast_of(&traffic.collect::<Vec<_>>(), around.caches);
    classes.iter_mut().zip(roles).for_each(|(class, ballast)| class.ballast = ballast);
    classes
}

/// Whether two units do the same work on the same formats.
fn do_the_same(a: &[Part], b: &[Part]) -> bool {
    let same = |(a, b): (&Part, &Part)| (a.kind, &a.format, a.cost) == (b.kind, &b.format, b.cost);
    a.len() == b.len() && a.iter().zip(b).all(same)
}

/// The kinds of a unit's modules, each once, in their order.
fn kinds(unit: &[Part]) -> String {
    let mut names: Vec<&str> = unit.iter().map(|part| part.kind.name()).collect();
    names.dedup();
    names.join(" + ")
}

fn cold_bytes(part: &Part, has_past: bool) -> f64 {
    match part.kind {
        // What attention then reads is mostly keys and values of earlier tokens.
        ModuleKind::Attention if has_past => part.cost.bytes_read,
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
            is_joined: false,
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
        let classes = classes_of(&parts(), &[], Surroundings::default());
        let names: Vec<_> = classes.iter().map(|class| (class.name.as_str(), class.modules.len())).collect();
        assert_eq!(names, [("norm", 2), ("mlp.up", 2), ("head (head)", 1), ("head (small_head)", 1)]);
        let classes = classes_of(&parts(), &["h.1.up".to_owned()], Surroundings::default());
        let names: Vec<_> = classes.iter().map(|class| class.name.as_str()).collect();
        assert_eq!(names, ["norm", "mlp.up (up)", "h.1.up", "head (head)", "head (small_head)"]);
    }

    #[test]
    fn classes_whose_weights_would_stay_in_the_cache_get_ballast() {
        // 1800 bytes of weights: 1200, 500 and 100. Norms have none.
        let ballast = |size_bytes| -> Vec<Ballast> {
            let caches = [Cache { size_bytes, is_shared: false }];
            let around = Surroundings { caches: &caches, ..Surroundings::default() };
            classes_of(&parts(), &[], around).iter().map(|class| class.ballast).collect()
        };
        assert_eq!(ballast(600), [Ballast::None, Ballast::Sole, Ballast::Beside, Ballast::Beside]);
        assert_eq!(ballast(700), [Ballast::None, Ballast::Part, Ballast::Part, Ballast::Part]);
    }

    #[test]
    fn classes_of_layers_keep_company_where_work_overlaps() {
        use Ballast::{None, Part};
        let mut parts = parts();
        let layers = [Some(0), Some(0), Some(1), Some(1)];
        parts.iter_mut().zip(layers).for_each(|(part, block)| part.block = block);
        let ballast = |size_bytes, overlaps| -> Vec<Ballast> {
            let caches = [Cache { size_bytes, is_shared: false }];
            let classes = classes_of(&parts, &[], Surroundings { caches: &caches, overlaps, has_past: true });
            classes.iter().map(|class| class.ballast).collect()
        };
        // All of the weights fit: only neighbours matter.
        assert_eq!(ballast(5000, false), [None; 4]);
        assert_eq!(ballast(5000, true), [Part, Part, None, None]);
        // Heads would be warm, too.
        assert_eq!(ballast(700, true), [Part; 4]);
        // The products flood the cache, and nobody is left whom norms could keep company.
        assert_eq!(ballast(200, true), ballast(200, false));
    }

    #[test]
    fn what_is_done_at_once_is_of_one_class() {
        let mut parts = parts();
        for up in [1, 3] {
            parts[up].is_joined = true;
        }
        let classes = classes_of(&parts, &[], Surroundings::default());
        let of: Vec<_> =
            classes.iter().map(|class| (class.name.as_str(), class.unit, class.n_units())).collect();
        assert_eq!(of, [("norm + mlp.up", 2, 2), ("head (head)", 1, 1), ("head (small_head)", 1, 1)]);
        assert_eq!(classes[0].modules, [1, 2, 3, 4].map(ModuleId));
        // Apart goes for the whole unit.
        let classes = classes_of(&parts, &["h.1.up".to_owned()], Surroundings::default());
        assert_eq!(classes[0].modules, [1, 2].map(ModuleId));
        assert_eq!(classes[1].name, "h.1.ln");
    }
}
