//! Sending a round's packets from one probe port to another, and noting when each arrives.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use testground_linux::poll::realtime_nanos;
use testground_linux::udp::UdpSocket;

use super::schedule::{Kind, Probe, Round, serial};
use super::verdict::Sample;

/// The port that both sockets are bound to, each in its own namespace.
pub(crate) const UDP_PORT: u16 = 4000;

/// Two sockets in two namespaces. Each side has an address for every trial, so that the destination alone tells the
/// switch which shape is meant.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) near: UdpSocket,
    pub(crate) far: UdpSocket,
}

/// What was seen of a round.
#[derive(Debug)]
pub(crate) struct Seen {
    /// By trial.
    pub(crate) samples: Vec<Sample>,
    /// How late the packets were sent, nine out of ten of them, or one that came too late for its trace: whether this program
    /// had its share of the machine.
    pub(crate) late: Duration,
    /// For how much of a burst its link had nothing to do, because it was sent too late: of the worst one, percent.
    pub(crate) idle: f64,
}

/// The address of a trial's sender.
pub(crate) fn near_address(trial: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 2)) + u32::from(trial))
}

/// The address of a trial's receiver, or of its burst's.
pub(crate) fn far_address(trial: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 19, 0, 2)) + u32::from(trial))
}

/// Carries out a round whose clock began at a moment, which may be to come. It takes as long as the round says, or less when everything has arrived.
///
/// # Errors
/// A socket failed.
pub(crate) fn measure(ends: &Ends, round: &Round, started: Instant) -> Result<Seen, Errno> {
    // Replies and late packets of another round must not count in this one.
    let tag = TAG.fetch_add(1, Ordering::Relaxed);
    let failed = AtomicBool::new(false);
    let listener = Listener { ends, round, tag, failed: &failed, started };
    std::thread::scope(|scope| {
        let listening = scope.spawn(|| listener.listen());
        let sent = send_all(ends, round, listener.started, tag);
        failed.store(sent.is_err(), Ordering::Relaxed);
        let samples = listening.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (late, idle) = sent?;
        Ok(Seen { samples: samples?, late, idle })
    })
}

static TAG: AtomicU32 = AtomicU32::new(1);

/// Nanoseconds since 1970, the clock of the kernel's time stamps.
fn now() -> Duration {
    Duration::from_nanos(realtime_nanos())
}

/// Sends a round's packets; how late, and how idle the links were in their bursts, is as [`Seen`] has it.
fn send_all(ends: &Ends, round: &Round, started: Instant, tag: u32) -> Result<(Duration, f64), Errno> {
    let mut packet = vec![0u8; usize::from(u16::MAX)];
    let mut late = Vec::with_capacity(round.probes.len());
    // By trial: when its burst began, and the longest that its link had to wait for a packet.
    let mut bursts = vec![(Instant::now(), Duration::ZERO); round.trials.len()];
    let mut missed = Duration::ZERO;
    for probe in &round.probes {
        let due = started + probe.at;
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            pace(wait);
        }
        late.push(due.elapsed());
        if round.missed(probe, due.elapsed()) {
            missed = missed.max(due.elapsed());
        }
        let frame = &mut packet[..usize::from(probe.payload)];
        let to = SocketAddr::new(IpAddr::V4(far_address(probe.to)), UDP_PORT);
        if probe.kind == Kind::Burst {
            let number = usize::from(probe.trial);
            let (began, idle) = &mut bursts[number];
            if probe.seq == 0 {
                *began = Instant::now();
            }
            // What came before it on the link is through by then.
            let needed = serial(&round.trials[number].declared.there, probe.payload) * probe.seq;
            *idle = (*idle).max(began.elapsed().saturating_sub(needed));
        }
        Stamp { tag, trial: probe.trial, kind: probe.kind, seq: probe.seq, sent: now() }.write(frame);
        send(&ends.near, frame, to)?;
    }
    late.sort_unstable();
    // Those that follow a trace are sent before it begins, all at once.
    let shares = round.trials.iter().zip(bursts).filter_map(|(trial, (_, idle))| {
        let burst = trial.burst.as_ref().filter(|burst| burst.stretch.is_none())?;
        let takes = serial(&trial.declared.there, burst.payload) * burst.packets;
        Some(idle.as_secs_f64() * 100.0 / takes.as_secs_f64())
    });
    let late = late.get(late.len() * 9 / 10).copied().unwrap_or_default().max(missed);
    Ok((late, shares.fold(0.0, f64::max)))
}

#[expect(clippy::disallowed_methods, reason = "there is no event to wait for: the moment itself is meant")]
fn pace(wait: Duration) {
    std::thread::sleep(wait);
}

