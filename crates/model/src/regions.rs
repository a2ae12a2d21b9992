//! Round trips between regions: built-in tables, and tables of a user's own.

use std::time::Duration;

use crate::diagnostic::{Diagnostics, Source, nearest};
use crate::units;

/// Round trips between named regions. No pair of different regions is missing.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    names: Vec<String>,
    /// By row, then column.
    round_trips: Vec<Option<Duration>>,
}

/// The longest round trip.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(7200);

/// The built-in tables. Sources and licences stand in the files, beside the figures.
const BUILT_IN: [(&str, &str); 1] = [("azure", include_str!("../data/azure.csv"))];

/// The names of the built-in tables.
pub fn built_in_names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

/// The built-in table of that name.
pub fn built_in(name: &str) -> Option<Matrix> {
    let (name, text) = BUILT_IN.iter().find(|(known, _)| *known == name)?;
    Matrix::parse(name, text).ok()
}

// === impl Matrix ===

impl Matrix {
    /// Reads CSV: the first line and the first column name the regions, in the same order or another; each cell is a
    /// round trip in milliseconds (`71.5`), or a duration with its unit. Only the cell of a region with itself may be
    /// empty. Lines that begin with `#` are comments.
    pub fn parse(file: &str, text: &str) -> Result<Matrix, Diagnostics> {
        let source = Source::new(file, text);
        let mut mistakes = Diagnostics::new();
        let mut lines = rows(text);
        let Some(head) = lines.next() else {
            mistakes.push(
                source
                    .start()
                    .error("the latency matrix is empty: a first line with the regions' names is expected"),
            );
            return Err(mistakes);
        };
        let columns: Vec<&(usize, &str)> = head.iter().skip(1).collect();
        for (i, (at, name)) in columns.iter().enumerate() {
            if name.is_empty() {
                mistakes.push(source.place(*at..*at, "").error("a region without a name"));
            }
            if columns[..i].iter().any(|(_, earlier)| earlier == name) {
                mistakes.push(
                    source.place(*at..at + name.len(), "").error(format!("region {name:?} is named twice")),
                );
            }
        }
        if columns.is_empty() {
            mistakes.push(
                source.start().error("the latency matrix names no region: the first line is expected to"),
            );
            return Err(mistakes);
        }
        let names: Vec<String> = columns.iter().map(|(_, name)| (*name).to_owned()).collect();
        let n = names.len();
        let mut round_trips: Vec<Option<Duration>> = vec![None; n * n];
        let mut seen = vec![false; n];
        for cells in lines {
            let (at, name) = cells[0];
            let Some(row) = names.iter().position(|known| known == name) else {
                let mistake = source
                    .place(at..at + name.len(), "")
                    .error(format!("region {name:?} is not in the first line"));
                mistakes.push(mistake.suggest_nearest(name, names.iter().map(String::as_str)));
                continue;
            };
            if std::mem::replace(&mut seen[row], true) {
                mistakes.push(
                    source.place(at..at + name.len(), "").error(format!("a second line for region {name:?}")),
                );
                continue;
            }
            if let Some((at, cell)) = cells.get(n + 1) {
                let mistake = format!("more cells than the {n} regions of the first line");
                mistakes.push(source.place(*at..at + cell.len(), "").error(mistake));
            }
            for column in 0..n {
                match cells.get(column + 1) {
                    Some((_, "")) | Some((_, "-")) | None if column == row => {}
                    Some((at, "")) | Some((at, "-")) => {
                        let message =
                            format!("a hole: the round trip from {name} to {} is missing", names[column]);
                        mistakes.push(source.place(*at..*at, "").error(message));
                    }
                    None => {
                        let message =
                            format!("a hole: the round trip from {name} to {} is missing", names[column]);
                        mistakes.push(source.place(at..at + name.len(), "").error(message));
                    }
                    Some((at, cell)) => match round_trip(cell) {
                        Ok(time) => round_trips[row * n + column] = Some(time),
                        Err(why) => mistakes.push(source.place(*at..at + cell.len(), "").error(why)),
                    },
                }
            }
        }
        for (name, (at, typed)) in names.iter().zip(&columns).filter(|(name, _)| {
            let row = names.iter().position(|n| n == *name);
            row.is_some_and(|row| !seen[row])
        }) {
            mistakes.push(
                source
                    .place(*at..at + typed.len(), "")
                    .error(format!("a hole: there is no line for region {name}")),
            );
        }
        mistakes.check(Some(Matrix { names, round_trips })).map(|checked| checked.value)
    }

