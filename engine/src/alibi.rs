//! Slopes of attention with linear biases.

/// One slope per head: a geometric series from the largest power of two up to `heads`, and every other term of the next
/// longer series for the heads beyond (Press et al. 2021, appendix A, as BLOOM has it).
pub fn alibi_slopes(heads: usize) -> Vec<f32> {
    let Some(power) = heads.checked_ilog2() else { return Vec::new() };
    let closest = 1usize << power;
    let series = |length: usize| 2f64.powf(-8.0 / length as f64);
    let first = (1..=closest).map(|exponent| series(closest).powi(exponent as i32));
    let rest = (0..heads - closest).map(|head| series(2 * closest).powi(2 * head as i32 + 1));
    first.chain(rest).map(|slope| slope as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_heads_halve_and_six_heads_fill_up() {
        assert_eq!(alibi_slopes(8), [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]);
        let half = 0.5f64;
        let six = [0.25, 0.0625, 0.015625, 0.00390625, half, 0.125].map(|slope| slope as f32);
        assert_eq!(alibi_slopes(6), six);
        assert!(alibi_slopes(0).is_empty());
    }
}
