//! Reading a run's record of measurements, point by point, in memory that doesn't grow with it.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use testground_model::measure::line::{self, Line, Precision};
use testground_model::measure::sdk::{self, Sheet};
use testground_model::measure::{GROUP_TAG, INSTANCE_TAG, Source};
use testground_model::name::InstanceName;

use super::{RECORD_FILE, REFUSED_FILE};

/// So much is read at a time; a line may be longer.
const CHUNK: usize = 1 << 20;
/// Most keys of lines for which it is remembered whose they are.
const MAX_KEYS: usize = 1 << 16;

/// What is no point.
#[derive(Debug, Default)]
pub struct Faults {
    /// How many.
    pub count: u64,
    /// The first, with who sent it.
    pub first: Option<String>,
}

/// Gives every point of the record in `outputs` to `on_line`: first what came over the network, then what SDKs wrote
/// into files. The Go SDK does both with the same points; what is in a file is not counted again.
///
/// # Errors
/// When the record can't be read, or when `on_line` fails.
pub fn each(
    outputs: &Path,
    source: &Source,
    on_line: &mut dyn FnMut(&Line<'_>) -> io::Result<()>,
) -> io::Result<Faults> {
    let sheets = sheets(outputs)?;
    let mut faults = refused(&outputs.join(REFUSED_FILE))?;
    match File::open(outputs.join(RECORD_FILE)) {
        Ok(file) => sent(file, source, &sheets, &mut faults, on_line)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    for (instance, sheet) in sheets {
        let path = crate::home::instance_dir(outputs, &instance).join(sheet.file());
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let file = File::open(&path).map_err(named)?;
        written(file, source, &instance, sheet, &mut faults, on_line).map_err(named)?;
    }
    Ok(faults)
}

/// Points that came over the network.
fn sent(
    mut file: File,
    source: &Source,
    sheets: &BTreeSet<(InstanceName, Sheet)>,
    faults: &mut Faults,
    on_line: &mut dyn FnMut(&Line<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut twice = Twice {
        prefixes: Sheet::ALL.map(|s| (s, escaped(&s.prefix(source)))),
        sheets,
        known: HashMap::new(),
    };
    let mut take = |text: &[u8]| -> io::Result<()> {
        match line::parse(text, Precision::Nanoseconds) {
            Ok(point) if twice.is_in_a_file(&point) => Ok(()),
            Ok(point) => on_line(&point),
            Err(fault) => {
                faults.add(&format!("{RECORD_FILE}: {fault}"));
                Ok(())
            }
        }
    };
    let mut buffer = vec![0; CHUNK];
    let mut filled = 0;
    loop {
        if filled == buffer.len() {
            buffer.resize(buffer.len() * 2, 0);
        }
        let read = file.read(&mut buffer[filled..])?;
        filled += read;
        let mut at = 0;
        while let Some(end) = line::line_end(&buffer[..filled], at) {
            take(&buffer[at..end])?;
            at = end + 1;
        }
        if read == 0 {
            // Of a run that was killed the last line may be half.
            if at < filled {
                take(&buffer[at..filled])?;
            }
            return Ok(());
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
    }
}

/// Points that an SDK wrote into a file.
fn written(
    file: File,
    source: &Source,
    instance: &InstanceName,
    sheet: Sheet,
    faults: &mut Faults,
    on_line: &mut dyn FnMut(&Line<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let (mut json, mut text) = (Vec::new(), String::new());
    loop {
        json.clear();
        let most = sdk::MAX_LINE as u64 + 1;
        if (&mut reader).take(most).read_until(b'\n', &mut json)? == 0 {
            return Ok(());
        }
        if json.len() > sdk::MAX_LINE {
            faults.add(&format!("{instance}: {}: a line longer than {} bytes", sheet.file(), sdk::MAX_LINE));
            reader.skip_until(b'\n')?;
            continue;
        }
        if json.trim_ascii().is_empty() {
            continue;
        }
        text.clear();
        match sdk::to_line(&json, sheet, source, instance, &mut text) {
            Ok(()) => match line::parse(text.trim_end_matches('\n').as_bytes(), Precision::Nanoseconds) {
                Ok(point) => on_line(&point)?,
                Err(fault) => faults.add(&format!("{instance}: {}: {fault}", sheet.file())),
            },
            Err(fault) => faults.add(&format!("{instance}: {}: {fault}", sheet.file())),
        }
    }
}

/// The files of SDKs that have something in them, in the order of their instances.
fn sheets(outputs: &Path) -> io::Result<BTreeSet<(InstanceName, Sheet)>> {
    let mut found = BTreeSet::new();
    for (group, dir) in folders(outputs)? {
        for (index, dir) in folders(&dir)? {
            let Ok(index) = index.parse() else { continue };
            for sheet in Sheet::ALL {
                // Not through links, and nothing that would wait for a writer.
                let file = fs::symlink_metadata(dir.join(sheet.file()));
                if file.is_ok_and(|f| f.is_file() && f.len() > 0) {
                    found.insert((InstanceName::new(group.clone(), index), sheet));
                }
            }
        }
    }
    Ok(found)
}

fn folders(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

/// What the lab refused while the run went on.
fn refused(path: &Path) -> io::Result<Faults> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Faults::default()),
        Err(e) => return Err(e),
    };
    let mut lines = BufReader::new(file).lines();
    let count = lines.next().transpose()?.and_then(|n| n.parse().ok()).unwrap_or(0);
    let first = lines.next().transpose()?.map(|line| line.replacen('\t', ": ", 1));
    Ok(Faults { count, first })
}

/// Which points of the network are in a file of their instance too.
struct Twice<'a> {
    prefixes: [(Sheet, String); 2],
    sheets: &'a BTreeSet<(InstanceName, Sheet)>,
    known: HashMap<Box<str>, bool>,
}

// === impl Twice ===

impl Twice<'_> {
    fn is_in_a_file(&mut self, point: &Line<'_>) -> bool {
        let sheet = self.prefixes.iter().find(|(_, prefix)| point.key.starts_with(prefix.as_str()));
        let Some((sheet, _)) = sheet.filter(|_| !self.sheets.is_empty()) else { return false };
        if let Some(known) = self.known.get(point.key) {
            return *known;
        }
        let owner = point.tag(GROUP_TAG).zip(point.tag(INSTANCE_TAG).and_then(|i| i.parse().ok()));
        let twice = owner
            .is_some_and(|(group, index)| self.sheets.contains(&(InstanceName::new(group, index), *sheet)));
        if self.known.len() >= MAX_KEYS {
            self.known.clear();
        }
        self.known.insert(point.key.into(), twice);
        twice
    }
}

// === impl Faults ===

impl Faults {
    fn add(&mut self, what: &str) {
        self.count += 1;
        if self.first.is_none() {
            self.first = Some(what.to_owned());
        }
    }
}

/// A beginning of a measurement's name as it stands in a line.
fn escaped(prefix: &str) -> String {
    let mut text = String::new();
    line::escape_tag(&mut text, prefix);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(outputs: &Path) -> (Vec<String>, Faults) {
        let source = Source { plan: "p".into(), case: "c".into(), run: "r".into() };
        let mut seen = Vec::new();
        let faults = each(outputs, &source, &mut |l| {
            seen.push(format!("{} {}", l.measurement(), l.time.unwrap()));
            Ok(())
        });
        (seen, faults.unwrap())
    }

    #[test]
    fn a_point_that_was_sent_and_written_counts_once() {
        let t = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = t.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert!(points(t.path()).0.is_empty());
        write(
            RECORD_FILE,
            "results.p-c.x.point,group_id=g,instance=0 value=1 1\n\
             results.p-c.x.point,group_id=g,instance=1 value=1 2\n\
             mine,group_id=g,instance=0 text=\"two\nlines\" 3\nhalf",
        );
        write(
            "g/0/results.out",
            "{\"ts\":1,\"type\":\"point\",\"name\":\"x\",\"measures\":{\"value\":1}}\n{\"ts\":2",
        );
        write("g/0/diagnostics.out", "");
        write("build/log/results.out", "x");
        write(REFUSED_FILE, "00000000000000000007\ng[0]\tunable to parse 'x': missing fields\n");
        let (seen, faults) = points(t.path());
        assert_eq!(seen, ["results.p-c.x.point 2", "mine 3", "results.p-c.x.point 1"]);
        // Seven in the lab, half a line in each of two files.
        assert_eq!(faults.count, 9);
        assert_eq!(faults.first.as_deref(), Some("g[0]: unable to parse 'x': missing fields"));
    }

    #[test]
    fn a_line_longer_than_what_is_read_at_once_is_whole() {
        let t = tempfile::tempdir().unwrap();
        let long = format!("a text=\"{}\" 1\nb v=1 2\n", "x".repeat(3 * CHUNK));
        fs::write(t.path().join(RECORD_FILE), long).unwrap();
        assert_eq!(points(t.path()).0, ["a 1", "b 2"]);
    }
}
