//! Executing a program in namespaces of its own, from a process that may have many threads.
//!
//! Everything is prepared before the clone. The child makes system calls only: it waits at a gate until its parent has
//! written the id maps (and, with [`spawn_suspended`], done whatever else must come first), changes what it was told
//! to, and executes the program. A failure of any of these steps comes back as an error of the parent's call.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::Signal;

use super::setup::CLOSE_RANGE_CLOEXEC;
use super::{Child, IdMap, Namespaces, ProcessError, SignalSet, clone_process};
use crate::last_errno;

/// The program, and what is different for it from this process.
#[derive(Debug)]
pub struct SpawnExec {
    /// Path of the program; `PATH` is not searched.
    pub program: PathBuf,
    /// Its arguments, the name it is called by (`argv[0]`) first.
    pub argv: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Descriptors and the numbers they get in the program. Standard input, output and error are inherited where they
    /// are not given; every other descriptor is closed.
    pub fds: Vec<(OwnedFd, RawFd)>,
    /// How ids map into the new user namespace.
    pub id_map: Option<IdMap>,
    /// The signal it gets when the thread that starts it ends.
    pub pdeathsig: Option<Signal>,
    /// Existing namespaces to enter, in this order (a pod's network, say).
    pub enter: Vec<OwnedFd>,
    /// Its working directory.
    pub cwd: Option<PathBuf>,
    /// Its file mode creation mask.
    pub umask: Option<u32>,
    /// Whose session and process group it belongs to.
    pub session: Session,
}

/// Whose session and process group a program belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Session {
    /// Its parent's.
    #[default]
    Inherited,
    /// A process group of its own in the parent's session.
    NewGroup,
    /// A session of its own, without a terminal.
    New,
    /// A session of its own, with its standard input as the controlling terminal.
    NewWithTerminal,
}

impl SpawnExec {
    /// A program called by its own path, with an empty environment and everything else inherited.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        Self {
            argv: vec![program.clone().into_os_string()],
            program,
            env: Vec::new(),
            fds: Vec::new(),
            id_map: None,
            pdeathsig: None,
            enter: Vec::new(),
            cwd: None,
            umask: None,
            session: Session::Inherited,
        }
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item: Into<OsString>>>(mut self, arguments: I) -> Self {
        self.argv.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to the environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Passes a descriptor, which gets the number `target` in the program.
    pub fn fd(mut self, fd: impl Into<OwnedFd>, target: RawFd) -> Self {
        self.fds.push((fd.into(), target));
        self
    }
}

/// Starts a program in namespaces of its own. Returns when it runs, or with what kept it from running.
///
/// Its signal dispositions are the default ones and no signal is blocked.
///
/// # Errors
/// Every [`ProcessError`] but [`ProcessError::Threads`].
pub fn spawn_exec(namespaces: Namespaces, spawn: SpawnExec) -> Result<Child, ProcessError> {
    spawn_suspended(namespaces, spawn)?.resume()
}

/// Like [`spawn_exec`], but the process waits before its program until [`Suspended::resume`]: the place to put it into
/// a cgroup, for one. Its id maps are written already. Dropping the value ends the process.
///
/// # Errors
/// As [`spawn_exec`], except those that come from the child.
pub fn spawn_suspended(namespaces: Namespaces, spawn: SpawnExec) -> Result<Suspended, ProcessError> {
    let program = spawn.program.display().to_string();
    let id_map = spawn.id_map.clone();
    let prepared = Prepared::new(spawn, &program)?;
    let pipe = || {
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .map_err(ProcessError::call("open a pipe to a new process"))
    };
    let (gate_read, gate_write) = pipe()?;
    let (report_read, report_write) = pipe()?;
    // The child's ends must not lie where descriptors of the program go.
    let gate_read = prepared.above_targets(&gate_read)?;
    let report_write = prepared.above_targets(&report_write)?;

    // No handler of this process may run in the child before its dispositions are reset.
    let mask = SignalSet::all().block_only();
    // SAFETY: `run` only makes system calls on memory prepared before, so it may follow the clone of a process with
    // many threads.
    let child = unsafe {
        clone_process(namespaces, || {
            prepared.run(gate_read.as_raw_fd(), report_write.as_raw_fd(), gate_write.as_raw_fd())
        })
    };
    mask.block_only();
    let suspended = Suspended { child: Some(child?), gate: gate_write, report: report_read, program };
    if let Some(map) = id_map {
        let pid = suspended.child.as_ref().expect("just started").pid();
        map.apply(pid)?;
    }
    Ok(suspended)
}

