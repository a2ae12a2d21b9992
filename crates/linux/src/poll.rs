//! Waiting for descriptors and for a moment, to the nanosecond: what a packet pump needs and nothing more.

use std::mem::MaybeUninit;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::io::Errno;
use rustix::time::{ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::last_errno;

pub use rustix::io::{readv, writev};

/// A set of descriptors to wait for.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
    /// On kernels before 5.11, which have no wait to the nanosecond.
    timer: OwnedFd,
    precise: AtomicBool,
}

/// What to wait for on a descriptor. Errors and hang-ups are always reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Until it can be read.
    pub readable: bool,
    /// Until it can be written.
    pub writable: bool,
    /// Only on a change (`EPOLLET`): what is not read to the end is not reported again.
    pub edge: bool,
}

impl Interest {
    /// Until it can be read.
    pub const READ: Self = Self { readable: true, writable: false, edge: false };
    /// Until it can be read or written.
    pub const BOTH: Self = Self { readable: true, writable: true, edge: false };

    fn bits(self) -> u32 {
        let mut bits = 0;
        if self.readable {
            bits |= libc::EPOLLIN;
        }
        if self.writable {
            bits |= libc::EPOLLOUT;
        }
        if self.edge {
            bits |= libc::EPOLLET;
        }
        bits as u32
    }
}

/// One descriptor that is ready.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Event(libc::epoll_event);

impl Event {
    /// The number it was added with.
    pub fn token(&self) -> u64 {
        self.0.u64
    }

    /// It can be read, or its end has come.
    pub fn readable(&self) -> bool {
        self.has(libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLRDHUP | libc::EPOLLERR)
    }

    /// It can be written, or writing would say why not.
    pub fn writable(&self) -> bool {
        self.has(libc::EPOLLOUT | libc::EPOLLERR)
    }

    /// The other end has hung up, or the device is gone.
    pub fn hung_up(&self) -> bool {
        self.has(libc::EPOLLHUP | libc::EPOLLERR)
    }

    fn has(&self, bits: i32) -> bool {
        self.0.events & bits as u32 != 0
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event")
            .field("token", &self.token())
            .field("readable", &self.readable())
            .field("writable", &self.writable())
            .field("hung_up", &self.hung_up())
            .finish()
    }
}

/// Room for what [`Epoll::wait`] finds.
pub struct Events {
    slots: Box<[MaybeUninit<libc::epoll_event>]>,
    filled: usize,
}

impl Events {
    /// Room for this many at a time (at least one).
    pub fn with_capacity(capacity: usize) -> Self {
        Self { slots: vec![MaybeUninit::uninit(); capacity.max(1)].into_boxed_slice(), filled: 0 }
    }

    /// What the last wait found.
    pub fn iter(&self) -> impl Iterator<Item = Event> + '_ {
        // SAFETY: the kernel has filled the first `filled` slots.
        self.slots[..self.filled].iter().map(|slot| Event(unsafe { slot.assume_init() }))
    }

    /// How many the last wait found.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether the last wait found none.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Why waiting failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what}")]
pub struct PollError {
    what: &'static str,
    source: Errno,
}

impl PollError {
    /// The kernel's error number.
    pub fn errno(&self) -> Errno {
        self.source
    }
}

fn refused(what: &'static str) -> impl FnOnce(Errno) -> PollError {
    move |source| PollError { what, source }
}

/// The number of the timer that stands in for a precise wait; taken from those who add descriptors.
const TIMER_TOKEN: u64 = u64::MAX;

