//! Sending a round's packets from one probe port to another, and noting when each arrives.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::schedule::{HEADERS, Kind, Probe, Round};
use super::verdict::Sample;

/// The port that both sockets are bound to, each in its own namespace.
pub(super) const UDP_PORT: u16 = 4000;

/// Two sockets in two namespaces. Each side has an address for every trial, so that the destination alone tells the
/// switch which shape is meant.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) near: UdpSocket,
    pub(super) far: UdpSocket,
}

/// What was seen of a round.
#[derive(Debug)]
pub(super) struct Seen {
    /// By trial.
    pub(super) samples: Vec<Sample>,
    /// How late the packets were sent, nine out of ten of them: whether this program had its share of the machine.
    pub(super) late: Duration,
}

/// The address of a trial's sender.
pub(super) fn near_address(trial: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 2)) + u32::from(trial))
}

/// The address of a trial's receiver.
pub(super) fn far_address(trial: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 19, 0, 2)) + u32::from(trial))
}

/// Carries out a round. It takes as long as the round says, or less when everything has arrived.
///
/// # Errors
/// A socket failed.
pub(super) fn measure(ends: &Ends, round: &Round) -> io::Result<Seen> {
    // Replies and late packets of another round must not count in this one.
    let epoch = Instant::now();
    let tag = TAG.fetch_add(1, Ordering::Relaxed);
    let done = AtomicBool::new(false);
    let mut expected = 0;
    for probe in &round.probes {
        expected += match probe.kind {
            Kind::Warm | Kind::Answer => 0,
            Kind::Single | Kind::Burst => 1,
            Kind::Answered => 2,
        };
    }
    std::thread::scope(|scope| {
        let listener = Listener { ends, round, epoch, tag, done: &done, expected };
        let listening = scope.spawn(move || listener.listen());
        let late = send_all(ends, round, epoch, tag);
        let late = late.inspect_err(|_| done.store(true, Ordering::Relaxed));
        let samples = listening.join().map_err(|_| io::Error::other("the listening thread panicked"))?;
        Ok(Seen { samples: samples?, late: late? })
    })
}

static TAG: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);

fn send_all(ends: &Ends, round: &Round, epoch: Instant, tag: u32) -> io::Result<Duration> {
    let mut packet = vec![0u8; usize::from(u16::MAX)];
    let mut late = Vec::with_capacity(round.probes.len());
    for probe in &round.probes {
        let due = epoch + probe.at;
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
        late.push(due.elapsed());
        let frame = &mut packet[..usize::from(probe.payload)];
        let to = SocketAddrV4::new(far_address(probe.trial), UDP_PORT);
        Stamp::of(probe, tag, epoch.elapsed()).write(frame);
        match ends.near.send_to(frame, to) {
            Ok(_) => {}
            // The interface's queue has been full for as long as the socket waits, or at once: lost before the link,
            // and counted as lost.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {}
            Err(e) => return Err(e),
        }
    }
    late.sort_unstable();
    Ok(late.get(late.len() * 9 / 10).copied().unwrap_or_default())
}

struct Listener<'a> {
    ends: &'a Ends,
    round: &'a Round,
    epoch: Instant,
    tag: u32,
    done: &'a AtomicBool,
    /// Packets that would arrive if none were lost.
    expected: u32,
}

// === impl Listener ===

