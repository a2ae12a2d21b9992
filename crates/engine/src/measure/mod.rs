//! What the instances of a run measured: the record on disk, its summary, and what is made of it elsewhere.
//!
//! The record is two things: `measurements.lp` in the run's folder, which the lab writes as points arrive, and the files
//! that SDKs write into each instance's outputs. The arithmetic is in `testground_model::measure`; how it looks belongs
//! in `report`.

pub mod compare;
pub mod export;
pub mod forward;
pub mod intake;
pub mod record;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use testground_model::event::{Event, EventKind};
use testground_model::measure::{Measured, Source, Summarizer};

/// Points as they came in over the network.
pub const RECORD_FILE: &str = "measurements.lp";
/// Points that were refused: their count in the first line, then the first of them with their senders.
pub const REFUSED_FILE: &str = "measurements.refused";
/// The summary of all.
pub const SUMMARY_FILE: &str = "measurements.json";
/// Series in an event.
const MOST_IN_EVENT: usize = 400;

/// Sums the record in `outputs` up and keeps the sums beside it; `None` where nothing was measured.
///
/// # Errors
/// When the record can't be read or the sums can't be written.
pub fn summarise(outputs: &Path, source: &Source) -> io::Result<Option<Measured>> {
    let measured = sum_up(outputs, source)?;
    if measured.points == 0 && measured.refused == 0 {
        return Ok(None);
    }
    let mut file = tempfile::Builder::new().prefix(".measurements-").tempfile_in(outputs)?;
    serde_json::to_writer(io::BufWriter::new(&mut file), &measured)?;
    fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.persist(outputs.join(SUMMARY_FILE)).map_err(|e| e.error)?;
    Ok(Some(measured))
}

/// The summary of a run: kept, or made now for a run whose client was killed.
///
/// # Errors
/// When the record can't be read.
pub fn summary(outputs: &Path, source: &Source) -> io::Result<Measured> {
    match File::open(outputs.join(SUMMARY_FILE)) {
        Ok(file) => serde_json::from_reader(BufReader::new(file)).map_err(io::Error::from),
        Err(e) if e.kind() == io::ErrorKind::NotFound => sum_up(outputs, source),
        Err(e) => Err(e),
    }
}

fn sum_up(outputs: &Path, source: &Source) -> io::Result<Measured> {
    let mut sum = Summarizer::new(source);
    let faults = record::each(outputs, source, &mut |line| {
        sum.add(line, 0);
        Ok(())
    })?;
    let mut measured = sum.finish();
    measured.refused = faults.count;
    measured.first_refused = faults.first;
    Ok(measured)
}

/// What an event tells of a summary: the first series, without their values over time.
pub fn for_event(measured: &Measured) -> Measured {
    let mut short = Measured { rows: Vec::new(), ..measured.clone() };
    short.rows = measured.rows.iter().take(MOST_IN_EVENT).cloned().collect();
    for row in &mut short.rows {
        row.over_time = Vec::new();
    }
    short
}

/// The run whose folder this is, from the first event of its record.
///
/// # Errors
/// When there is no record, or it does not begin with a run.
pub fn source(outputs: &Path) -> io::Result<Source> {
    let path = outputs.join(crate::runs::RECORD_FILE);
    let mut line = String::new();
    BufReader::new(File::open(&path)?).read_line(&mut line)?;
    match serde_json::from_str::<Event>(&line) {
        Ok(Event { run, kind: EventKind::RunQueued { plan, case, .. }, .. }) => {
            Ok(Source { plan, case, run: run.to_string() })
        }
        _ => Err(io::Error::other(format!("{} does not begin with a run", path.display()))),
    }
}
