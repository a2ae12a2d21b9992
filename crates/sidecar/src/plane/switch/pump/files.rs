//! Captures and the record of decisions on their way to their files.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::capture::{self, Direction};
use super::super::config::SwitchError;
use super::super::fabric::Fabric;
use super::super::packet::VnetHeader;
use super::super::sink::Sink;
use super::FLUSH;
use crate::plan::PortId;

/// Bytes of a capture that are written together.
const CHUNK: usize = 64 << 10;

#[derive(Default)]
pub(super) struct Files {
    sink: Option<Sink>,
    captures: Vec<Capture>,
    /// Capture and number of the interface in it, by slot.
    by_slot: HashMap<u32, (usize, u32)>,
    unwritten: bool,
    last_flush: u64,
    /// Unix time of the pump's 0.
    epoch: u64,
    record: Option<Arc<File>>,
    capture_dropped: u64,
    record_dropped: u64,
}

struct Capture {
    file: Arc<File>,
    chunk: Vec<u8>,
    frames: u64,
}

// === impl Files ===

impl Files {
    /// No files; the pump's clock begins now.
    pub(super) fn new() -> Files {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Files { epoch: unix.as_nanos() as u64, ..Files::default() }
    }

    pub(super) fn start_capture(
        &mut self,
        fabric: &Fabric,
        ports: &[PortId],
        file: File,
    ) -> Result<(), SwitchError> {
        let mut slots = Vec::new();
        for port in ports {
            let slot = fabric.slot(*port)?;
            if self.by_slot.contains_key(&slot) {
                return Err(SwitchError::CaptureTaken(*port));
            }
            slots.push(slot);
        }
        self.start_sink()?;
        let names: Vec<&str> = slots.iter().filter_map(|s| fabric.name(*s)).map(|(name, _)| name).collect();
        let chunk = capture::header(&names);
        for (interface, slot) in slots.iter().enumerate() {
            self.by_slot.insert(*slot, (self.captures.len(), interface as u32));
        }
        self.captures.push(Capture { file: Arc::new(file), chunk, frames: 0 });
        self.unwritten = true;
        Ok(())
    }

    pub(super) fn start_record(&mut self, fabric: &mut Fabric, file: File) -> Result<(), SwitchError> {
        if self.record.is_some() {
            return Err(SwitchError::RecordTaken);
        }
        self.start_sink()?;
        self.record = Some(Arc::new(file));
        fabric.record();
        Ok(())
    }

    pub(super) fn is_captured(&self, slot: u32) -> bool {
        !self.by_slot.is_empty() && self.by_slot.contains_key(&slot)
    }

    pub(super) fn capture(
        &mut self,
        slot: u32,
        now: u64,
        direction: Direction,
        vnet: &VnetHeader,
        parts: [&[u8]; 2],
    ) {
        let Some((index, interface)) = self.by_slot.get(&slot).copied() else { return };
        let capture = &mut self.captures[index];
        capture::frame(&mut capture.chunk, interface, self.epoch + now, direction, vnet, parts);
        capture.frames += 1;
        self.unwritten = true;
        if capture.chunk.len() >= CHUNK {
            self.capture_dropped += capture.write(self.sink.as_ref());
        }
    }

    /// Whether something waits to be written together with what comes.
    pub(super) fn has_unwritten(&self) -> bool {
        self.unwritten || self.record.is_some()
    }

    pub(super) fn flush_if_old(&mut self, fabric: &mut Fabric, now: u64) {
        if self.has_unwritten() && now - self.last_flush >= FLUSH {
            self.last_flush = now;
            self.flush(fabric);
        }
    }

    pub(super) fn flush(&mut self, fabric: &mut Fabric) {
        for capture in self.captures.iter_mut().filter(|c| !c.chunk.is_empty()) {
            self.capture_dropped += capture.write(self.sink.as_ref());
        }
        self.unwritten = false;
        if let (Some(file), Some(sink)) = (&self.record, &self.sink)
            && let Some((lines, count)) = fabric.take_decisions()
            && !sink.write(file, lines)
        {
            self.record_dropped += count;
        }
    }

    /// Captured frames and recorded decisions that the disk was too slow for.
    pub(super) fn dropped(&self) -> (u64, u64) {
        (self.capture_dropped, self.record_dropped)
    }

    /// What the disk refused first.
    pub(super) fn error(&self) -> Option<String> {
        self.sink.as_ref().and_then(Sink::error)
    }

    fn start_sink(&mut self) -> Result<(), SwitchError> {
        if self.sink.is_none() {
            self.sink = Some(Sink::start().map_err(|e| SwitchError::File(Arc::new(e)))?);
        }
        Ok(())
    }
}

// === impl Capture ===

impl Capture {
    /// Returns how many frames there was no room for.
    fn write(&mut self, sink: Option<&Sink>) -> u64 {
        let (chunk, frames) = (std::mem::take(&mut self.chunk), std::mem::take(&mut self.frames));
        let written = sink.is_some_and(|sink| sink.write(&self.file, chunk));
        if written { 0 } else { frames }
    }
}
