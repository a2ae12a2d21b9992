//! From the bytes of a batch in line protocol to lines of the record.
//!
//! Memory is bounded by the longest line, not by the batch. Who sends the bytes, and what is answered, belongs elsewhere.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flate2::write::MultiGzDecoder;
use testground_model::measure::line::{self, Precision};
use testground_model::measure::{GROUP_TAG, INSTANCE_TAG};
use testground_model::name::InstanceName;

use super::{RECORD_FILE, REFUSED_FILE};

/// Longest line that is taken, bytes.
const MAX_LINE: usize = 1 << 20;
/// So much of a zipped batch is unpacked at a time: deflate packs a thousand bytes into one at most.
const MOST_ZIPPED: usize = 4096;
/// Refused lines that a batch's answer shows, and the file of refused lines for each batch.
const MOST_SHOWN: usize = 10;
/// So much of a refused line is shown.
const SHOWN_LINE: usize = 200;
/// Refused lines that are kept for a run.
const MOST_KEPT: usize = 1000;

/// One write request, as far as it has been read.
pub struct Batch {
    precision: Precision,
    owner: Owner,
    unzip: Option<MultiGzDecoder<Vec<u8>>>,
    /// The beginning of a line whose end hasn't come.
    open: Vec<u8>,
    /// The open line is longer than any that is taken.
    overlong: bool,
    /// Lines of the record that nobody has taken yet.
    lines: String,
    points: u64,
    refused: u64,
    shown: Vec<String>,
}

/// The run's record of measurements: made with the first point.
pub struct Sink {
    outputs: PathBuf,
    record: Option<Record>,
    refused: Option<File>,
    count: u64,
    kept: usize,
    lost: bool,
}

struct Record {
    file: File,
    length: u64,
}

// === impl Batch ===

impl Batch {
    /// A batch whose times have this unit, zipped or not.
    pub fn new(precision: Precision, zipped: bool, owner: Owner) -> Batch {
        Batch {
            precision,
            owner,
            unzip: zipped.then(|| MultiGzDecoder::new(Vec::new())),
            open: Vec::new(),
            overlong: false,
            lines: String::new(),
            points: 0,
            refused: 0,
            shown: Vec::new(),
        }
    }

    /// Takes the next bytes of the request.
    ///
    /// # Errors
    /// When they are not what they say they are; then the request is over.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        let Some(mut unzip) = self.unzip.take() else {
            self.text(bytes);
            return Ok(());
        };
        for piece in bytes.chunks(MOST_ZIPPED) {
            unzip.write_all(piece).map_err(|e| format!("gzip: {e}"))?;
            let text = std::mem::take(unzip.get_mut());
            self.text(&text);
        }
        self.unzip = Some(unzip);
        Ok(())
    }

    /// The request is read to its end.
    ///
    /// # Errors
    /// When its end is missing.
    pub fn finish(&mut self) -> Result<(), String> {
        if let Some(mut unzip) = self.unzip.take() {
            unzip.try_finish().map_err(|e| format!("gzip: {e}"))?;
            let text = std::mem::take(unzip.get_mut());
            self.text(&text);
        }
        let last = std::mem::take(&mut self.open);
        if !std::mem::take(&mut self.overlong) {
            self.line(&last);
        }
        Ok(())
    }

    /// How many points were good.
    pub fn points(&self) -> u64 {
        self.points
    }

    /// Counts what is no line at all.
    pub fn refuse(&mut self, why: &str) {
        self.refused += 1;
        self.shown.push(format!("unable to parse: {why}"));
    }

    /// What is said of the lines that were refused.
    pub fn refusal(&self) -> Option<String> {
        let mut words = self.shown.join("\n");
        let more = self.refused.saturating_sub(self.shown.len() as u64);
        if more > 0 {
            let _ = write!(words, "\nand {more} more");
        }
        (self.refused > 0).then_some(words)
    }

    fn text(&mut self, bytes: &[u8]) {
        if self.open.is_empty() && !self.overlong {
            let rest = self.whole_lines(bytes);
            self.keep_open(&bytes[rest..]);
            return;
        }
        if self.overlong {
            // Where a text may have begun nobody knows any more: the next newline ends the line.
            let Some(end) = bytes.iter().position(|&b| b == b'\n') else { return };
            self.overlong = false;
            let rest = &bytes[end + 1..];
            let from = self.whole_lines(rest);
            self.keep_open(&rest[from..]);
            return;
        }
        let mut joined = std::mem::take(&mut self.open);
        joined.extend_from_slice(bytes);
        let rest = self.whole_lines(&joined);
        joined.drain(..rest);
        if joined.len() > MAX_LINE {
            self.keep_open(&joined);
        } else {
            self.open = joined;
        }
    }

    fn keep_open(&mut self, rest: &[u8]) {
        if rest.len() > MAX_LINE {
            self.fault(&rest[..SHOWN_LINE], &format!("line too long: more than {MAX_LINE} bytes"));
            self.overlong = true;
            self.open = Vec::new();
        } else {
            self.open.extend_from_slice(rest);
        }
    }

    /// Takes all lines that are whole; where the rest begins.
    fn whole_lines(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(end) = line::line_end(bytes, at) {
            self.line(&bytes[at..end]);
            at = end + 1;
        }
        at
    }

    fn line(&mut self, text: &[u8]) {
        if line::is_blank(text) {
            return;
        }
        match line::parse(text, self.precision) {
            Ok(point) => self.point(&point),
            Err(fault) => self.fault(text, &fault.to_string()),
        }
    }

    fn point(&mut self, point: &line::Line<'_>) {
        self.points += 1;
        let out = &mut self.lines;
        out.push_str(point.key);
        // What is in the key as text may be a value; then the tags are looked at.
        for (tag, more) in [(GROUP_TAG, &self.owner.group), (INSTANCE_TAG, &self.owner.instance)] {
            if !(point.key.contains(tag) && point.tag(tag).is_some()) {
                out.push_str(more);
            }
        }
        out.push(' ');
        out.push_str(point.fields);
        let unit = self.precision.nanoseconds();
        let now = || crate::run::unix_nanos() as i64 / unit * unit;
        let _ = writeln!(out, " {}", point.time.unwrap_or_else(now));
    }

    fn fault(&mut self, text: &[u8], why: &str) {
        self.refused += 1;
        if self.shown.len() < MOST_SHOWN {
            let shown = String::from_utf8_lossy(&text[..text.len().min(SHOWN_LINE)]).into_owned();
            let cut = if text.len() > SHOWN_LINE { "…" } else { "" };
            self.shown.push(format!("unable to parse '{shown}{cut}': {why}"));
        }
    }
}

