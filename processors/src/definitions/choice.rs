//! Which of a type's templates a member gets: by weight, always the same one, and another one only where a changed weight makes it so.
//! Nothing is kept: the choice is a function of type, member, templates and weights.

use bellwether_schemas::definitions::Weighted;
use xxhash_rust::xxh64::Xxh64;

/// Bits after the point of a logarithm.
const FRACTION: u32 = 40;

/// The template that a member gets; `None` where none has a weight.
///
/// Weighted rendezvous hashing (Thaler and Ravishankar 1998, weights as in Schindelhauer and Schomaker 2005): each template draws a time from
/// an exponential distribution of its weight's rate, by a hash of type, member and template, and the earliest wins. Raising one template's
/// weight moves members to it alone, lowering it moves away those alone that had it, and equal proportions are equal choices. In whole
/// numbers, because logarithms of floating point may differ from machine to machine.
pub(super) fn chosen<'t>(kind: &str, member: &str, templates: &'t [Weighted]) -> Option<&'t str> {
    let drawn = templates.iter().filter(|template| template.weight > 0).map(|weighted| {
        let time = minus_log2(hash(kind, member, &weighted.template));
        (time, weighted)
    });
    // `a.time / a.weight < b.time / b.weight`, without dividing; the name decides between equals.
    let earliest = drawn.min_by(|(a_time, a), (b_time, b)| {
        let (a_scaled, b_scaled) =
            (u128::from(*a_time) * u128::from(b.weight), u128::from(*b_time) * u128::from(a.weight));
        a_scaled.cmp(&b_scaled).then_with(|| a.template.cmp(&b.template))
    });
    earliest.map(|(_, weighted)| weighted.template.as_str())
}

fn hash(kind: &str, member: &str, template: &str) -> u64 {
    let mut hasher = Xxh64::new(0);
    for part in [kind, member, template] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.digest()
}

/// `-log2(n / 2^64)` with [`FRACTION`] bits after the point; 0 counts as 1.
fn minus_log2(n: u64) -> u64 {
    let n = n.max(1);
    let zeros = n.leading_zeros();
    // In [1, 2), with 63 bits after the point. Squaring doubles the logarithm, and each doubling brings one more bit of it to the front.
    let mut mantissa = n << zeros;
    let mut fraction = 0_u64;
    for _ in 0..FRACTION {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let carry = square >> 64 != 0;
        fraction = fraction << 1 | u64::from(carry);
        mantissa = u64::try_from(if carry { square >> 1 } else { square }).unwrap_or(u64::MAX);
    }
    (u64::from(zeros + 1) << FRACTION) - fraction
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::cast_precision_loss)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn templates(weights: &[u32]) -> Vec<Weighted> {
        weights.iter().enumerate().map(|(n, weight)| Weighted { template: format!("t{n}"), weight: *weight }).collect()
    }

    fn all(weights: &[u32]) -> Vec<String> {
        let templates = templates(weights);
        (0..4_000).filter_map(|n| chosen("receipt", &format!("m{n}"), &templates).map(str::to_owned)).collect()
    }

    #[test]
    fn the_choice_is_the_same_on_every_machine_and_in_every_version() {
        let templates = templates(&[1, 2, 3]);
        let got: Vec<_> = ["ana", "beto", "carla", "dana"].map(|m| chosen("receipt", m, &templates).unwrap()).to_vec();
        insta::assert_json_snapshot!(got);
        assert_eq!(chosen("receipt", "ana", &[]), None);
        assert_eq!(all(&[0, 0]).len(), 0);
        assert!(all(&[0, 1]).iter().all(|t| t == "t1"));
    }

    #[test]
    fn types_choose_independently() {
        let templates = templates(&[1, 1]);
        let same = (0..4_000).filter(|n| {
            let member = format!("m{n}");
            chosen("a", &member, &templates) == chosen("b", &member, &templates)
        });
        assert!((1_800..2_200).contains(&same.count()));
    }

    #[test]
    fn the_logarithm_is_one() {
        for n in [1, 2, 3, 1 << 40, u64::MAX / 3, u64::MAX] {
            let expected = 64.0 - (n as f64).log2();
            let got = minus_log2(n) as f64 / (1_u64 << FRACTION) as f64;
            assert!((got - expected).abs() < 1e-9, "{n}: {got} {expected}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Shares are the weights' within five standard deviations; another weight of one template moves members to it or away from it
        /// alone, and no more of them than its share changes.
        #[test]
        fn a_changed_weight_moves_only_whom_it_must(
            weights in prop::collection::vec(0_u32..20, 2..6), which in 0_usize..6, new in 0_u32..20, factor in 1_u32..50,
        ) {
            let which = which % weights.len();
            prop_assume!(weights.iter().sum::<u32>() > 0);
            let mut changed = weights.clone();
            changed[which] = new;
            prop_assume!(changed.iter().sum::<u32>() > 0);
            let (before, after) = (all(&weights), all(&changed));
            let share = |weights: &[u32], n: usize| f64::from(weights[n]) / f64::from(weights.iter().sum::<u32>());
            let deviation = |share: f64| 5.0 * (4_000.0 * share * (1.0 - share)).sqrt() + 1.0;
            for n in 0..weights.len() {
                let count = before.iter().filter(|t| **t == format!("t{n}")).count() as f64;
                let expected = share(&weights, n);
                prop_assert!((count - 4_000.0 * expected).abs() <= deviation(expected), "t{}: {} of {}", n, count, 4_000.0 * expected);
            }
            let moved: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
            let name = format!("t{which}");
            if new >= weights[which] {
                prop_assert!(moved.iter().all(|(_, to)| **to == name), "to {}", name);
            } else {
                prop_assert!(moved.iter().all(|(from, _)| **from == name), "from {}", name);
            }
            let expected = (share(&changed, which) - share(&weights, which)).abs();
            prop_assert!((moved.len() as f64 - 4_000.0 * expected).abs() <= deviation(expected), "{} moved", moved.len());
            let scaled: Vec<u32> = weights.iter().map(|weight| weight * factor).collect();
            prop_assert_eq!(all(&scaled), before);
        }
    }
}