impl Epoll {
    /// An empty set.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn new() -> Result<Self, PollError> {
        let fd = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC)
            .map_err(refused("create an epoll set"))?;
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )
        .map_err(refused("create a timer"))?;
        Ok(Self { fd, timer, precise: AtomicBool::new(true) })
    }

    /// Adds a descriptor; `token` (any but `u64::MAX`) says in an event which one it is. Remove it before it is closed: a
    /// duplicate elsewhere would keep it in the set.
    ///
    /// # Errors
    /// `EEXIST` when it is in the set, `EPERM` for a plain file.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<(), PollError> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_fd(), token, interest, "add a descriptor to an epoll set")
    }

    /// Changes what is waited for on a descriptor of the set.
    ///
    /// # Errors
    /// `ENOENT` when it is not in the set.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<(), PollError> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_fd(), token, interest, "change a descriptor of an epoll set")
    }

    /// Takes a descriptor out of the set.
    ///
    /// # Errors
    /// `ENOENT` when it is not in the set.
    pub fn remove(&self, fd: impl AsFd) -> Result<(), PollError> {
        let what = "remove a descriptor from an epoll set";
        self.control(libc::EPOLL_CTL_DEL, fd.as_fd(), 0, Interest::default(), what)
    }

    /// Waits until a descriptor is ready or the time is over (none: without end; zero: not at all). A signal ends it early,
    /// with no event.
    ///
    /// # Errors
    /// None in practice.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> Result<usize, PollError> {
        events.filled = 0;
        let found = if self.precise.load(Ordering::Relaxed) {
            match self.wait_precisely(events, timeout) {
                Err(Errno::NOSYS) => {
                    self.precise.store(false, Ordering::Relaxed);
                    self.add(&self.timer, TIMER_TOKEN, Interest::READ)?;
                    self.wait_with_timer(events, timeout)
                }
                other => other,
            }
        } else {
            self.wait_with_timer(events, timeout)
        };
        match found {
            Ok(found) => {
                events.filled = found;
                Ok(found)
            }
            Err(Errno::INTR) => Ok(0),
            Err(source) => Err(PollError { what: "wait for descriptors", source }),
        }
    }

    fn control(
        &self,
        operation: i32,
        fd: BorrowedFd<'_>,
        token: u64,
        interest: Interest,
        what: &'static str,
    ) -> Result<(), PollError> {
        let mut event = libc::epoll_event { events: interest.bits(), u64: token };
        // SAFETY: both descriptors are open and the event is live.
        let result =
            unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) };
        if result < 0 { Err(PollError { what, source: last_errno() }) } else { Ok(()) }
    }

    /// `epoll_pwait2`, which rustix uses only where milliseconds can't say the timeout.
    fn wait_precisely(&self, events: &mut Events, timeout: Option<Duration>) -> Result<usize, Errno> {
        let timeout = timeout.map(|wait| libc::timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: room for as many events as is said; the timeout is live, or null for none; no signal mask.
        let found = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                events.slots.as_mut_ptr(),
                events.slots.len() as libc::c_int,
                timeout,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        usize::try_from(found).map_err(|_| last_errno())
    }

    /// `epoll_wait` with a timer in the set, for kernels before 5.11.
    fn wait_with_timer(&self, events: &mut Events, timeout: Option<Duration>) -> Result<usize, Errno> {
        let at_once = timeout == Some(Duration::ZERO);
        let moment = timeout.filter(|_| !at_once).unwrap_or_default();
        let setting = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: i64::try_from(moment.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(moment.subsec_nanos()),
            },
        };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting)?;
        let milliseconds = if at_once { 0 } else { -1 };
        // SAFETY: room for as many events as is said.
        let found = unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                events.slots.as_mut_ptr().cast(),
                events.slots.len() as libc::c_int,
                milliseconds,
            )
        };
        let found = usize::try_from(found).map_err(|_| last_errno())?;
        // The timer itself is no event of the caller's: move the last one into its place.
        events.filled = found;
        let timer = events.iter().position(|event| event.token() == TIMER_TOKEN);
        if let Some(at) = timer {
            events.slots.swap(at, found - 1);
            return Ok(found - 1);
        }
        Ok(found)
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A bell that wakes a waiting thread from another one.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A silent one.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn new() -> Result<Self, PollError> {
        rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map(Self)
            .map_err(refused("create an event descriptor"))
    }

    /// Rings: it becomes readable.
    pub fn ring(&self) {
        // EAGAIN means that it is readable for the 2^64th time.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Silences it, and says whether it had been rung.
    pub fn silence(&self) -> bool {
        let mut count = [0u8; 8];
        rustix::io::read(&self.0, &mut count).is_ok_and(|length| length == 8)
    }

    /// A second descriptor of the same bell.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> Result<Self, PollError> {
        rustix::io::fcntl_dupfd_cloexec(&self.0, 0)
            .map(Self)
            .map_err(refused("duplicate an event descriptor"))
    }

    /// One that was inherited or passed on.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets the calling thread's timed waits end this precisely (the kernel's default is 50 us late at most).