// === impl Sink ===

impl Sink {
    /// Writes into files of this folder.
    pub fn new(outputs: PathBuf) -> Sink {
        Sink { outputs, record: None, refused: None, count: 0, kept: 0, lost: false }
    }

    /// Appends the lines that a batch has so far.
    ///
    /// # Errors
    /// When they can't be written; then none of them is in the record.
    pub fn take(&mut self, batch: &mut Batch) -> io::Result<()> {
        if batch.lines.is_empty() {
            return Ok(());
        }
        let record = match &mut self.record {
            Some(record) => record,
            None => self.record.insert(Record::open(&self.outputs.join(RECORD_FILE))?),
        };
        let lines = std::mem::take(&mut batch.lines);
        record.append(lines.as_bytes())
    }

    /// Counts what a batch had refused, and keeps the first of it in a file; whether it is the first of the run.
    pub fn refuse(&mut self, batch: &Batch, instance: Option<&InstanceName>) -> bool {
        let first = self.count == 0;
        self.count += batch.refused;
        let who = instance.map_or_else(|| "-".to_owned(), ToString::to_string);
        let mut text = String::new();
        for shown in batch.shown.iter().take(MOST_KEPT.saturating_sub(self.kept)) {
            let _ = writeln!(text, "{who}\t{}", shown.escape_debug());
            self.kept += 1;
        }
        if let Err(e) = self.note(&text) {
            tracing::warn!("refused measurements are not noted: {e}");
        }
        first
    }

    /// Whether this is the first loss.
    pub fn lost(&mut self) -> bool {
        !std::mem::replace(&mut self.lost, true)
    }

    /// The file's first line is the count, always twenty digits, so that it can be written again in its place.
    fn note(&mut self, text: &str) -> io::Result<()> {
        let head = format!("{:020}\n", self.count);
        match &mut self.refused {
            Some(file) => {
                file.write_all_at(head.as_bytes(), 0)?;
                file.write_all(text.as_bytes())
            }
            None => {
                let mut file = File::create(self.outputs.join(REFUSED_FILE))?;
                file.write_all(head.as_bytes())?;
                file.write_all(text.as_bytes())?;
                self.refused = Some(file);
                Ok(())
            }
        }
    }
}

// === impl Record ===

impl Record {
    fn open(path: &Path) -> io::Result<Record> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let length = file.metadata()?.len();
        Ok(Record { file, length })
    }

    /// All of it or nothing: half a line would spoil the one after it.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(e) => {
                self.file.set_len(self.length)?;
                Err(e)
            }
        }
    }
}

