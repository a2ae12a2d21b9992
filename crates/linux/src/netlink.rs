//! One conversation with the kernel over a netlink socket: requests with their answers, and dumps (netlink(7)).
//!
//! Messages come as bytes and go as bytes; what they mean belongs to `route` and `tc`. Nothing waits for ever, and an
//! answer that may be incomplete is an error or asked for again, never returned.

#[cfg(test)]
mod faults;
mod message;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::sockopt::Timeout;

use self::message::{Messages, frame};
use crate::netns::NetnsError;

/// Why the kernel was not reached, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("failed to open a netlink socket")]
    Open {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The namespace to open it in could not be entered.
    #[error("failed to open a netlink socket in another network namespace")]
    Netns(#[from] NetnsError),
    /// The kernel took no request, or its answer could not be read.
    #[error("failed to {what}: the netlink socket broke")]
    Socket {
        /// What was attempted.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel said no.
    #[error("failed to {what}{}", detail(.message))]
    Refused {
        /// What was attempted.
        what: String,
        /// The reason in the kernel's words, where it gave one.
        message: Option<String>,
        /// The error number.
        source: Errno,
    },
    /// What was listed kept changing while it was listed.
    #[error("failed to {what}: it changed {attempts} times while it was read")]
    Interrupted {
        /// What was attempted.
        what: String,
        /// How often it was tried.
        attempts: usize,
    },
    /// Answers were lost because the socket's buffer was full; what was done is not known.
    #[error("failed to {what}: the kernel dropped answers (ENOBUFS)")]
    Overrun {
        /// What was attempted.
        what: String,
    },
    /// No answer came.
    #[error("failed to {what}: the kernel gave no answer in {seconds} s")]
    TimedOut {
        /// What was attempted.
        what: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The answer is not of the expected form.
    #[error("failed to {what}: the kernel's answer is malformed: {reason}")]
    Malformed {
        /// What was attempted.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl NetlinkError {
    /// The kernel's error number, where it refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { source, .. } => Some(*source),
            _ => None,
        }
    }
}

fn detail(message: &Option<String>) -> String {
    message.as_ref().map_or_else(String::new, |message| format!(": {message}"))
}

/// One request: what it is in words, and its message without the netlink header.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) what: String,
    pub(crate) kind: u16,
    /// Beyond `NLM_F_REQUEST` and `NLM_F_ACK`.
    pub(crate) flags: u16,
    pub(crate) body: Vec<u8>,
}

/// The messages of a dump: kind and body of each.
pub(crate) type Dump = Vec<(u16, Vec<u8>)>;

/// A netlink socket of the route family, blocking with a limit of time.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    /// How many requests one system call carries.
    batch: usize,
    /// Whether something was passed over, or lost, while an answer was read: an event, it may be.
    passed_over: bool,
}

/// How long an answer is waited for. The kernel answers in the call itself, so this only bounds what is broken.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a dump is tried that others change meanwhile.
const ATTEMPTS: usize = 16;
/// Requests in one message: their answers must fit into the socket's buffer.
const BATCH: usize = 64;
/// Bytes of requests in one message: it must fit into the socket's buffer (`net.core.wmem_default`, 208 KiB).
const BATCH_BYTES: usize = 96 << 10;
/// The kernel sends dumps in pieces of at most 32 KiB when it is given that much room.
const ROOM: usize = 128 << 10;
/// The receive buffer that is asked for, in bytes.
const RECEIVE_BUFFER: usize = 1 << 20;

