//! Measurements as a table: at the end of a run, and for `testground metrics`.

use std::fmt::Write;

use testground_model::measure::{EXACT_VALUES, Kind, Measured, QUANTILE_ERROR, Row};

use super::words::{count, counted, cut, figure, tame, wrapped};

/// Series that are shown one by one.
const MOST_ROWS: usize = 20;
/// Characters of a sparkline.
const SPARK: usize = 16;

/// What is shown of one series, as text.
pub(super) struct Shown {
    pub(super) count: String,
    pub(super) mean: String,
    pub(super) p50: String,
    pub(super) p99: String,
}

impl Shown {
    /// The figures of a row: the same on the terminal and on a page.
    pub(super) fn of(row: &Row) -> Shown {
        Shown { count: count(row.count), mean: figure(row.mean), p50: figure(row.p50), p99: figure(row.p99) }
    }
}

/// Whether a series is one of those that a reader looks at first.
pub(super) fn is_main(row: &Row) -> bool {
    row.series.kind != Kind::Diagnostic && row.series.is_main()
}

/// The main series, at most [`MOST_ROWS`] of them, and how to see the rest; nothing where nothing was measured.
pub fn table(measured: &Measured, width: usize, run: &str) -> String {
    all(measured, width, run, MOST_ROWS, is_main)
}

/// Every series.
pub fn whole_table(measured: &Measured, width: usize, run: &str) -> String {
    all(measured, width, run, usize::MAX, |_| true)
}

fn all(measured: &Measured, width: usize, run: &str, most: usize, wanted: impl Fn(&Row) -> bool) -> String {
    let mut out = String::new();
    let rows: Vec<&Row> = measured.rows.iter().filter(|r| wanted(r)).take(most).collect();
    if !rows.is_empty() {
        out.push('\n');
        line(&mut out, ["measurement", "count", "mean", "p50", "p99"], "over time");
    }
    let mut label = String::new();
    for row in &rows {
        let own = row.series.label();
        if own != label {
            let _ = writeln!(out, "  {}", cut(&tame(&own), width.saturating_sub(2)));
            label = own;
        }
        let Shown { count, mean, p50, p99 } = Shown::of(row);
        let group = format!("  {}", cut(&tame(&row.series.group), 13));
        line(&mut out, [&group, &count, &mean, &p50, &p99], &spark(&row.spark));
    }
    let mut notes = Vec::new();
    if rows.iter().any(|r| !r.exact) {
        notes.push(format!(
            "p50 and p99 of more than {EXACT_VALUES} values are within {} %",
            QUANTILE_ERROR * 100.0
        ));
    }
    let more = measured.series.saturating_sub(rows.len() as u64);
    if more > 0 {
        notes.push(format!("{} more series: `testground metrics {run} --all`", count(more)));
    }
    if measured.beyond > 0 {
        notes.push(format!("{} of more series than are summed up", counted(measured.beyond, "value")));
    }
    for note in notes {
        out.push_str(&wrapped("  … ", &note, width));
    }
    if measured.refused > 0 {
        let first = measured.first_refused.as_deref().unwrap_or_default();
        let text =
            format!("{} refused; the first: {}", counted(measured.refused, "point"), cut(&tame(first), 200));
        out.push_str(&wrapped("  refused   ", &text, width));
    }
    out
}

fn line(out: &mut String, [label, count, mean, p50, p99]: [&str; 5], spark: &str) {
    let line = format!("  {label:<15} {count:>10} {mean:>10} {p50:>10} {p99:>10}  {spark}");
    let _ = writeln!(out, "{}", line.trim_end());
}

/// Values as a row of blocks from the least to the greatest; a gap where nothing was measured.
pub(super) fn spark(values: &[Option<f64>]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let known = || values.iter().flatten().copied();
    let (low, high) = (known().fold(f64::INFINITY, f64::min), known().fold(f64::NEG_INFINITY, f64::max));
    let cells = values.len().min(SPARK);
    let block = |cell: usize| {
        let within = &values[cell * values.len() / cells..(cell + 1) * values.len() / cells];
        let (n, sum) = within.iter().flatten().fold((0u32, 0.0), |(n, sum), v| (n + 1, sum + v / 1e3));
        if n == 0 {
            return ' ';
        }
        let mean = sum / f64::from(n) * 1e3;
        // Values that hardly differ are level: their noise is no mountain range.
        let flat = (high - low) <= high.abs().max(low.abs()) * 1e-3;
        let share = if flat { 0.5 } else { ((mean - low) / (high - low)).clamp(0.0, 1.0) };
        BLOCKS[((share * 7.0).round() as usize).min(7)]
    };
    (0..cells).map(block).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_goes_from_the_least_to_the_greatest() {
        let line: Vec<Option<f64>> = (0..8).map(|i| Some(f64::from(i))).collect();
        assert_eq!(spark(&line), "▁▂▃▄▅▆▇█");
        assert_eq!(spark(&[Some(1.0), None, Some(2.0)]), "▁ █");
        assert_eq!(spark(&[Some(5.0), Some(5.0001)]), "▅▅");
        let many: Vec<Option<f64>> = (0..24).map(|i| Some(f64::from(i))).collect();
        assert_eq!(spark(&many).chars().count(), SPARK);
        assert_eq!(spark(&[]), "");
        assert_eq!(figure(0.0), "0");
    }
}
