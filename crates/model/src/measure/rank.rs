//! Whether two samples differ: the test of Mann and Whitney, by ranks.
//!
//! It asks whether values of one sample tend to be greater than those of the other, and needs no assumption about how
//! they are spread. Where it is small and without ties its distribution is counted out; otherwise it is the normal
//! approximation with the correction for ties and for continuity (Mann, Whitney, 1947; Lehmann, Nonparametrics, 1.2).

/// Fewest values of a sample for which a probability means anything: with fewer no result could be significant.
pub const FEWEST: usize = 4;
/// Both samples may have so many values for the exact distribution.
const EXACT: usize = 20;

/// What the test says of two samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// The probability of a difference at least as large between samples of one distribution, both sides; none where a
    /// sample is smaller than [`FEWEST`].
    pub p: Option<f64>,
    /// The share of pairs in which the second sample's value is the greater one, ties counted half (Vargha and Delaney's
    /// A): 0.5 is no difference.
    pub greater: f64,
}

/// Compares two samples; `None` when one is empty.
pub fn mann_whitney(a: &[f64], b: &[f64]) -> Option<Verdict> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let mut all: Vec<(f64, bool)> =
        a.iter().map(|v| (*v, false)).chain(b.iter().map(|v| (*v, true))).collect();
    all.sort_unstable_by(|x, y| x.0.total_cmp(&y.0));
    let (n, m) = (a.len() as f64, b.len() as f64);
    // The sum of b's ranks, ties sharing the mean of theirs; and the correction for them.
    let (mut ranks, mut ties, mut tied) = (0.0, 0.0, false);
    let mut i = 0;
    while i < all.len() {
        let same = all[i..].iter().take_while(|x| x.0 == all[i].0).count();
        let of_b = all[i..i + same].iter().filter(|x| x.1).count();
        ranks += of_b as f64 * (i as f64 + (same as f64 + 1.0) / 2.0);
        let t = same as f64;
        ties += t * t * t - t;
        tied |= same > 1;
        i += same;
    }
    let u = ranks - m * (m + 1.0) / 2.0;
    let p = if a.len().min(b.len()) < FEWEST {
        None
    } else if !tied && a.len().max(b.len()) <= EXACT {
        Some(exact(a.len(), b.len(), u))
    } else {
        let total = n + m;
        let variance = n * m / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
        let off = ((u - n * m / 2.0).abs() - 0.5).max(0.0);
        Some(if variance > 0.0 { two_sided(off / variance.sqrt()) } else { 1.0 })
    };
    Some(Verdict { p, greater: u / (n * m) })
}

/// Corrects probabilities of several tests made at once (Holm, 1979): the chance that any of those called significant
/// is a mere accident stays what it is for one test.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_unstable_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut corrected = vec![0.0; p.len()];
    let mut least: f64 = 0.0;
    for (rank, index) in order.into_iter().enumerate() {
        least = least.max(((p.len() - rank) as f64 * p[index]).min(1.0));
        corrected[index] = least;
    }
    corrected
}

/// The probability of a `u` at least as far from the middle, by counting all orders of `n + m` values.
fn exact(n: usize, m: usize, u: f64) -> f64 {
    // ways[j][k]: orders of j values of one sample among those of the other seen so far, with the statistic k.
    let most = n * m;
    let mut ways = vec![vec![0.0f64; most + 1]; n + 1];
    ways[0][0] = 1.0;
    for value in 1..=n + m {
        for j in (1..=n.min(value)).rev() {
            // The value of rank `value` is the j-th of the sample: it is above `value - j` of the other.
            let above = value - j;
            if above > m {
                continue;
            }
            for k in (above..=most).rev() {
                ways[j][k] += ways[j - 1][k - above];
            }
        }
    }
    let total: f64 = ways[n].iter().sum();
    let far = (u - most as f64 / 2.0).abs();
    let at_least: f64 =
        (0..=most).filter(|k| (*k as f64 - most as f64 / 2.0).abs() >= far - 1e-9).map(|k| ways[n][k]).sum();
    (at_least / total).min(1.0)
}

/// The probability of a normal value at least `z` from the middle.
fn two_sided(z: f64) -> f64 {
    // erfc by a continued fraction in the tail and a series near the middle; both to about 1e-12.
    let x = z / std::f64::consts::SQRT_2;
    let square = x * x;
    if x < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -square / f64::from(n);
            let more = term / f64::from(2 * n + 1);
            sum += more;
            if more.abs() < 1e-17 * sum.abs() {
                break;
            }
        }
        return (1.0 - 2.0 / std::f64::consts::PI.sqrt() * sum).clamp(0.0, 1.0);
    }
    let mut fraction = 0.0;
    for n in (1..=60).rev() {
        fraction = f64::from(n) / 2.0 / (x + fraction);
    }
    (-square).exp() / std::f64::consts::PI.sqrt() / (x + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(seen: f64, wanted: f64) -> bool {
        (seen - wanted).abs() <= 1e-6 * wanted.max(1e-6)
    }

    #[test]
    fn small_samples_are_counted_out() {
        // 4 and 4 values that don't overlap: 2 of the 70 orders.
        let v = mann_whitney(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]).unwrap();
        assert!(near(v.p.unwrap(), 2.0 / 70.0) && v.greater == 1.0, "{v:?}");
        // Lehmann's table: n = m = 5 has 19 of 252 orders with U at or below 5.
        let v = mann_whitney(&[1.0, 2.0, 3.0, 6.0, 8.0], &[4.0, 5.0, 7.0, 9.0, 10.0]).unwrap();
        assert!(near(v.p.unwrap(), 38.0 / 252.0), "{v:?}");
        assert!(mann_whitney(&[1.0, 2.0, 3.0], &[4.0; 9]).unwrap().p.is_none());
        assert!(mann_whitney(&[], &[1.0]).is_none());
    }

    #[test]
    fn large_and_tied_samples_are_approximated() {
        let same = mann_whitney(&[1.0; 50], &[1.0; 30]).unwrap();
        assert_eq!((same.p, same.greater), (Some(1.0), 0.5));
        let a: Vec<f64> = (0..100).map(f64::from).collect();
        let b: Vec<f64> = (0..100).map(|i| f64::from(i) + 20.0).collect();
        let v = mann_whitney(&a, &b).unwrap();
        // By the textbook's formula and the erfc of another language's library.
        assert!(near(v.p.unwrap(), 1.097_521_801_7e-5), "{v:?}");
        let back = mann_whitney(&b, &a).unwrap();
        assert!(near(back.p.unwrap(), v.p.unwrap()) && near(back.greater, 1.0 - v.greater));
    }

    #[test]
    fn tails_of_the_normal_distribution_are_right() {
        for (z, p) in [
            (0.0, 1.0),
            (1.0, 0.317_310_507_9),
            (1.959_963_985, 0.05),
            (4.0, 6.334_248_367e-5),
            (6.0, 1.973_175_29e-9),
        ] {
            assert!(near(two_sided(z), p), "{z}: {}", two_sided(z));
        }
    }

    #[test]
    fn several_tests_are_held_to_one_error() {
        let corrected = holm(&[0.01, 0.04, 0.03, 0.5]);
        for (seen, wanted) in corrected.iter().zip([0.04, 0.09, 0.09, 0.5]) {
            assert!(near(*seen, wanted), "{corrected:?}");
        }
        assert!(holm(&[]).is_empty());
    }
}
