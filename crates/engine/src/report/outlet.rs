//! The writing end of the terminal, on a thread of its own: whoever reads slowly, or not at all, must not hold a run up.
//!
//! What can't be written in time is counted and said; the files of the run have everything.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::words;

/// Messages that may wait for the reader.
const WAITING: usize = 4096;
/// How long the end of a run waits for a reader that takes nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a terminal's texts go.
pub(super) struct Outlet {
    queue: Option<SyncSender<Message>>,
    /// Says that everything is written, by hanging up.
    done: Receiver<()>,
    /// Texts written so far.
    written: Arc<AtomicU64>,
    /// Lines that nobody was told about.
    unshown: u64,
}

enum Message {
    Text(String),
    /// The line of progress.
    Status(String),
    /// The line of progress goes.
    NoStatus,
}

// === impl Outlet ===

impl Outlet {
    /// Writes to `out`; with `progress` there is a line of progress on standard error.
    pub(super) fn new(out: Box<dyn Write + Send>, progress: bool) -> Outlet {
        let (queue, messages) = sync_channel(WAITING);
        let (finished, done) = channel();
        let written = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&written);
        std::thread::spawn(move || {
            write_all(out, progress, &messages, &counter);
            drop(finished);
        });
        Outlet { queue: Some(queue), done, written, unshown: 0 }
    }

    /// Writes a text if the reader keeps up.
    pub(super) fn say(&mut self, text: String) {
        let lines = text.lines().count() as u64;
        let text = if self.unshown > 0 { format!("{}{text}", self.apology()) } else { text };
        match self.queue.as_ref().map(|queue| queue.try_send(Message::Text(text))) {
            Some(Ok(())) => self.unshown = 0,
            _ => self.unshown += lines,
        }
    }

    /// Shows what is going on, if the reader keeps up.
    pub(super) fn status(&self, status: String) {
        if let Some(queue) = &self.queue {
            let _ = queue.try_send(Message::Status(status));
        }
    }

    /// Writes the last text, and waits until all is written or the reader takes nothing for long.
    pub(super) fn finish(&mut self, text: String) {
        let Some(queue) = self.queue.take() else { return };
        let text = if self.unshown > 0 { format!("{}{text}", self.apology()) } else { text };
        let mut last = [Message::NoStatus, Message::Text(text)].into_iter();
        let mut next = last.next();
        let mut seen = self.written.load(Ordering::Relaxed);
        let mut idle = Duration::ZERO;
        let tick = Duration::from_millis(20);
        let mut queue = Some(queue);
        while idle < PATIENCE {
            match (next.take(), &queue) {
                (Some(message), Some(sender)) => match sender.try_send(message) {
                    Ok(()) => {
                        next = last.next();
                        continue;
                    }
                    Err(TrySendError::Full(message)) => next = Some(message),
                    Err(TrySendError::Disconnected(_)) => return,
                },
                _ => queue = None,
            }
            if self.done.recv_timeout(tick) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            let now = self.written.load(Ordering::Relaxed);
            idle = if now == seen { idle + tick } else { Duration::ZERO };
            seen = now;
        }
    }

    fn apology(&self) -> String {
        let lines = words::counted(self.unshown, "line");
        format!("… {lines} left out here: whoever reads this is too slow\n")
    }
}

/// Ends when the queue's other end is gone, or when nobody can read any more.
fn write_all(
    mut out: Box<dyn Write + Send>,
    progress: bool,
    messages: &Receiver<Message>,
    written: &AtomicU64,
) {
    let mut bar = progress.then(|| {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    });
    while let Ok(message) = messages.recv() {
        let done = match message {
            Message::Text(text) => {
                let mut write = || out.write_all(text.as_bytes()).and_then(|()| out.flush());
                match &bar {
                    Some(bar) => bar.suspend(write),
                    None => write(),
                }
            }
            Message::Status(status) => {
                if let Some(bar) = &bar {
                    bar.set_message(status);
                }
                Ok(())
            }
            Message::NoStatus => {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
                Ok(())
            }
        };
        if done.is_err() {
            break;
        }
        written.fetch_add(1, Ordering::Relaxed);
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_reader_that_sleeps_holds_nobody_up_and_learns_what_it_missed() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut outlet = Outlet::new(Box::new(std::fs::File::from(writer)), false);
        // Far more than a pipe and the queue hold, with nobody reading.
        let lines = 200_000;
        for i in 0..lines {
            outlet.say(format!("{i:080}\n"));
        }
        let read = std::thread::spawn(move || {
            let mut text = String::new();
            std::fs::File::from(reader).read_to_string(&mut text).unwrap();
            text
        });
        outlet.finish("the end\n".to_owned());
        drop(outlet);
        let text = read.join().unwrap();
        assert!(text.ends_with("the end\n"));
        let shown = text.lines().filter(|l| l.starts_with("0000")).count() as u64;
        let missed: u64 = text
            .lines()
            .filter(|l| l.starts_with('…'))
            .map(|l| l.split_whitespace().nth(1).unwrap().replace(',', "").parse::<u64>().unwrap())
            .sum();
        assert!(missed > 0);
        assert_eq!(shown + missed, lines);
    }

    #[test]
    fn a_reader_that_is_gone_ends_the_writing() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(reader);
        let mut outlet = Outlet::new(Box::new(std::fs::File::from(writer)), false);
        outlet.say("nobody hears this\n".to_owned());
        outlet.finish("nor this\n".to_owned());
    }
}
