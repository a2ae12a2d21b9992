//! One output stream of an instance: kept on disk up to a bound, cut into lines for whoever listens.
//!
//! Lines may have any length and any bytes. What a line means belongs in `speech`.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

/// Longest line that is handed on whole; the rest of a longer one goes to the file only.
pub(super) const MAX_LINE: usize = 1 << 20;

/// What became of a stream.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Bytes that the instance wrote.
    pub(super) written: u64,
    /// Bytes that are in the file.
    pub(super) kept: u64,
    /// The first error of writing to the file.
    pub(super) error: Option<io::Error>,
}

/// Reads `stream` to its end. What `on_line` makes of each line, without its newline, goes to `heard`, which may hold
/// the reading up; all bytes go to the file at `path` until `limit` bytes are in it or it can't be written any more.
pub(super) async fn follow<T>(
    mut stream: impl AsyncRead + Unpin,
    path: &Path,
    limit: u64,
    mut on_line: impl FnMut(&[u8]) -> Option<T>,
    heard: &mpsc::Sender<T>,
) -> Kept {
    let mut kept = Kept::default();
    // Written in place: a page cache takes it in microseconds, and a thousand instances need no thread pool.
    let mut file = match File::create(path) {
        Ok(file) => Some(file),
        Err(e) => {
            kept.error = Some(e);
            None
        }
    };
    let mut lines = Lines::default();
    // The buffer follows the need: a thousand quiet instances must not hold a thousand large ones.
    let mut buffer = Vec::with_capacity(4096);
    let mut said = Vec::new();
    loop {
        buffer.clear();
        let ended = matches!(stream.read_buf(&mut buffer).await, Ok(0) | Err(_));
        kept.written += buffer.len() as u64;
        if let Some(f) = &mut file {
            let room = (limit - kept.kept).min(buffer.len() as u64) as usize;
            match f.write_all(&buffer[..room]) {
                Ok(()) => kept.kept += room as u64,
                Err(e) => {
                    kept.error = Some(e);
                    file = None;
                }
            }
        }
        let mut take = |line: &[u8]| said.extend(on_line(line));
        lines.push(&buffer, &mut take);
        if ended {
            lines.finish(&mut take);
        }
        for one in said.drain(..) {
            // Nobody listening is no reason to stop keeping.
            let _ = heard.send(one).await;
        }
        if ended {
            return kept;
        }
        if buffer.len() == buffer.capacity() && buffer.capacity() < 64 << 10 {
            buffer.reserve(buffer.capacity() * 2);
        }
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Default)]
struct Lines {
    open: Vec<u8>,
    /// The open line is longer than is handed on, and was handed on already.
    overlong: bool,
}

// === impl Lines ===

impl Lines {
    fn push(&mut self, mut bytes: &[u8], mut on_line: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            if std::mem::take(&mut self.overlong) {
                continue;
            }
            if self.open.is_empty() {
                on_line(&line[..line.len().min(MAX_LINE)]);
            } else {
                self.extend(line);
                on_line(&self.open);
                self.open = Vec::new();
            }
        }
        if bytes.is_empty() || self.overlong {
            return;
        }
        self.extend(bytes);
        if self.open.len() == MAX_LINE {
            on_line(&self.open);
            self.open = Vec::new();
            self.overlong = true;
        }
    }

    fn finish(&mut self, mut on_line: impl FnMut(&[u8])) {
        if !self.open.is_empty() {
            on_line(&self.open);
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = MAX_LINE - self.open.len();
        self.open.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn read(chunks: &[&[u8]], limit: u64) -> (Vec<Vec<u8>>, Kept, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let (mut writer, reader) = tokio::io::duplex(1 << 16);
        let chunks: Vec<Vec<u8>> = chunks.iter().map(|c| c.to_vec()).collect();
        tokio::spawn(async move {
            for chunk in chunks {
                writer.write_all(&chunk).await.unwrap();
            }
        });
        let (heard, mut lines) = mpsc::channel(100);
        let kept = follow(reader, &path, limit, |l| Some(l.to_vec()), &heard).await;
        drop(heard);
        let mut all = Vec::new();
        while let Some(line) = lines.recv().await {
            all.push(line);
        }
        (all, kept, std::fs::read(&path).unwrap())
    }

    #[tokio::test]
    async fn lines_come_whole_however_they_are_cut() {
        let (lines, kept, file) = read(&[b"one\ntw", b"o\n\n\xff\x00", b"\nlast"], 1000).await;
        assert_eq!(lines, [&b"one"[..], b"two", b"", b"\xff\x00", b"last"]);
        assert_eq!(file, b"one\ntwo\n\n\xff\x00\nlast");
        assert_eq!((kept.written, kept.kept), (16, 16));
    }

    #[tokio::test]
    async fn a_line_without_end_is_bounded_in_memory_and_whole_on_disk() {
        let long = vec![b'x'; 3 * MAX_LINE + 5];
        let (lines, kept, file) = read(&[&long, b"y\nnext\n"], u64::MAX).await;
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].len(), &lines[1][..]), (MAX_LINE, &b"next"[..]));
        assert_eq!(file.len() as u64, kept.written);
    }

    #[tokio::test]
    async fn the_file_stops_at_its_bound_and_the_lines_go_on() {
        let (lines, kept, file) = read(&[b"0123456789\n", b"more\n"], 4).await;
        assert_eq!(file, b"0123");
        assert_eq!(lines.len(), 2);
        assert_eq!((kept.written, kept.kept), (16, 4));
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_the_reading_goes_on() {
        let (heard, mut lines) = mpsc::channel(10);
        let kept = follow(&b"a\nb\n"[..], Path::new("/dev/full"), 1000, |l| Some(l.len()), &heard).await;
        assert_eq!((lines.recv().await, lines.recv().await), (Some(1), Some(1)));
        assert_eq!(kept.error.unwrap().kind(), io::ErrorKind::StorageFull);
    }
}