impl Netlink {
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let open = |source| NetlinkError::Open { source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(open)?;
        socket.bind_auto().map_err(open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(open)?;
        // Each is a convenience that old kernels lack: reasons in words, short answers, dumps filtered by the kernel.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(socket.as_fd(), RECEIVE_BUFFER).is_err() {
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size(socket.as_fd(), RECEIVE_BUFFER);
        }
        rustix::net::sockopt::set_socket_timeout(socket.as_fd(), Timeout::Recv, Some(PATIENCE))
            .map_err(|errno| open(errno.into()))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(ROOM), batch: BATCH, passed_over: false })
    }

    /// Makes each request, many of them in one system call. The kernel goes on after one that fails; the results are in
    /// their order.
    pub(crate) fn execute(&mut self, requests: &[Request]) -> Vec<Result<(), NetlinkError>> {
        let mut results = Vec::with_capacity(requests.len());
        for batch in batches(requests, self.batch) {
            results.extend(self.execute_batch(batch));
        }
        results
    }

    /// Makes the requests in order until one fails; those behind it in the same system call are made nevertheless, so
    /// only requests that are harmless then belong into one call.
    pub(crate) fn execute_all(&mut self, requests: &[Request]) -> Result<(), NetlinkError> {
        for batch in batches(requests, self.batch) {
            for result in self.execute_batch(batch) {
                result?;
            }
        }
        Ok(())
    }

    /// Makes one request that is answered by one message, and returns its body.
    pub(crate) fn query(&mut self, request: &Request) -> Result<Vec<u8>, NetlinkError> {
        let what = || request.what.clone();
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = Vec::new();
        frame(&mut message, request, request.flags, self.sequence);
        self.send(&message).map_err(|source| NetlinkError::Socket { what: what(), source })?;
        loop {
            if let Err(trouble) = self.receive() {
                let _ = self.drain();
                return Err(trouble.error(what()));
            }
            for parsed in Messages::new(&self.buffer) {
                let parsed = parsed.map_err(|reason| NetlinkError::Malformed { what: what(), reason })?;
                if parsed.sequence != self.sequence {
                    self.passed_over = true;
                    continue;
                }
                if parsed.kind == NLMSG_ERROR {
                    parsed.acknowledgement(&request.what)?;
                    let reason = "an acknowledgement without an answer".to_owned();
                    return Err(NetlinkError::Malformed { what: what(), reason });
                }
                return Ok(parsed.body.to_vec());
            }
        }
    }

    /// All messages of a dump: kind and body of each.
    pub(crate) fn dump(&mut self, request: &Request) -> Result<Dump, NetlinkError> {
        for _ in 0..ATTEMPTS {
            match self.try_dump(request) {
                Ok(Some(messages)) => return Ok(messages),
                Ok(None) => continue,
                Err(NetlinkError::Overrun { .. }) => self.drain()?,
                Err(error) if error.errno() == Some(Errno::BUSY) => continue,
                Err(error) => return Err(error),
            }
        }
        Err(NetlinkError::Interrupted { what: request.what.clone(), attempts: ATTEMPTS })
    }

    /// Asks again and again, each time the kernel tells of an event of this multicast group, until `look` finds something.
    /// None: the time is over.
    pub(crate) fn await_event<T>(
        &mut self,
        group: u32,
        limit: Duration,
        mut look: impl FnMut(&mut Self) -> Result<Option<T>, NetlinkError>,
    ) -> Result<Option<T>, NetlinkError> {
        let deadline = Instant::now() + limit;
        // Before the first look, so that nothing happens unseen between the two.
        self.socket.add_membership(group).map_err(|source| NetlinkError::Open { source })?;
        let found = loop {
            self.passed_over = false;
            match look(self) {
                Ok(None) => {}
                other => break other,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // What came while the answer was read may not be in it, and will not come again.
            if self.passed_over && !left.is_zero() {
                continue;
            }
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                Ok(0) => break Ok(None),
                Ok(_) => drop(self.receive()),
                Err(Errno::INTR) => {}
                Err(errno) => break Err(NetlinkError::Open { source: errno.into() }),
            }
        };
        let _ = self.socket.drop_membership(group);
        self.drain()?;
        found
    }

    fn execute_batch(&mut self, batch: &[Request]) -> Vec<Result<(), NetlinkError>> {
        let first = self.sequence.wrapping_add(1);
        let mut message = Vec::new();
        for request in batch {
            self.sequence = self.sequence.wrapping_add(1);
            frame(&mut message, request, NLM_F_ACK | request.flags, self.sequence);
        }
        let mut results: Vec<Option<Result<(), NetlinkError>>> = batch.iter().map(|_| None).collect();
        let mut missing = batch.len();
        let lost = |error: &dyn Fn(String) -> NetlinkError,
                    results: Vec<Option<Result<(), NetlinkError>>>| {
            let results = results.into_iter().zip(batch);
            results
                .map(|(result, request)| result.unwrap_or_else(|| Err(error(request.what.clone()))))
                .collect()
        };
        if let Err(source) = self.send(&message) {
            let kind = source.raw_os_error();
            return lost(
                &|what| NetlinkError::Socket {
                    what,
                    source: kind.map_or_else(|| io::Error::from(source.kind()), io::Error::from_raw_os_error),
                },
                results,
            );
        }
        while missing > 0 {
            if let Err(trouble) = self.receive() {
                if let Trouble::Overrun = trouble {
                    // The buffer holds less than it should; there is always room for one answer.
                    self.batch = 1;
                }
                let _ = self.drain();
                return lost(&|what| trouble.error(what), results);
            }
            for parsed in Messages::new(&self.buffer) {
                let Ok(parsed) = parsed else { break };
                let at = parsed.sequence.wrapping_sub(first) as usize;
                if parsed.kind != NLMSG_ERROR || at >= batch.len() || results[at].is_some() {
                    continue;
                }
                results[at] = Some(parsed.acknowledgement(&batch[at].what));
                missing -= 1;
            }
        }
        lost(&|what| NetlinkError::TimedOut { what, seconds: 0 }, results)
    }

    /// None: it changed meanwhile.
    fn try_dump(&mut self, request: &Request) -> Result<Option<Dump>, NetlinkError> {
        let what = || request.what.clone();
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = Vec::new();
        frame(&mut message, request, NLM_F_DUMP | request.flags, self.sequence);
        self.send(&message).map_err(|source| NetlinkError::Socket { what: what(), source })?;
        let mut collected =
            Collected { sequence: self.sequence, found: Vec::new(), whole: true, passed_over: false };
        loop {
            if let Err(trouble) = self.receive() {
                let overrun = matches!(trouble, Trouble::Overrun);
                if !overrun {
                    self.drain()?;
                }
                return Err(trouble.error(what()));
            }
            let whole = collected.take(&self.buffer, &request.what);
            self.passed_over |= collected.passed_over;
            if whole? {
                return Ok(collected.whole.then_some(collected.found));
            }
        }
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        loop {
            match self.socket.send(message, 0) {
                Ok(sent) if sent == message.len() => return Ok(()),
                Ok(_) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&mut self) -> Result<(), Trouble> {
        loop {
            self.buffer.clear();
            return match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(length) if length > self.buffer.len() => Err(Trouble::Truncated(length)),
                Ok(_) => Ok(()),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR) => continue,
                    Some(Errno::NOBUFS) => {
                        self.passed_over = true;
                        Err(Trouble::Overrun)
                    }
                    Some(Errno::AGAIN) => Err(Trouble::TimedOut),
                    _ => Err(Trouble::Socket(error)),
                },
            };
        }
    }

    /// Throws away what is still queued after an answer was lost. A later one is told by its sequence number.
    fn drain(&mut self) -> Result<(), NetlinkError> {
        let _ = self.socket.set_non_blocking(true);
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(_) => self.passed_over = true,
                Err(error) if Errno::from_io_error(&error) == Some(Errno::AGAIN) => break,
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INTR) => continue,
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => self.passed_over = true,
                Err(source) => return Err(NetlinkError::Open { source }),
            }
        }
        self.socket.set_non_blocking(false).map_err(|source| NetlinkError::Open { source })
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Requests in groups that one system call carries.
fn batches(requests: &[Request], most: usize) -> impl Iterator<Item = &[Request]> {
    let mut rest = requests;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take(most).take_while(|request| {
            bytes += message::HEADER + request.body.len();
            bytes <= BATCH_BYTES
        });
        // One that is longer than that goes alone.
        let count = fits.count().max(1);
        let (batch, behind) = rest.split_at_checked(count)?;
        rest = behind;
        Some(batch)
    })
}

