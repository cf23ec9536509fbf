//! Classes of modules: those that do the same work on the same formats, in every layer, and so share one cost.

use joulewise_engine::{ModuleId, ModuleKind};

use crate::workload::Part;

/// A class's weights count as cold when its sweep reads so many times the cache before it comes back to the first.
const CACHE_MARGIN: f64 = 1.5;

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
    /// Index of a class that is swept in turns with this one, because the weights of this one would stay in the cache
    /// while in the whole program they do not.
    pub companion: Option<usize>,
}

/// Whether two modules do the same work on the same formats, in different layers: one may then stand for the other.
pub fn are_equal(a: &Part, b: &Part) -> bool {
    a.kind == b.kind
        && a.block.is_some() == b.block.is_some()
        && a.format == b.format
        && a.cost == b.cost
        && a.path.rsplit('.').next() == b.path.rsplit('.').next()
}

/// The classes of a program's modules. Those whose path is in `apart` are classes of their own; `caches` are the sizes
/// in bytes of the device's caches, as far as they are known.
pub fn classes_of(parts: &[Part], apart: &[String], caches: &[u64]) -> Vec<Class> {
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
            companion: None,
        })
        .collect();
    let all_bytes: f64 = classes.iter().map(|class| class.cold_bytes).sum();
    // The largest cache that the whole program flows through; what stays in a larger one is warm in truth, too.
    let flooded =
        caches.iter().map(|&bytes| bytes as f64).filter(|bytes| *bytes < all_bytes).reduce(f64::max);
    let largest = (0..classes.len())
        .max_by(|&a, &b| classes[a].cold_bytes.total_cmp(&classes[b].cold_bytes))
        .filter(|_| flooded.is_some());
    for (index, class) in classes.iter_mut().enumerate() {
        let is_warm = class.cold_bytes > 0.0 && class.cold_bytes < CACHE_MARGIN * flooded.unwrap_or(0.0);
        class.companion = largest.filter(|&largest| is_warm && largest != index);
    }
    // The largest class is kept company by the second largest, that one by the third. Were it by the largest, both classes
    // would only ever run together, and nothing could tell them apart.
    if let Some(largest) = largest
        && classes[largest].cold_bytes < CACHE_MARGIN * flooded.unwrap_or(0.0)
    {
        let mut others: Vec<usize> =
            (0..classes.len()).filter(|&i| i != largest && classes[i].cold_bytes > 0.0).collect();
        others.sort_by(|&a, &b| classes[b].cold_bytes.total_cmp(&classes[a].cold_bytes));
        if let Some(&second) = others.first() {
            classes[largest].companion = Some(second);
            classes[second].companion = others.get(1).copied();
        }
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
    use crate::regression::{Observation, Regression};
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
    fn weights_that_would_stay_in_the_cache_get_company() {
        // 1800 bytes of weights. Through 700 bytes of cache the first class is cold by itself (1200 bytes), the heads
        // are not; through 1000 it needs company itself.
        let companions = |caches: &[u64]| -> Vec<_> {
            classes_of(&parts(), &[], caches).iter().map(|class| class.companion).collect()
        };
        assert_eq!(companions(&[700]), [None, None, Some(1), Some(1)]);
        assert_eq!(companions(&[700, 1000, 4000]), [None, Some(2), Some(3), Some(1)]);
        assert_eq!(companions(&[2000]), [None; 4]);
        assert_eq!(companions(&[10]), [None; 4]);
    }

    /// Whether the trials of all classes, each with its company, can tell what each class costs.
    fn are_told_apart(classes: &[Class]) -> bool {
        let observations: Vec<Observation> = (0..3)
            .flat_map(|block| {
                let row = move |extra: &[usize]| Observation {
                    counts: (0..classes.len())
                        .map(|class| if extra.contains(&class) { 3.0 } else { 1.0 })
                        .collect(),
                    response: classes.len() as f64 + 2.0 * extra.len() as f64,
                    sampling_sd: 0.0,
                    block,
                };
                let with_company = |class: usize| {
                    row(&[Some(class), classes[class].companion].into_iter().flatten().collect::<Vec<_>>())
                };
                std::iter::once(row(&[])).chain((0..classes.len()).map(with_company)).collect::<Vec<_>>()
            })
            .collect();
        Regression::fit(&observations, 0, 0).is_some()
    }

    #[test]
    fn whatever_the_cache_company_leaves_classes_apart() {
        let kinds = [
            ModuleKind::Embedding,
            ModuleKind::QkvProjection,
            ModuleKind::OutputProjection,
            ModuleKind::MlpUp,
            ModuleKind::MlpDown,
            ModuleKind::Norm,
        ];
        // Sizes as in a model, all alike, and one large class among small ones; fewer classes, too.
        for sizes in [[90, 300, 100, 400, 400, 0], [100; 6], [10, 10, 1000, 10, 10, 10]] {
            for n in 2..=sizes.len() {
                let parts: Vec<Part> =
                    (0..n).map(|i| part(i as u32, &format!("m{i}"), kinds[i], sizes[i])).collect();
                for cache in (0..40).map(|step| 10 << (step / 4) | step) {
                    let classes = classes_of(&parts, &[], &[cache]);
                    assert!(are_told_apart(&classes), "{n} of {sizes:?} with {cache} bytes of cache");
                }
            }
        }
    }
}
