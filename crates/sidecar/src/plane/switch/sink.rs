//! Files that the pump writes to without ever waiting for a disk: one thread, and a bound on what waits for it.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// Bytes that may wait for the disk in all files together.
const BOUND: usize = 32 << 20;

/// A thread that writes to files. Dropping it waits until all is written.
pub(super) struct Sink {
    chunks: Option<Sender<(Arc<File>, Vec<u8>)>>,
    waiting: Arc<AtomicUsize>,
    error: Arc<OnceLock<String>>,
    thread: Option<JoinHandle<()>>,
}

// === impl Sink ===

impl Sink {
    pub(super) fn start() -> std::io::Result<Sink> {
        let (chunks, inbox) = mpsc::channel::<(Arc<File>, Vec<u8>)>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let waits = Arc::clone(&waiting);
        let error = Arc::new(OnceLock::new());
        let first = Arc::clone(&error);
        let thread = std::thread::Builder::new().name("switch-files".to_owned()).spawn(move || {
            for (file, chunk) in inbox {
                if let Err(error) = (&*file).write_all(&chunk) {
                    tracing::warn!(%error, "a capture or record could not be written to");
                    first.get_or_init(|| error.to_string());
                }
                waits.fetch_sub(chunk.len(), Ordering::Relaxed);
            }
        })?;
        Ok(Sink { chunks: Some(chunks), waiting, error, thread: Some(thread) })
    }

    /// What was refused first.
    pub(super) fn error(&self) -> Option<String> {
        self.error.get().cloned()
    }

    /// Lets a chunk be written; returns whether there was room for it.
    pub(super) fn write(&self, file: &Arc<File>, chunk: Vec<u8>) -> bool {
        if self.waiting.load(Ordering::Relaxed) + chunk.len() > BOUND {
            return false;
        }
        self.waiting.fetch_add(chunk.len(), Ordering::Relaxed);
        let Some(chunks) = &self.chunks else { return false };
        chunks.send((Arc::clone(file), chunk)).is_ok()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.chunks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