/// A dump as it comes in.
struct Collected {
    sequence: u32,
    found: Dump,
    /// Whether nothing changed between two of its pieces. (Where the kernel lists without its lock, a change within a piece
    /// goes unsaid: who must be sure looks twice.)
    whole: bool,
    /// Whether there was anything else among its pieces.
    passed_over: bool,
}

impl Collected {
    /// Takes one datagram in, and says whether it was the last.
    fn take(&mut self, datagram: &[u8], what: &str) -> Result<bool, NetlinkError> {
        for message in Messages::new(datagram) {
            let message =
                message.map_err(|reason| NetlinkError::Malformed { what: what.to_owned(), reason })?;
            if message.sequence != self.sequence {
                self.passed_over = true;
                continue;
            }
            self.whole &= message.flags & NLM_F_DUMP_INTR == 0;
            match message.kind {
                NLMSG_DONE | NLMSG_ERROR => {
                    message.acknowledgement(what)?;
                    return Ok(true);
                }
                NLMSG_OVERRUN => return Err(NetlinkError::Overrun { what: what.to_owned() }),
                kind => self.found.push((kind, message.body.to_vec())),
            }
        }
        Ok(false)
    }
}

/// Why nothing could be read.
#[derive(Debug)]
enum Trouble {
    Truncated(usize),
    Overrun,
    TimedOut,
    Socket(io::Error),
}