/// Sends when there is room. What finds none for a tenth of a second is lost before the link, and counts as lost.
fn send(socket: &UdpSocket, frame: &[u8], to: SocketAddr) -> Result<(), Errno> {
    for _ in 0..2 {
        match socket.send_to(frame, to).map_err(|e| e.errno()) {
            Err(Errno::AGAIN | Errno::NOBUFS) => {
                wait_for(&mut [PollFd::new(socket, PollFlags::OUT)], Duration::from_millis(100))?;
            }
            // A rejecting link says so (EHOSTUNREACH, EACCES…) about the packet before.
            Err(Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::ACCESS | Errno::CONNREFUSED) | Ok(()) => {
                return Ok(());
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn wait_for(sockets: &mut [PollFd<'_>], most: Duration) -> Result<(), Errno> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(most.subsec_nanos()) };
    match poll(sockets, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e),
    }
}

struct Listener<'a> {
    ends: &'a Ends,
    round: &'a Round,
    tag: u32,
    /// The sending side has given up.
    failed: &'a AtomicBool,
    started: Instant,
}

// === impl Listener ===

impl Listener<'_> {
    fn listen(&self) -> Result<Vec<Sample>, Errno> {
        let mut samples: Vec<Sample> =
            self.round.trials.iter().map(|t| Sample { sent: t.singles, ..Sample::default() }).collect();
        // Duplicates count once.
        let mut seen: HashSet<(u16, Kind, u32)> = HashSet::new();
        let expected = self.expected();
        let mut packet = vec![0u8; usize::from(u16::MAX)];
        while !self.failed.load(Ordering::Relaxed) && seen.len() < expected {
            let left = (self.started + self.round.end).saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let Ends { near, far } = self.ends;
            let mut both = [PollFd::new(near, PollFlags::IN), PollFd::new(far, PollFlags::IN)];
            // Not longer than this, so that a failure of the sending side is noticed.
            wait_for(&mut both, left.min(Duration::from_millis(50)))?;
            self.drain(far, false, &mut packet, &mut seen, &mut samples)?;
            self.drain(near, true, &mut packet, &mut seen, &mut samples)?;
        }
        Ok(samples)
    }

    /// Takes in what has arrived on one side, answering what is to be answered.
    fn drain(
        &self,
        socket: &UdpSocket,
        is_near: bool,
        packet: &mut [u8],
        seen: &mut HashSet<(u16, Kind, u32)>,
        samples: &mut [Sample],
    ) -> Result<(), Errno> {
        loop {
            let datagram = match socket.receive(packet) {
                Ok(Some(datagram)) => datagram,
                Ok(None) => return Ok(()),
                Err(e) if e.errno() == Errno::CONNREFUSED => continue,
                Err(e) => return Err(e.errno()),
            };
            let arrival = datagram.arrival.unwrap_or_else(now);
            let frame = &packet[..datagram.length];
            let Some(stamp) = Stamp::read(frame).filter(|s| s.tag == self.tag) else { continue };
            let kind = if is_near { Kind::Answer } else { stamp.kind };
            let Some(sample) = samples.get_mut(usize::from(stamp.trial)) else { continue };
            if kind == Kind::Warm || !seen.insert((stamp.trial, kind, stamp.seq)) {
                continue;
            }
            let took = arrival.saturating_sub(stamp.sent);
            match kind {
                Kind::Single => sample.delays.push(took),
                Kind::Answered => {
                    sample.delays.push(took);
                    let to = SocketAddr::new(IpAddr::V4(near_address(stamp.trial)), UDP_PORT);
                    send(socket, frame, to)?;
                }
                Kind::Burst => sample.burst.push((arrival, datagram.length as u16)),
                Kind::Answer => sample.round_trips.push(took),
                Kind::Warm => {}
            }
        }
    }

    /// How many packets arrive if none are lost.
    fn expected(&self) -> usize {
        let arrivals = |probe: &Probe| match probe.kind {
            Kind::Warm | Kind::Answer => 0,
            Kind::Single | Kind::Burst => 1,
            Kind::Answered => 2,
        };
        self.round.probes.iter().map(arrivals).sum()
    }
}

/// What a packet says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    tag: u32,
    trial: u16,
    kind: Kind,
    seq: u32,
    /// Since 1970.
    sent: Duration,
}

// === impl Stamp ===

impl Stamp {
    const LENGTH: usize = 20;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let sent = Duration::from_nanos(u64::MAX);
        let stamp = Stamp { tag: 0xdead_beef, trial: 399, kind: Kind::Burst, seq: 70_000, sent };
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
