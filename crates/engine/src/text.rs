//! Reads files that a user names, or that lie in a plan: texts of a bounded size. Anything else is refused before it is
//! read, since a device never ends and a FIFO waits for its writer.

use std::fs::{self, File, FileType};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use thiserror::Error;

/// The largest text, bytes: a trace with the most lines that one can have.
pub const MAX_TEXT: u64 = 16 << 20;

/// Why a text can't be had.
#[derive(Debug, Error)]
pub enum TextError {
    /// The system says so.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("it is {0}, and a regular file is expected")]
    NoFile(&'static str),
    /// It goes on beyond [`MAX_TEXT`].
    #[error("it is larger than {} MiB", MAX_TEXT >> 20)]
    TooLarge,
    /// It has bytes that are no UTF-8.
    #[error("it is no text: byte {0} is not UTF-8")]
    NoText(usize),
}

/// The text of a file. A pipe is read where it was handed over as a descriptor (`/dev/stdin`, a shell's `<(...)`).
///
/// # Errors
/// What is no regular file, more than [`MAX_TEXT`], bytes that are no UTF-8, and what the system refuses.
pub fn read_text(path: &Path) -> Result<String, TextError> {
    String::from_utf8(read_bytes(path)?).map_err(|e| TextError::NoText(e.utf8_error().valid_up_to()))
}

/// The bytes of what should be a text, within the same bounds.
///
/// # Errors
/// What is no regular file, more than [`MAX_TEXT`], and what the system refuses.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, TextError> {
    // Looked at before it is opened: opening a FIFO waits.
    let kind = fs::metadata(path)?.file_type();
    let is_readable = kind.is_file() || kind.is_fifo() && is_descriptor(path);
    if !is_readable {
        return Err(TextError::NoFile(what(kind)));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_TEXT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(TextError::TooLarge);
    }
    Ok(bytes)
}

fn is_descriptor(path: &Path) -> bool {
    path == Path::new("/dev/stdin") || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd")
}

fn what(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let t = tempfile::tempdir().unwrap();
        let refused = |path: &Path| read_text(path).unwrap_err().to_string();
        assert_eq!(refused(Path::new("/dev/zero")), "it is a device, and a regular file is expected");
        assert_eq!(refused(t.path()), "it is a directory, and a regular file is expected");
        let fifo = t.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        assert_eq!(refused(&fifo), "it is a FIFO, and a regular file is expected");
        let file = t.path().join("file");
        fs::write(&file, "text").unwrap();
        assert_eq!(read_text(&file).unwrap(), "text");
        fs::write(&file, b"a\xff").unwrap();
        assert_eq!(refused(&file), "it is no text: byte 1 is not UTF-8");
        // Holes cost nothing; a file that says it is endless is read up to the limit only.
        File::create(&file).unwrap().set_len(1 << 31).unwrap();
        assert_eq!(refused(&file), "it is larger than 16 MiB");
    }
}