/// A process that waits before its program.
#[derive(Debug)]
pub struct Suspended {
    child: Option<Child>,
    gate: OwnedFd,
    report: OwnedFd,
    program: String,
}

impl Suspended {
    /// The waiting process.
    pub fn child(&self) -> &Child {
        self.child.as_ref().expect("taken only by resume")
    }

    /// Lets it execute its program. Returns when it has, or with what kept it from that.
    ///
    /// # Errors
    /// [`ProcessError::Setup`] or [`ProcessError::Exec`], from the child.
    pub fn resume(mut self) -> Result<Child, ProcessError> {
        // A child that is gone already is no failure here: its end is seen by whoever waits for it.
        let _ = rustix::io::write(&self.gate, &[GO]);
        let mut report = [0u8; Report::LENGTH];
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&self.report, &mut report))
            .map_err(ProcessError::call("read the report of a new process"))?;
        let program = self.program.clone();
        if length < Report::LENGTH {
            return Ok(self.child.take().expect("taken only here"));
        }
        let Report { step, errno } = Report::from_bytes(report);
        match step {
            Step::Exec => Err(ProcessError::Exec { program, source: errno }),
            step => Err(ProcessError::Setup { program, step: step.name(), source: errno }),
        }
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            let _ = child.signal(Signal::KILL);
            let _ = child.wait();
        }
    }
}

const GO: u8 = 1;

/// Everything the child needs, in the form in which system calls take it.
struct Prepared {
    program: CString,
    argv: StringArray,
    env: StringArray,
    /// Sources above every target, with the target of each.
    fds: Vec<(OwnedFd, RawFd)>,
    lowest_source: RawFd,
    enter: Vec<OwnedFd>,
    pdeathsig: Option<libc::c_int>,
    cwd: Option<CString>,
    umask: Option<libc::mode_t>,
    session: Session,
}

impl Prepared {
    fn new(spawn: SpawnExec, program: &str) -> Result<Self, ProcessError> {
        let nul = |what| ProcessError::Nul { program: program.to_owned(), what };
        let string = |text: &OsStr, what| CString::new(text.as_bytes()).map_err(|_| nul(what));
        let argv: Vec<CString> =
            spawn.argv.iter().map(|argument| string(argument, "an argument")).collect::<Result<_, _>>()?;
        let env: Vec<CString> = spawn
            .env
            .iter()
            .map(|(name, value)| {
                let entry = [name.as_bytes(), b"=", value.as_bytes()].concat();
                CString::new(entry).map_err(|_| nul("a variable of the environment"))
            })
            .collect::<Result<_, _>>()?;
        let lowest_source = spawn.fds.iter().map(|(_, target)| *target + 1).max().unwrap_or(0).max(3);
        let mut prepared = Self {
            program: string(spawn.program.as_os_str(), "its path")?,
            argv: StringArray::new(argv),
            env: StringArray::new(env),
            fds: Vec::with_capacity(spawn.fds.len()),
            lowest_source,
            enter: spawn.enter,
            pdeathsig: spawn.pdeathsig.map(Signal::as_raw),
            cwd: spawn.cwd.map(|path| string(path.as_os_str(), "its working directory")).transpose()?,
            umask: spawn.umask.map(|mask| mask as libc::mode_t),
            session: spawn.session,
        };
        for (fd, target) in spawn.fds {
            let source = prepared.above_targets(&fd)?;
            prepared.fds.push((source, target));
        }
        Ok(prepared)
    }

    /// A duplicate that no `dup2` to a target can overwrite.
    fn above_targets(&self, fd: &OwnedFd) -> Result<OwnedFd, ProcessError> {
        rustix::io::fcntl_dupfd_cloexec(fd, self.lowest_source)
            .map_err(ProcessError::call("duplicate a descriptor for a new process"))
    }

    /// The child's whole life before its program. Returns only when a step failed.
    ///
    /// `gate_writer` is the child's copy of the parent's end of the gate; it is closed first, so that the death of
    /// the parent reads as the end of the pipe.
    fn run(&self, gate: RawFd, report: RawFd, gate_writer: RawFd) -> i32 {
        // SAFETY: this is the child.
        match unsafe { self.try_run(gate, gate_writer) } {
            Err(Abandoned) => {}
            Ok(failed) => {
                let bytes = failed.to_bytes();
                // SAFETY: a write of valid memory to a descriptor of this process; nobody is left to hear of a failure.
                unsafe { libc::write(report, bytes.as_ptr().cast(), bytes.len()) };
            }
        }
        127
    }

