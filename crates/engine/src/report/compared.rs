//! Two runs' measurements side by side, for 80 columns.

use std::fmt::Write;

use super::words::{self, count, cut, figure, tame, wrapped};
use crate::measure::compare::{Compared, SIGNIFICANT};

/// Columns.
const WIDTH: usize = 80;

/// Every series of both runs, and what the test says of it.
pub fn comparison(a: &str, b: &str, compared: &[Compared]) -> String {
    let mut out = format!("  A  {a}\n  B  {b}\n\n");
    line(&mut out, ["measurement", "", "count", "mean", "p50"], ["p50 by", "B > A", "p"]);
    let mut label = String::new();
    for c in compared {
        let own = c.series.label();
        if own != label {
            let _ = writeln!(out, "  {}", cut(&tame(&own), WIDTH - 2));
            label = own;
        }
        let group = format!("  {}", cut(&tame(&c.series.group), 9));
        for (side, sums, group) in [("A", &c.a, group.as_str()), ("B", &c.b, "")] {
            let tested = if side == "B" { tested(c) } else { Default::default() };
            let [change, greater, p] = tested.each_ref().map(String::as_str);
            match sums {
                Some(s) => {
                    let (n, mean, p50) = (count(s.count), figure(s.mean), figure(s.p50));
                    line(&mut out, [group, side, &n, &mean, &p50], [change, greater, p]);
                }
                None => {
                    let _ = writeln!(out, "  {group:<11} {side}  nothing measured");
                }
            }
        }
    }
    let of = compared.iter().filter(|c| c.p.is_some()).count();
    let different = compared.iter().filter(|c| c.is_significant()).count();
    let note = format!(
        "{different} of {of} tested series differ: * has p below {SIGNIFICANT} after Holm's correction for {of} tests \
         (Mann-Whitney). B > A: pairs in which B's value is the greater, ties counted half. Values of one instance are \
         seldom independent: take several runs before you blame a change."
    );
    out.push('\n');
    out.push_str(&wrapped("  ", &note, WIDTH));
    out
}

/// What became worse by more than `limit` percent, if anything did.
pub fn regressions(worse: &[&Compared], limit: f64) -> String {
    if worse.is_empty() {
        return format!("\n  no median is significantly worse by more than {limit} %\n");
    }
    let mut out = format!("\n  regression: the median is significantly worse by more than {limit} %\n");
    for c in worse {
        let change = c.change_percent.unwrap_or_default();
        let _ = writeln!(out, "    {} of {}: {change:+.1} %", tame(&c.series.label()), tame(&c.series.group));
    }
    out
}

/// The change of the median, the share of pairs, and the probability.
fn tested(c: &Compared) -> [String; 3] {
    let Some(greater) = c.greater else { return Default::default() };
    let change = c.change_percent.map_or_else(|| "-".to_owned(), |p| format!("{p:+.1} %"));
    let star = if c.is_significant() { " *" } else { "" };
    let p = match c.p_corrected {
        None => "too few".to_owned(),
        Some(p) if p < 1e-4 => format!("<0.0001{star}"),
        Some(p) => format!("{p:.4}{star}"),
    };
    [change, words::percent((greater * 100.0).round()), p]
}

fn line(out: &mut String, [label, side, count, mean, p50]: [&str; 5], [change, greater, p]: [&str; 3]) {
    let line =
        format!("  {label:<11} {side:<1} {count:>9} {mean:>10} {p50:>10} {change:>10} {greater:>6}  {p:<9}");
    let _ = writeln!(out, "{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    use testground_model::measure::{Kind, SeriesName};

    use super::*;
    use crate::measure::compare::{Values, compare};

    #[test]
    fn a_comparison_fits_a_terminal_and_says_how_sure_it_is() {
        let name = |name: &str| SeriesName {
            kind: Kind::Own,
            name: name.into(),
            tags: "protocol=tcp".into(),
            metric: String::new(),
            field: "value".into(),
            group: "a-group-with-a-long-name".into(),
        };
        let sample = |values: &[f64]| values.iter().copied().collect();
        let a = Values::from([
            (name("slow"), (0..50).map(f64::from).collect()),
            (name("few"), sample(&[1.0, 2.0])),
            (name("gone"), sample(&[1.0])),
        ]);
        let b =
            Values::from([(name("slow"), (40..90).map(f64::from).collect()), (name("few"), sample(&[1.0]))]);
        let compared = compare(&a, &b);
        let text = comparison("one", "two", &compared);
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
        let seen: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert!(
            seen.contains(&vec!["B", "50", "64.5", "64", "+166.7", "%", "98", "%", "<0.0001", "*"]),
            "{text}"
        );
        assert!(seen.contains(&vec!["B", "1", "1", "1", "+0.0", "%", "25", "%", "too", "few"]), "{text}");
        assert!(
            text.contains("B  nothing measured") && text.contains("1 of 1 tested series differ"),
            "{text}"
        );
        let worse = regressions(&[&compared[2]], 5.0);
        assert!(worse.contains("slow protocol=tcp of a-group-with-a-long-name: +166.7 %"), "{worse}");
    }
}