    /// The regions' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether it has that region.
    pub fn has(&self, name: &str) -> bool {
        self.names().any(|n| n == name)
    }

    /// The region of nearly that name.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        nearest(name, self.names())
    }

    /// The round trip between two regions. `None` for an unknown region, and where a table is silent about a region
    /// with itself.
    pub fn round_trip(&self, from: &str, to: &str) -> Option<Duration> {
        let index = |name: &str| self.names().position(|n| n == name);
        self.round_trips[index(from)? * self.names.len() + index(to)?]
    }
}

fn round_trip(cell: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "{cell:?} is no round trip: milliseconds such as 71.5, or a duration such as \"71.5ms\", are expected"
        )
    };
    let time = match cell.parse::<f64>() {
        Ok(ms) => Duration::try_from_secs_f64(ms / 1000.0).map_err(|_| wrong())?,
        Err(_) => units::duration(cell).map_err(|_| wrong())?,
    };
    if time > MAX_ROUND_TRIP {
        return Err(format!("{cell:?} is out of range: a round trip of at most two hours is allowed"));
    }
    Ok(time)
}

/// The lines of a CSV text that aren't empty or comments, each as its cells with their offsets. Quotes around a cell
/// are taken off; cells can't hold a comma.
fn rows(text: &str) -> impl Iterator<Item = Vec<(usize, &str)>> {
    let mut offset = 0;
    text.split('\n').filter_map(move |line| {
        let start = offset;
        offset += line.len() + 1;
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            return None;
        }
        let mut at = start;
        let cells = line.split(',').map(|cell| {
            let here = at;
            at += cell.len() + 1;
            let trimmed = cell.trim_start_matches([' ', '\t', '\u{feff}']);
            let lead = cell.len() - trimmed.len();
            let trimmed = trimmed.trim_end();
            match trimmed.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
                Some(inner) => (here + lead + 1, inner),
                None => (here + lead, trimmed),
            }
        });
        Some(cells.collect())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_matrix_is_read_with_units_and_comments() {
        let text = "# from somewhere\n,eu,us\neu,,80\n\"us\",81.5ms,1\n";
        let matrix = Matrix::parse("m.csv", text).unwrap();
        assert_eq!(matrix.round_trip("eu", "us"), Some(Duration::from_millis(80)));
        assert_eq!(matrix.round_trip("us", "eu"), Some(Duration::from_micros(81_500)));
        assert_eq!(matrix.round_trip("eu", "eu"), None);
        assert_eq!(matrix.round_trip("us", "us"), Some(Duration::from_millis(1)));
        assert_eq!(matrix.round_trip("us", "asia"), None);
    }

    #[test]
    fn the_built_in_tables_are_whole_and_of_this_planet() {
        for name in built_in_names() {
            let matrix = built_in(name).unwrap_or_else(|| panic!("{name} can't be read"));
            assert!(matrix.names().count() >= 20);
            for from in matrix.names() {
                for to in matrix.names().filter(|to| *to != from) {
                    let there = matrix.round_trip(from, to).unwrap().as_secs_f64();
                    let back = matrix.round_trip(to, from).unwrap().as_secs_f64();
                    assert!((0.001..0.4).contains(&there), "{from} to {to}: {there}");
                    assert!((there - back).abs() < 0.06, "{from} to {to}: {there} and {back}");
                }
            }
        }
        assert_eq!(
            built_in("azure").unwrap().round_trip("eastus", "westeurope"),
            Some(Duration::from_millis(89))
        );
    }

    #[test]
    fn a_hole_is_refused_with_its_place() {
        let found = Matrix::parse("m.csv", ",a,b,c\na,,1,\nb,1,,x\n").unwrap_err();
        let places: Vec<_> = found.iter().map(|d| (d.line, d.column, d.message.clone())).collect();
        assert_eq!(places[0].0, 1, "{places:?}");
        assert!(places[0].2.contains("no line for region c"));
        assert_eq!((places[1].0, places[1].1), (2, 6));
        assert!(places[1].2.contains("from a to c"));
        assert_eq!((places[2].0, places[2].1), (3, 6));
        assert!(places[2].2.contains("milliseconds"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*|[a-c0-9.,\n\"# -]{0,60}") {
            let _ = Matrix::parse("m.csv", &text);
        }
    }
}