    /// # Safety
    /// Only in a child that is about to execute a program or to exit: it changes the whole process.
    #[allow(
        unsafe_op_in_unsafe_fn,
        reason = "plain system calls, one after the other, on memory that `self` holds"
    )]
    unsafe fn try_run(&self, gate: RawFd, gate_writer: RawFd) -> Result<Report, Abandoned> {
        let failed = |step| Ok(Report { step, errno: last_errno() });
        if let Some(signal) = self.pdeathsig
            && libc::prctl(libc::PR_SET_PDEATHSIG, signal) < 0
        {
            return failed(Step::DeathSignal);
        }
        libc::close(gate_writer);
        let mut byte = 0u8;
        loop {
            match libc::read(gate, (&raw mut byte).cast(), 1) {
                1 => break,
                -1 if last_errno() == Errno::INTR => continue,
                _ => return Err(Abandoned),
            }
        }
        // Past the C library, which keeps two signals for itself and would pass them on as ignored. A kernel's `struct
        // sigaction` of zeroes, of whatever length, is the default disposition. It fails for KILL and STOP.
        let default = [0u64; 8];
        for number in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), ptr::null_mut::<u64>(), 8usize);
        }
        for namespace in &self.enter {
            if libc::setns(namespace.as_raw_fd(), 0) < 0 {
                return failed(Step::Enter);
            }
        }
        // Entering a user namespace changes credentials, which forgets the signal (prctl(2)); the parent keeps the gate
        // open until the program runs, so a closed one means that it died meanwhile.
        if let Some(signal) = self.pdeathsig
            && !self.enter.is_empty()
        {
            libc::prctl(libc::PR_SET_PDEATHSIG, signal);
            let mut gone = libc::pollfd { fd: gate, events: 0, revents: 0 };
            if libc::poll(&raw mut gone, 1, 0) > 0 {
                return Err(Abandoned);
            }
        }
        let session = match self.session {
            Session::Inherited => 0,
            Session::NewGroup => libc::setpgid(0, 0),
            Session::New | Session::NewWithTerminal => libc::setsid(),
        };
        if session < 0 {
            return failed(Step::Session);
        }
        if let Some(mask) = self.umask {
            libc::umask(mask);
        }
        if let Some(path) = &self.cwd
            && libc::chdir(path.as_ptr()) < 0
        {
            return failed(Step::WorkingDirectory);
        }
        // Kernels before 5.11 refuse this; there every descriptor of ours is close-on-exec by how it was opened.
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC);
        for (source, target) in &self.fds {
            if libc::dup2(source.as_raw_fd(), *target) < 0 {
                return failed(Step::Descriptors);
            }
        }
        if self.session == Session::NewWithTerminal && libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
            return failed(Step::Terminal);
        }
        SignalSet::empty().block_only();
        libc::execve(self.program.as_ptr(), self.argv.as_ptr(), self.env.as_ptr());
        failed(Step::Exec)
    }
}

/// Strings as execve(2) takes them: pointers, and a null one at the end.
struct StringArray {
    pointers: Vec<*const libc::c_char>,
    _strings: Vec<CString>,
}

impl StringArray {
    fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        Self { pointers, _strings: strings }
    }

    fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr()
    }
}

/// The parent has gone before it opened the gate.
struct Abandoned;

/// What the child says when it can't execute its program.
struct Report {
    step: Step,
    errno: Errno,
}

impl Report {
    const LENGTH: usize = 5;

    fn to_bytes(&self) -> [u8; Self::LENGTH] {
        let [a, b, c, d] = self.errno.raw_os_error().to_ne_bytes();
        [self.step as u8, a, b, c, d]
    }

    fn from_bytes([step, errno @ ..]: [u8; Self::LENGTH]) -> Self {
        let step = Step::ALL.into_iter().find(|known| *known as u8 == step).unwrap_or(Step::Exec);
        Self { step, errno: Errno::from_raw_os_error(i32::from_ne_bytes(errno)) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    DeathSignal,
    Enter,
    Session,
    WorkingDirectory,
    Descriptors,
    Terminal,
    Exec,
}

impl Step {
    const ALL: [Self; 7] = [
        Self::DeathSignal,
        Self::Enter,
        Self::Session,
        Self::WorkingDirectory,
        Self::Descriptors,
        Self::Terminal,
        Self::Exec,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::DeathSignal => "setting the signal of the parent's death",
            Self::Enter => "entering a namespace",
            Self::Session => "starting a session or process group",
            Self::WorkingDirectory => "changing the working directory",
            Self::Descriptors => "passing descriptors",
            Self::Terminal => "taking the terminal",
            Self::Exec => "executing it",
        }
    }
}
