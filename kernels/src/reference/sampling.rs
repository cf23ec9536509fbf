//! Drawing a token.

use super::argmax;
use crate::sampling::{COLUMNS, Draw, NEVER, distance, weight};

/// Sorts all tokens, keeps the most likely ones, and goes along what is kept; the rule is that of
/// [`sampling`](mod@crate::sampling).
pub fn sample(logits: &[f32], draw: &Draw) -> u32 {
    let Draw { rule, random } = *draw;
    let best = argmax(logits);
    let largest = logits.get(best).copied().unwrap_or(f32::NAN);
    let Some(distance_of_one) = rule.distance_of_one().filter(|_| largest.is_finite()) else {
        return best as u32;
    };
    let mut kept: Vec<(u32, usize)> = logits
        .iter()
        .enumerate()
        .map(|(token, logit)| (distance(*logit, largest, distance_of_one), token))
        .filter(|(distance, _)| *distance < NEVER)
        .collect();
    kept.sort_unstable();
    if let Some(last) = rule.top_k.and_then(|k| kept.get(k.max(1) - 1)).copied() {
        kept.retain(|(distance, _)| *distance <= last.0);
    }
    if let Some(p) = rule.top_p_in_64_bits() {
        let target = ((total(&kept) * u128::from(p)) >> 64).max(1);
        let mut reached = 0;
        let last = kept.iter().find(|(distance, _)| {
            reached += u128::from(weight(*distance));
            reached >= target
        });
        if let Some((last, _)) = last.copied() {
            kept.retain(|(distance, _)| *distance <= last);
        }
    }
    kept.sort_unstable_by_key(|(_, token)| (token % COLUMNS, token / COLUMNS));
    let mut left = (total(&kept) * u128::from(random)) >> 64;
    for (distance, token) in kept {
        let weight = u128::from(weight(distance));
        if left < weight {
            return token as u32;
        }
        left -= weight;
    }
    best as u32
}

fn total(kept: &[(u32, usize)]) -> u128 {
    kept.iter().map(|(distance, _)| u128::from(weight(*distance))).sum()
}
