//! Starting somebody else's tool: bounded in time and output, its whole process group gone when we are done with it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::Access;
use testground_linux::process::LeashedGroup;
use testground_model::outcome::signal_name;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::Instant;

use super::{BuildError, io_error};

/// Most bytes of one tool's output that are kept in its log.
const LOG_LIMIT: u64 = 64 << 20;
/// How many last lines a failure shows.
const TAIL_LINES: usize = 30;
/// How long such a line may be.
const TAIL_WIDTH: usize = 400;

/// A tool that is about to be started.
#[derive(Debug)]
pub(super) struct Tool<'a> {
    /// The executable.
    pub(super) program: &'a Path,
    /// Its arguments.
    pub(super) args: Vec<OsString>,
    /// Where it works.
    pub(super) dir: &'a Path,
    /// Variables on top of the client's own.
    pub(super) env: Vec<(&'a str, OsString)>,
}

// === impl Tool ===

impl Tool<'_> {
    /// Runs it to its end; what it writes goes to `log`, behind what is there.
    ///
    /// # Errors
    /// When it can't be started, doesn't exit with 0, or takes longer than `timeout`.
    pub(super) async fn run(&self, log: &Path, timeout: Duration) -> Result<(), BuildError> {
        self.run_and_pick(log, timeout, None).await.map(drop)
    }

    /// The same for a tool that speaks to programs on lines of their own among those for people: lines that begin with
    /// `mark` are given back, and kept out of the log.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub(super) async fn run_and_pick(
        &self,
        log: &Path,
        timeout: Duration,
        mark: Option<&str>,
    ) -> Result<Vec<String>, BuildError> {
        let mut record = Record::open(log).map_err(|e| io_error("open", log, e))?;
        record.line(&format!("$ {}   (in {})", self.words(), self.dir.display()));
        let mut sieve = Sieve::new(mark);
        let (status, _) = self.finish(timeout, |bytes| sieve.take(bytes, &mut record)).await?;
        let picked = sieve.end(&mut record);
        let ended = match status {
            Some(status) if status.success() => return Ok(picked),
            Some(status) => ended_words(status),
            None => format!("took longer than {} s and was ended", timeout.as_secs()),
        };
        Err(self.failed(ended, record, log))
    }

    /// Runs it to its end and gives back its standard output, for tools that answer a question.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub(super) async fn answer(&self, log: &Path, timeout: Duration) -> Result<Vec<u8>, BuildError> {
        let mut record = Vec::new();
        let (status, stdout) = self.finish(timeout, |bytes| record.extend_from_slice(bytes)).await?;
        if status.is_some_and(|s| s.success()) {
            return Ok(stdout);
        }
        let ended = status.map_or_else(|| format!("took longer than {} s", timeout.as_secs()), ended_words);
        let mut kept = Record::open(log).map_err(|e| io_error("open", log, e))?;
        kept.line(&format!("$ {}   (in {})", self.words(), self.dir.display()));
        kept.take(&record);
        Err(self.failed(ended, kept, log))
    }

    fn failed(&self, ended: String, record: Record, log: &Path) -> BuildError {
        let (command, tail, log) = (self.words(), record.tail(), log.to_owned());
        BuildError::Tool { command, ended, tail, hint: None, log }
    }

    /// The status, `None` when the time was over; and the bytes of stdout. All output goes to `output` as well, in
    /// the order in which it was written.
    async fn finish(
        &self,
        timeout: Duration,
        mut output: impl FnMut(&[u8]),
    ) -> Result<(Option<ExitStatus>, Vec<u8>), BuildError> {
        let starting = |e: io::Error| io_error("start", self.program, e);
        // Ends when it is dropped, and when this process does, with everything the tool started in it.
        let group = LeashedGroup::new().map_err(|e| starting(io::Error::other(e)))?;
        let (reader, writer) = os_pipe().map_err(starting)?;
        let mut reader = pipe::Receiver::from_owned_fd(reader).map_err(starting)?;
        let mut command = tokio::process::Command::new(self.program);
        command
            .args(&self.args)
            .current_dir(self.dir)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::from(writer.try_clone().map_err(starting)?))
            .stderr(Stdio::from(writer))
            .process_group(group.id().as_raw_nonzero().get())
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(starting)?;
        // The command holds our copies of the writing end: without them the pipe ends with the tool.
        drop(command);
        let deadline = Instant::now() + timeout;
        let mut kept = Vec::new();
        let mut buffer = vec![0; 16 << 10];
        let mut open = true;
        let status = loop {
            tokio::select! {
                read = reader.read(&mut buffer), if open => match read {
                    Ok(n) if n > 0 => {
                        output(&buffer[..n]);
                        keep(&mut kept, &buffer[..n]);
                    }
                    _ => open = false,
                },
                ended = child.wait() => break Some(ended.map_err(|e| io_error("wait for", self.program, e))?),
                () = tokio::time::sleep_until(deadline) => break None,
            }
        };
        // What the tool left running holds the pipe open: it ends first, and what is in the pipe is read without
        // waiting for its end.
        drop(group);
        while let Ok(n) = reader.try_read(&mut buffer) {
            if n == 0 {
                break;
            }
            output(&buffer[..n]);
            keep(&mut kept, &buffer[..n]);
        }
        Ok((status, kept))
    }

    fn words(&self) -> String {
        let program = self.program.file_name().unwrap_or(self.program.as_os_str());
        let words = std::iter::once(program).chain(self.args.iter().map(OsString::as_os_str));
        words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}

