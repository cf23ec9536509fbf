//! Attention of a block of queries, one query at a time.

use crate::cpu::op_table::AttentionBlock;

/// # Safety
///
/// `block.y` is valid for writes of `queries` rows of `head_dim` elements, `y_stride` apart, and nobody else
/// touches them.
pub(super) unsafe fn attention(block: &AttentionBlock<'_>) {
    let d = block.head_dim;
    let mut scores = Vec::with_capacity(block.keys);
    for i in 0..block.queries {
        // SAFETY: row `i < queries` of the result.
        let y = unsafe { std::slice::from_raw_parts_mut(block.y.add(i * block.y_stride), d) };
        let q = &block.q[i * block.q_stride..][..d];
        let visible = block.visible(i);
        scores.clear();
        let mut max = f32::NEG_INFINITY;
        for j in visible.clone() {
            let score = if block.is_unmasked(j) {
                let key = &block.k[j * block.k_stride..][..d];
                q.iter().zip(key).map(|(q, k)| q * k).sum::<f32>() * block.scale
                    + block.alibi_slope * j as f32
            } else {
                f32::NEG_INFINITY
            };
            max = max.max(score);
            scores.push(score);
        }
        y.fill(0.0);
        if max == f32::NEG_INFINITY {
            continue;
        }
        let mut sum = 0.0;
        for (j, score) in visible.zip(&scores) {
            let weight = (score - max).exp();
            sum += weight;
            if weight > 0.0 {
                for (y, v) in y.iter_mut().zip(&block.v[j * block.v_stride..][..d]) {
                    *y += weight * v;
                }
            }
        }
        y.iter_mut().for_each(|y| *y /= sum);
    }
}