impl Trouble {
    fn error(&self, what: String) -> NetlinkError {
        match self {
            Self::Truncated(length) => NetlinkError::Malformed {
                what,
                reason: format!("a message of {length} bytes, more than there is room for ({ROOM})"),
            },
            Self::Overrun => NetlinkError::Overrun { what },
            Self::TimedOut => NetlinkError::TimedOut { what, seconds: PATIENCE.as_secs() },
            Self::Socket(error) => NetlinkError::Socket {
                what,
                source: error
                    .raw_os_error()
                    .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED};

    use super::message::HEADER;
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let request = Request { what: String::new(), kind, flags: 0, body: body.to_vec() };
        frame(&mut bytes, &request, flags, sequence);
        bytes
    }

    #[test]
    fn messages_come_apart_at_their_lengths() {
        let mut bytes = message(20, 2, 7, &[1, 2, 3]);
        bytes.extend(message(NLMSG_DONE, 2, 7, &0i32.to_ne_bytes()));
        let found: Vec<_> = Messages::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].kind, found[0].sequence, found[0].body), (20, 7, &[1u8, 2, 3][..]));
        assert!(found[1].acknowledgement("x").is_ok());
    }

    #[test]
    fn a_length_past_the_end_is_an_error_and_ends_it() {
        let mut bytes = message(20, 0, 1, &[0; 8]);
        bytes[0] = 200;
        let mut messages = Messages::new(&bytes);
        assert!(messages.next().unwrap().is_err());
        assert!(messages.next().is_none());
        for length in 0..bytes.len() {
            assert!(Messages::new(&bytes[..length]).all(|message| message.is_err()));
        }
    }

    #[test]
    fn a_system_call_carries_no_more_than_the_socket_takes() {
        let request = |bytes| Request { what: String::new(), kind: 20, flags: 0, body: vec![0; bytes] };
        let lengths =
            |requests: &[Request]| batches(requests, BATCH).map(<[Request]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(&[]), []);
        assert_eq!(lengths(&vec![request(10); 130]), [64, 64, 2]);
        assert_eq!(lengths(&vec![request(32 << 10); 5]), [2, 2, 1]);
        assert_eq!(lengths(&[request(10), request(1 << 20), request(10)]), [1, 1, 1]);
    }

    fn collecting() -> Collected {
        Collected { sequence: 7, found: Vec::new(), whole: true, passed_over: false }
    }

    #[test]
    fn a_dump_is_whole_unless_the_kernel_says_otherwise() {
        let done = message(NLMSG_DONE, 2, 7, &0i32.to_ne_bytes());
        let mut dump = collecting();
        assert!(
            !dump.take(&[message(20, 2, 7, &[1; 4]), message(20, 2, 7, &[2; 4])].concat(), "list").unwrap()
        );
        assert!(dump.take(&done, "list").unwrap());
        assert_eq!((dump.whole, dump.found), (true, vec![(20, vec![1; 4]), (20, vec![2; 4])]));
        // The mark may be on any message, the last one too.
        for marked in 0..3 {
            let flags = |at| if at == marked { 2 | NLM_F_DUMP_INTR } else { 2 };
            let mut dump = collecting();
            let parts = [
                message(20, flags(0), 7, &[1; 4]),
                message(20, flags(1), 7, &[2; 4]),
                message(NLMSG_DONE, flags(2), 7, &0i32.to_ne_bytes()),
            ];
            assert!(dump.take(&parts.concat(), "list").unwrap());
            assert!(!dump.whole, "marked at {marked}");
        }
    }

    #[test]
    fn a_dump_takes_no_notice_of_what_is_not_its_own() {
        let mut dump = collecting();
        let foreign =
            [message(20, NLM_F_DUMP_INTR, 6, &[9; 4]), message(NLMSG_DONE, 0, 6, &0i32.to_ne_bytes())];
        assert!(!dump.take(&foreign.concat(), "list").unwrap());
        assert!((dump.whole, dump.found.len()) == (true, 0));
    }

    #[test]
    fn a_dump_that_breaks_off_is_an_error_by_name() {
        let refused = message(NLMSG_DONE, 2, 7, &(-16i32).to_ne_bytes());
        let error = collecting().take(&refused, "list things").unwrap_err();
        assert_eq!(
            (error.errno(), error.to_string()),
            (Some(Errno::BUSY), "failed to list things".to_owned())
        );
        let overrun = message(NLMSG_OVERRUN, 0, 7, &[]);
        assert!(matches!(collecting().take(&overrun, "list"), Err(NetlinkError::Overrun { .. })));
        let whole = message(20, 2, 7, &[1; 8]);
        let error = collecting().take(&whole[..20], "list").unwrap_err();
        assert!(matches!(error, NetlinkError::Malformed { .. }), "{error}");
    }

    #[test]
    fn a_refusal_has_its_number_and_its_words() {
        let mut body = (-17i32).to_ne_bytes().to_vec();
        body.extend([0; HEADER]);
        body.extend([10, 0, 1, 0]);
        body.extend(b"taken\0\0\0");
        let bytes = message(NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, 1, &body);
        let parsed = Messages::new(&bytes).next().unwrap().unwrap();
        let error = parsed.acknowledgement("add a thing").unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EXIST));
        assert_eq!(error.to_string(), "failed to add a thing: taken");
    }
}