/// Looks a tool up in a list of directories in the form of `PATH`.
pub fn find(tool: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|dir| dir.join(tool))
        .find(|file| file.is_file() && rustix::fs::access(file, Access::EXEC_OK).is_ok())
}

fn os_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // Only our end: a tool expects its output to block.
    let flags = rustix::fs::fcntl_getfl(&reader)?;
    rustix::fs::fcntl_setfl(&reader, flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok((reader, writer))
}

/// Answers are short; a tool that floods is cut and its answer found wrong.
fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    const ANSWER_LIMIT: usize = 4 << 20;
    let room = ANSWER_LIMIT.saturating_sub(kept.len());
    kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

fn ended_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was ended by {}", signal_name(signal)),
        (None, None) => format!("ended with {status}"),
    }
}

/// Parts the lines for programs from those for people.
struct Sieve<'a> {
    mark: Option<&'a str>,
    open_line: Vec<u8>,
    picked: Vec<String>,
    room: usize,
}

// === impl Sieve ===

impl<'a> Sieve<'a> {
    /// Longest line that is held back until its end is known.
    const LONGEST_LINE: usize = 1 << 20;
    /// Most bytes of picked lines; a tool that says more than that to programs is not listened to any more.
    const MOST_PICKED: usize = 64 << 20;

    fn new(mark: Option<&'a str>) -> Sieve<'a> {
        Sieve { mark, open_line: Vec::new(), picked: Vec::new(), room: Self::MOST_PICKED }
    }

    fn take(&mut self, bytes: &[u8], record: &mut Record) {
        let Some(mark) = self.mark else { return record.take(bytes) };
        for part in bytes.split_inclusive(|&b| b == b'\n') {
            self.open_line.extend_from_slice(part);
            if part.ends_with(b"\n") || self.open_line.len() > Self::LONGEST_LINE {
                self.end_line(mark, record);
            }
        }
    }

    fn end_line(&mut self, mark: &str, record: &mut Record) {
        let line = std::mem::take(&mut self.open_line);
        if !line.starts_with(mark.as_bytes()) {
            return record.take(&line);
        }
        if let Some(room) = self.room.checked_sub(line.len()) {
            self.room = room;
            self.picked.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    }

    fn end(mut self, record: &mut Record) -> Vec<String> {
        if let Some(mark) = self.mark {
            self.end_line(mark, record);
        }
        self.picked
    }
}

/// A log on disk with a limit, and its last lines in memory.
struct Record {
    file: File,
    room: u64,
    last: VecDeque<String>,
    open_line: Vec<u8>,
}

// === impl Record ===

impl Record {
    fn open(path: &Path) -> io::Result<Record> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Record { file, room: LOG_LIMIT, last: VecDeque::new(), open_line: Vec::new() })
    }

    /// A line of our own, in the log only.
    fn line(&mut self, text: &str) {
        let _ = writeln!(self.file, "{text}");
    }