/// The tags that say whose a point is, for points that don't.
#[derive(Debug, Clone, Default)]
pub struct Owner {
    group: String,
    instance: String,
}

// === impl Owner ===

impl Owner {
    /// The tags of an instance; none of somebody who is none.
    pub fn of(instance: Option<&InstanceName>) -> Owner {
        instance.map_or_else(Owner::default, |i| {
            let mut group = format!(",{GROUP_TAG}=");
            line::escape_tag(&mut group, &i.group);
            Owner { group, instance: format!(",{INSTANCE_TAG}={}", i.index) }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn owner() -> Owner {
        Owner::of(Some(&InstanceName::new("g", 2)))
    }

    fn taken(batch: &mut Batch) -> String {
        batch.finish().unwrap();
        std::mem::take(&mut batch.lines)
    }

    #[test]
    fn a_point_gets_its_owner_and_its_time_in_nanoseconds() {
        let mut batch = Batch::new(Precision::Seconds, false, owner());
        for piece in ["a,x=y v=1 ", "5\nb,group_id=o", "ther,instance=9 v=2 6\n\n# c\nc v=\"group_id\" 7"] {
            batch.push(piece.as_bytes()).unwrap();
        }
        assert_eq!(
            taken(&mut batch),
            "a,x=y,group_id=g,instance=2 v=1 5000000000\nb,group_id=other,instance=9 v=2 6000000000\n\
             c,group_id=g,instance=2 v=\"group_id\" 7000000000\n"
        );
        assert_eq!((batch.points, batch.refusal()), (3, None));
    }

    #[test]
    fn a_zipped_batch_is_unpacked_as_it_comes() {
        let mut zip = GzEncoder::new(Vec::new(), Compression::best());
        for i in 0..50_000 {
            writeln!(zip, "a v={i} {i}").unwrap();
        }
        let zipped = zip.finish().unwrap();
        let mut batch = Batch::new(Precision::Nanoseconds, true, owner());
        let mut lines = 0;
        for piece in zipped.chunks(1000) {
            batch.push(piece).unwrap();
            lines += std::mem::take(&mut batch.lines).lines().count();
        }
        lines += taken(&mut batch).lines().count();
        assert_eq!((lines, batch.points), (50_000, 50_000));
        let mut batch = Batch::new(Precision::Nanoseconds, true, owner());
        assert!(batch.push(b"no gzip at all").is_err());
    }

    #[test]
    fn what_is_refused_is_said_counted_and_bounded() {
        let t = tempfile::tempdir().unwrap();
        let mut sink = Sink::new(t.path().to_owned());
        let mut batch = Batch::new(Precision::Nanoseconds, false, owner());
        batch.push(b"good v=1 1\nbad\n\xff v=1\n").unwrap();
        batch.finish().unwrap();
        sink.take(&mut batch).unwrap();
        let words = batch.refusal().unwrap();
        assert_eq!(words, "unable to parse 'bad': missing fields\nunable to parse '\u{fffd} v=1': not UTF-8");
        assert!(sink.refuse(&batch, None));
        let mut flood = Batch::new(Precision::Nanoseconds, false, owner());
        for _ in 0..500 {
            flood.push(b"worse\n").unwrap();
        }
        assert!(flood.refusal().unwrap().ends_with("and 490 more"));
        assert!(!sink.refuse(&flood, None));
        let text = std::fs::read_to_string(t.path().join(REFUSED_FILE)).unwrap();
        assert_eq!(text.lines().next(), Some("00000000000000000502"));
        assert_eq!(text.lines().count(), 1 + 2 + MOST_SHOWN);
        assert_eq!(std::fs::read_to_string(t.path().join(RECORD_FILE)).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_line_without_end_takes_no_memory_and_the_next_one_counts() {
        let mut batch = Batch::new(Precision::Nanoseconds, false, owner());
        let piece = vec![b'x'; 256 << 10];
        for _ in 0..40 {
            batch.push(&piece).unwrap();
            assert!(batch.open.capacity() <= 3 * MAX_LINE);
        }
        batch.push(b"\ngood v=1 1\n").unwrap();
        batch.finish().unwrap();
        assert_eq!((batch.points, batch.refused), (1, 1));
    }

    #[test]
    fn a_full_disk_is_said() {
        let mut record = Record { file: File::options().write(true).open("/dev/full").unwrap(), length: 0 };
        assert!(record.append(b"a v=1 1\n").is_err());
    }
}