///
/// # Errors
/// None in practice.
pub fn set_timer_slack(nanoseconds: NonZeroU64) -> Result<(), PollError> {
    rustix::thread::set_current_timer_slack(Some(nanoseconds)).map_err(refused("set the timer slack"))
}

/// The clock that only goes forward, in nanoseconds since some moment before boot.
pub fn monotonic_nanos() -> u64 {
    nanos(ClockId::Monotonic)
}

/// The clock of the day, in nanoseconds since 1970. It jumps when it is set.
pub fn realtime_nanos() -> u64 {
    nanos(ClockId::Realtime)
}

fn nanos(clock: ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same with both ways to wait: that of new kernels, and the one with a timer.
    fn both(check: impl Fn(&Epoll)) {
        for precise in [true, false] {
            let epoll = Epoll::new().unwrap();
            if !precise {
                epoll.precise.store(false, Ordering::Relaxed);
                epoll.add(&epoll.timer, TIMER_TOKEN, Interest::READ).unwrap();
            }
            check(&epoll);
        }
    }

    #[test]
    fn what_is_ready_is_found_under_its_number() {
        both(|epoll| {
            let mut events = Events::with_capacity(8);
            let (one, other) = (EventFd::new().unwrap(), EventFd::new().unwrap());
            epoll.add(&one, 1, Interest::READ).unwrap();
            epoll.add(&other, 2, Interest::READ).unwrap();
            assert_eq!(epoll.wait(&mut events, Some(Duration::ZERO)).unwrap(), 0);
            assert!(events.is_empty());
            other.try_clone().unwrap().ring();
            assert_eq!(epoll.wait(&mut events, None).unwrap(), 1);
            let event = events.iter().next().unwrap();
            assert_eq!(
                (event.token(), event.readable(), event.writable(), event.hung_up()),
                (2, true, false, false)
            );
            assert!(other.silence() && !other.silence());
            epoll.modify(&one, 7, Interest::BOTH).unwrap();
            assert_eq!(epoll.wait(&mut events, None).unwrap(), 1);
            let event = events.iter().next().unwrap();
            assert_eq!((event.token(), event.readable(), event.writable()), (7, false, true));
            epoll.remove(&one).unwrap();
            assert_eq!(epoll.wait(&mut events, Some(Duration::ZERO)).unwrap(), 0);
            assert_eq!(epoll.remove(&one).unwrap_err().errno(), Errno::NOENT);
        });
    }

    #[test]
    fn a_time_of_nanoseconds_passes_and_is_no_event() {
        both(|epoll| {
            let bell = EventFd::new().unwrap();
            epoll.add(&bell, 1, Interest::READ).unwrap();
            let mut events = Events::with_capacity(2);
            for wait in [Duration::from_nanos(1), Duration::from_micros(300), Duration::from_millis(2)] {
                let before = monotonic_nanos();
                assert_eq!(epoll.wait(&mut events, Some(wait)).unwrap(), 0);
                assert!(monotonic_nanos() - before >= wait.as_nanos() as u64, "not before its time");
                assert_eq!(events.iter().count(), 0);
            }
            // A time that is over does not hide what is ready, and leaves nothing for the next wait.
            bell.ring();
            assert_eq!(epoll.wait(&mut events, Some(Duration::from_nanos(1))).unwrap(), 1);
            assert!(bell.silence());
            assert_eq!(epoll.wait(&mut events, Some(Duration::from_nanos(1))).unwrap(), 0);
        });
    }

    #[test]
    fn the_other_end_hanging_up_is_an_event() {
        both(|epoll| {
            let (read, write) = rustix::pipe::pipe().unwrap();
            epoll.add(&read, 1, Interest { edge: true, ..Interest::READ }).unwrap();
            drop(write);
            let mut events = Events::with_capacity(2);
            assert_eq!(epoll.wait(&mut events, None).unwrap(), 1);
            assert!(events.iter().next().unwrap().hung_up());
            assert_eq!(epoll.wait(&mut events, Some(Duration::ZERO)).unwrap(), 0, "told once");
        });
    }

    #[test]
    fn the_timer_slack_is_that_of_the_thread() {
        std::thread::spawn(|| {
            set_timer_slack(NonZeroU64::MIN).unwrap();
            assert_eq!(rustix::thread::current_timer_slack().unwrap(), 1);
        })
        .join()
        .unwrap();
    }
}