    fn take(&mut self, bytes: &[u8]) {
        let fits = &bytes[..bytes.len().min(usize::try_from(self.room).unwrap_or(usize::MAX))];
        // A full disk must not end a build that may need no more room; the last lines are in memory anyway.
        let _ = self.file.write_all(fits);
        self.room -= fits.len() as u64;
        if !fits.is_empty() && self.room == 0 {
            self.line(&format!("\n… cut here: only {} MiB are kept", LOG_LIMIT >> 20));
        }
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                _ if self.open_line.len() < TAIL_WIDTH => self.open_line.push(byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.open_line).trim_end().to_owned();
        self.open_line.clear();
        if self.last.len() == TAIL_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    fn tail(mut self) -> Vec<String> {
        if !self.open_line.is_empty() {
            self.end_line();
        }
        self.last.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str, log: &Path, timeout: Duration) -> Result<(), BuildError> {
        let dir = log.parent().unwrap();
        let args = vec!["-c".into(), script.into()];
        Tool { program: Path::new("/bin/sh"), args, dir, env: Vec::new() }.run(log, timeout).await
    }

    #[tokio::test]
    async fn a_failure_carries_the_end_of_the_output_and_the_log_all_of_it() {
        let t = tempfile::tempdir().unwrap();
        let log = t.path().join("log");
        let script = "i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i+1)); done; echo why >&2; exit 7";
        let error = sh(script, &log, Duration::from_secs(60)).await.unwrap_err();
        let BuildError::Tool { ended, tail, .. } = &error else { panic!("{error}") };
        assert_eq!(ended, "exited with code 7");
        assert_eq!(tail.len(), TAIL_LINES);
        assert_eq!(tail.last().map(String::as_str), Some("why"));
        assert!(fs::read_to_string(&log).unwrap().contains("line 0\n"));
        assert!(error.to_string().contains("  | why\n"), "{error}");
    }

    #[tokio::test]
    async fn a_tool_that_leaves_something_running_is_not_waited_for() {
        let t = tempfile::tempdir().unwrap();
        let log = t.path().join("log");
        sh("sleep 1000 & echo $! > pid", &log, Duration::from_secs(60)).await.unwrap();
        let pid: i32 = fs::read_to_string(t.path().join("pid")).unwrap().trim().parse().unwrap();
        gone(pid).await;
    }

    #[tokio::test]
    async fn a_dropped_or_overdue_tool_ends_with_all_that_it_started() {
        let t = tempfile::tempdir().unwrap();
        let log = t.path().join("log");
        let script = "sleep 1000 & echo $! > pid; wait";
        let pid_file = t.path().join("pid");
        // On a machine that is busy with something else the shell may not have come so far.
        for seconds in [0.3, 3.0, 30.0] {
            let error = sh(script, &log, Duration::from_secs_f64(seconds)).await.unwrap_err().to_string();
            assert!(error.contains("took longer than"), "{error}");
            if fs::read_to_string(&pid_file).is_ok_and(|text| !text.is_empty()) {
                break;
            }
        }
        gone(fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap()).await;

        fs::remove_file(&pid_file).unwrap();
        let running = tokio::spawn({
            let log = log.clone();
            async move { sh(script, &log, Duration::from_secs(600)).await }
        });
        let pid = loop {
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            if let Ok(pid) = text.trim().parse() {
                break pid;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        running.abort();
        gone(pid).await;
    }

    /// Waits until a process has no live part any more (a zombie that init has not collected yet counts as gone).
    async fn gone(pid: i32) {
        for _ in 0..24_000 {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
            if matches!(state, None | Some('Z' | 'X')) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("process {pid} is still there");
    }

    #[tokio::test]
    async fn bytes_that_are_no_text_and_endless_lines_are_bounded() {
        let t = tempfile::tempdir().unwrap();
        let log = t.path().join("log");
        let script = "printf '\\377\\376'; head -c 100000 /dev/zero | tr '\\0' x; exit 1";
        let error = sh(script, &log, Duration::from_secs(60)).await.unwrap_err();
        let BuildError::Tool { tail, .. } = error else { panic!() };
        assert_eq!(tail.len(), 1);
        assert!(tail[0].chars().count() <= TAIL_WIDTH && tail[0].starts_with('\u{fffd}'));
    }
}