impl Listener<'_> {
    fn listen(&self) -> io::Result<Vec<Sample>> {
        let mut samples: Vec<Sample> =
            self.round.trials.iter().map(|t| Sample { sent: t.singles, ..Sample::default() }).collect();
        let mut seen: HashSet<(u16, Kind, u32)> = HashSet::new();
        let mut packet = vec![0u8; usize::from(u16::MAX)];
        let (near, far) = (&self.ends.near, &self.ends.far);
        while !self.done.load(Ordering::Relaxed) && (seen.len() as u32) < self.expected {
            let left = self.round.end.saturating_sub(self.epoch.elapsed());
            if left.is_zero() {
                break;
            }
            wait_for(near, far, left)?;
            for socket in [far, near] {
                loop {
                    let length = match rustix::net::recv(socket, &mut packet[..], RecvFlags::DONTWAIT) {
                        Ok((_, length)) => length,
                        Err(Errno::AGAIN) => break,
                        Err(e) => return Err(e.into()),
                    };
                    let now = self.epoch.elapsed();
                    let frame = &mut packet[..length];
                    let Some(stamp) = Stamp::read(frame).filter(|s| s.tag == self.tag) else { continue };
                    let is_answer = std::ptr::eq(socket, near);
                    let kind = if is_answer { Kind::Answer } else { stamp.kind };
                    let Some(sample) = samples.get_mut(usize::from(stamp.trial)) else { continue };
                    if kind == Kind::Warm || !seen.insert((stamp.trial, kind, stamp.seq)) {
                        continue;
                    }
                    if stamp.kind == Kind::Answered && !is_answer {
                        let to = SocketAddrV4::new(near_address(stamp.trial), UDP_PORT);
                        // An answer that can't be sent is one round trip less to take the median of.
                        let _ = far.send_to(frame, to);
                    }
                    let took = now.saturating_sub(stamp.sent);
                    match kind {
                        Kind::Single | Kind::Answered => sample.delays.push(took),
                        Kind::Burst => sample.burst.push((now, length as u16)),
                        Kind::Answer => sample.round_trips.push(took),
                        Kind::Warm => {}
                    }
                }
            }
        }
        Ok(samples)
    }
}

fn wait_for(near: &UdpSocket, far: &UdpSocket, most: Duration) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut both = [PollFd::new(near, PollFlags::IN), PollFd::new(far, PollFlags::IN)];
    // Not longer than this, so that an error of the sending side is noticed.
    let most = most.min(Duration::from_millis(50));
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(most.subsec_nanos()) };
    match poll(&mut both, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// What a packet says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    tag: u32,
    trial: u16,
    kind: Kind,
    seq: u32,
    /// Since the round's start.
    sent: Duration,
}

// === impl Stamp ===

impl Stamp {
    const LENGTH: usize = 20;

    fn of(probe: &Probe, tag: u32, sent: Duration) -> Stamp {
        Stamp { tag, trial: probe.trial, kind: probe.kind, seq: probe.seq, sent }
    }

    fn write(&self, frame: &mut [u8]) {
        let kind = match self.kind {
            Kind::Warm => 0,
            Kind::Single => 1,
            Kind::Answered => 2,
            Kind::Burst => 3,
            Kind::Answer => 4,
        };
        frame[..4].copy_from_slice(&self.tag.to_be_bytes());
        frame[4..6].copy_from_slice(&self.trial.to_be_bytes());
        frame[6..8].copy_from_slice(&u16::to_be_bytes(kind));
        frame[8..12].copy_from_slice(&self.seq.to_be_bytes());
        frame[12..Self::LENGTH].copy_from_slice(&(self.sent.as_nanos() as u64).to_be_bytes());
    }

    fn read(frame: &[u8]) -> Option<Stamp> {
        let number = |from: usize, to: usize| {
            frame.get(from..to).map(|bytes| bytes.iter().fold(0u64, |n, b| n << 8 | u64::from(*b)))
        };
        let kind = match number(6, 8)? {
            0 => Kind::Warm,
            1 => Kind::Single,
            2 => Kind::Answered,
            3 => Kind::Burst,
            4 => Kind::Answer,
            _ => return None,
        };
        Some(Stamp {
            tag: number(0, 4)? as u32,
            trial: number(4, 6)? as u16,
            kind,
            seq: number(8, 12)? as u32,
            sent: Duration::from_nanos(number(12, Self::LENGTH)?),
        })
    }
}

/// The largest packet that a probe port has to carry, bytes of IP.
pub(super) const MTU: u32 = 60_000 + (HEADERS as u32 - 14);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let probe = Probe { at: Duration::ZERO, trial: 399, seq: 70_000, kind: Kind::Burst, payload: 64 };
        let stamp = Stamp::of(&probe, 0xdead_beef, Duration::from_nanos(u64::MAX));
        let mut frame = [0u8; 64];
        stamp.write(&mut frame);
        assert_eq!(Stamp::read(&frame), Some(stamp));
        assert_eq!(Stamp::read(&frame[..19]), None);
        frame[7] = 9;
        assert_eq!(Stamp::read(&frame), None);
    }

    #[test]
    fn trials_have_addresses_of_their_own() {
        assert_eq!(near_address(0).to_string(), "198.18.0.2");
        assert_eq!(far_address(399).to_string(), "198.19.1.145");
    }
}
