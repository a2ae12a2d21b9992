//! Trying, in a throw-away process, what a lab does at its start.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::{Feature, Finding, State};
use crate::packet_socket::{PacketSocket, PacketSocketOptions};
use crate::process::{IdMap, IdMapError};
use crate::route::{Change, LinkChange, RouteSocket, VethEnd};
use crate::tap::{Tap, TapError, TapOptions};
use crate::tc::{Ability, AbilityState};
use crate::{last_errno, mount};

/// How long the throw-away process may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tries everything, in namespaces of a throw-away process that are gone afterwards. Takes some 10 ms; waits at most 10 s.
pub fn lab() -> Vec<Finding> {
    let found = match try_in_child() {
        Ok(found) => found,
        Err(reason) => vec![(Feature::UserNamespace, Err(Refusal { reason, remedy: None }))],
    };
    Feature::ALL
        .into_iter()
        .map(|feature| {
            let tried = found.iter().find(|(which, _)| *which == feature).map(|(_, result)| result.clone());
            let state = match tried {
                Some(Ok(detail)) => State::Works { detail: (!detail.is_empty()).then_some(detail) },
                Some(Err(Refusal { reason, remedy })) => State::Missing { reason, remedy },
                None => State::Untried { needs: missing_ground(&found) },
            };
            Finding { feature, state }
        })
        .collect()
}

/// The first feature that failed, on which the untried ones depend.
fn missing_ground(found: &[(Feature, Result<String, Refusal>)]) -> Feature {
    found.iter().find(|(_, result)| result.is_err()).map_or(Feature::UserNamespace, |(feature, _)| *feature)
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    reason: String,
    remedy: Option<String>,
}

type Findings = Vec<(Feature, Result<String, Refusal>)>;

/// Forks, has the child enter its namespaces, writes its id map, and reads what it found.
fn try_in_child() -> Result<Findings, String> {
    let pipe = || {
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|errno| format!("no pipe could be opened: {errno}"))
    };
    let (found_read, found_write) = pipe()?;
    let (mapped_read, mapped_write) = pipe()?;
    // SAFETY: unlike a bare clone, the C library's fork leaves its allocator usable in the child of a process with many
    // threads (glibc since 2.24, musl since 1.2.2); the child takes no lock of Rust's standard library besides.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        drop((found_read, mapped_write));
        let code = child(found_write, mapped_read);
        // SAFETY: ends this process at once.
        unsafe { libc::_exit(code) }
    }
    if pid < 0 {
        return Err(format!("no process could be started: {}", last_errno()));
    }
    let pid = Pid::from_raw(pid).expect("a child's id is positive");
    drop((found_write, mapped_read));
    let result = converse(pid, found_read, mapped_write);
    let _ = rustix::process::kill_process(pid, Signal::KILL);
    let _ = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
    result
}

/// Maps ids once the child says that it has a user namespace; then collects what it says until it closes the pipe.
fn converse(pid: Pid, found: OwnedFd, mapped: OwnedFd) -> Result<Findings, String> {
    let mut found = fs::File::from(found);
    let mut text = Vec::new();
    let mut mapped = Some(mapped);
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(&found, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) => {
                return Err(format!(
                    "trying it took more than {} s, after {}",
                    PATIENCE.as_secs(),
                    String::from_utf8_lossy(&text).lines().last().unwrap_or("nothing")
                ));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(format!("waiting for it failed: {errno}")),
        }
        let mut piece = [0u8; 4096];
        match found.read(&mut piece) {
            Ok(0) => return Ok(parse(&String::from_utf8_lossy(&text))),
            Ok(length) => text.extend(&piece[..length]),
            Err(error) => return Err(format!("its answer could not be read: {error}")),
        }
        if text.starts_with(ENTERED.as_bytes())
            && let Some(gate) = mapped.take()
        {
            let answer = match IdMap::choose().map.apply(pid) {
                Ok(()) => String::from("ok"),
                Err(error) => map_refusal(&error),
            };
            let _ = fs::File::from(gate).write_all(answer.as_bytes());
        }
    }
}

fn map_refusal(error: &IdMapError) -> String {
    match error {
        IdMapError::File { path, source } => format!("ids can't be mapped ({path}: {source})"),
        IdMapError::Tool { tool, message } => format!("ids can't be mapped ({tool}: {message})"),
    }
}

const ENTERED: &str = "entered\n";

/// One line a finding: the feature's number, `+` or `-`, detail or reason, remedy.
fn parse(text: &str) -> Findings {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            let feature = *Feature::ALL.get(fields.next()?.parse::<usize>().ok()?)?;
            let works = fields.next()? == "+";
            let (words, remedy) = (fields.next()?.to_owned(), fields.next().unwrap_or_default());
            let remedy = (!remedy.is_empty()).then(|| remedy.to_owned());
            Some((feature, if works { Ok(words) } else { Err(Refusal { reason: words, remedy }) }))
        })
        .collect()
}

/// The child's end of the conversation: each result goes out as soon as it is there, so that what hangs has a name.
struct Voice(fs::File);

impl Voice {
    /// Says a result, and whether it was a good one.
    fn tell(&mut self, feature: Feature, result: Result<String, Refusal>) -> bool {
        let number = Feature::ALL.iter().position(|known| *known == feature).unwrap_or_default();
        let clean = |text: &str| text.replace(['\t', '\n'], " ");
        let line = match &result {
            Ok(detail) => format!("{number}\t+\t{}\t\n", clean(detail)),
            Err(Refusal { reason, remedy }) => {
                format!("{number}\t-\t{}\t{}\n", clean(reason), clean(remedy.as_deref().unwrap_or_default()))
            }
        };
        self.0.write_all(line.as_bytes()).is_ok() && result.is_ok()
    }
}

fn child(found: OwnedFd, mapped: OwnedFd) -> i32 {
    let mut voice = Voice(fs::File::from(found));
    // SAFETY: this process has one thread, and no descriptor table is unshared.
    if let Err(errno) = unsafe { unshare_unsafe(UnshareFlags::NEWUSER) } {
        voice.tell(Feature::UserNamespace, Err(no_user_namespace(errno)));
        return 0;
    }
    let mut answer = String::new();
    if voice.0.write_all(ENTERED.as_bytes()).is_err()
        || fs::File::from(mapped).read_to_string(&mut answer).is_err()
    {
        return 1;
    }
    let mapping =
        if answer == "ok" { Ok(String::new()) } else { Err(Refusal { reason: answer, remedy: None }) };
    if !voice.tell(Feature::UserNamespace, mapping) {
        return 0;
    }
    let all = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWPID;
    // SAFETY: as above.
    if let Err(errno) = unsafe { unshare_unsafe(all) } {
        voice.tell(Feature::Namespaces, Err(no_namespaces(errno)));
        return 0;
    }
    if !voice.tell(Feature::Namespaces, Ok(String::new())) {
        return 0;
    }
    // Process 1 of the new PID namespace is the next child.
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            inside(&mut voice);
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(0) }
        }
        pid if pid > 0 => {
            let _ = rustix::io::retry_on_intr(|| {
                rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::empty())
            });
        }
        _ => {
            voice.tell(
                Feature::MountProc,
                refusal(&format!("no process could be started: {}", last_errno()), None),
            );
        }
    }
    0
}

/// What a lab does inside, each part by itself.
fn inside(voice: &mut Voice) {
    let private = mount::make_private(Path::new("/"));
    let proc = private.and_then(|()| mount::proc(Path::new("/proc")));
    voice.tell(
        Feature::MountProc,
        proc.map(|()| String::new()).or_else(|error| {
            refusal(
                &format!(
                    "{error}: {} (parts of /proc are covered by other mounts, as in a container)",
                    source(&error)
                ),
                Some("run outside the container, or start it with --security-opt systempaths=unconfined"),
            )
        }),
    );
    let place = ["/tmp", "/var/tmp", "/mnt"].into_iter().find(|path| Path::new(path).is_dir()).unwrap_or("/");
    let tmpfs = mount::tmpfs(Path::new(place), Some(1 << 16), 0o700).map(|()| String::new());
    voice.tell(
        Feature::MountTmpfs,
        tmpfs.or_else(|error| refusal(&format!("{error}: {}", source(&error)), None)),
    );
    taps(voice);
    links(voice);
    shaping(voice);
}

fn taps(voice: &mut Voice) {
    let options = TapOptions { persist: false, ..TapOptions::default() };
    let tap = match Tap::open("probe", &options) {
        Ok(tap) => tap,
        Err(error) => {
            let remedy = match &error {
                TapError::Missing { .. } => Some("modprobe tun"),
                TapError::Permission { .. } => Some("chmod 0666 /dev/net/tun"),
                _ => None,
            };
            voice.tell(Feature::Tap, refusal(&format!("{error}: {}", source(&error)), remedy));
            return;
        }
    };
    voice.tell(Feature::Tap, Ok(String::new()));
    let offloads = tap.offloads();
    let result = match (offloads.tso4 && offloads.tso6, offloads.uso) {
        (true, true) => Ok("TCP and UDP segments".to_owned()),
        (true, false) => Ok("TCP segments; UDP segments need Linux 6.2 or newer".to_owned()),
        (false, _) => refusal("the kernel refuses every offload of TCP segments", None),
    };
    voice.tell(Feature::TapOffload, result);
}

fn links(voice: &mut Voice) {
    let mut socket = match RouteSocket::open() {
        Ok(socket) => socket,
        Err(error) => {
            voice.tell(Feature::Veth, refusal(&format!("{error}: {}", source(&error)), None));
            return;
        }
    };
    let mut create = |feature: Feature, change: Change<'_>, module: &str| {
        let result = socket.apply(&[change]).map(|()| String::new());
        let remedy = format!("modprobe {module}");
        voice.tell(
            feature,
            result.or_else(|error| refusal(&format!("{error}: {}", source(&error)), Some(&remedy))),
        );
    };
    let (one, other) = (VethEnd::new("probe1"), VethEnd::new("probe2"));
    create(Feature::Veth, Change::CreateVeth { one, other }, "veth");
    create(Feature::Bridge, Change::CreateBridge { name: "probe3" }, "bridge");
    create(Feature::Ifb, Change::CreateIfb { name: "probe4" }, "ifb numifbs=0");
    // Loopback is number 1 in every new network namespace.
    let _ = socket.apply(&[Change::Link(LinkChange { up: Some(true), ..LinkChange::new(1) })]);
    let index = match socket.link("probe1") {
        Ok(Some(link)) => link.index,
        _ => 1,
    };
    let opened = PacketSocket::open(index, &PacketSocketOptions::default());
    voice.tell(
        Feature::PacketSocket,
        opened
            .map(|_| String::new())
            .or_else(|error| refusal(&format!("{error}: {}", source(&error)), Some("modprobe af_packet"))),
    );
}

/// What the kernel plane makes use of; the two options of netem that matter are told with it and beside it.
fn shaping(voice: &mut Voice) {
    let found = crate::tc::abilities_here();
    let of = |ability: Ability| found.iter().find(|state| state.ability == ability);
    for (feature, abilities) in [
        (Feature::Htb, &[Ability::Htb][..]),
        (Feature::Tbf, &[Ability::Tbf]),
        (Feature::Bpf, &[Ability::Bpf]),
        (Feature::Netem, &[Ability::Netem, Ability::NetemRate]),
        (Feature::Duplication, &[Ability::NetemDuplicateInTree]),
        (Feature::Clsact, &[Ability::Clsact]),
        (Feature::Redirection, &[Ability::Mirred]),
    ] {
        let lacking =
            abilities.iter().filter_map(|ability| of(*ability)).find(|state| state.refusal.is_some());
        let result = match lacking {
            None => Ok(String::new()),
            Some(state) => refusal(state.refusal.as_deref().unwrap_or_default(), remedy(state).as_deref()),
        };
        voice.tell(feature, result);
    }
}

fn remedy(state: &AbilityState) -> Option<String> {
    let module = state.module?;
    let packages = "kernel-modules-extra on Fedora and its kin, linux-modules-extra-$(uname -r) on Ubuntu";
    Some(format!("modprobe {module} (where there is no such module, it may be in {packages})"))
}

fn refusal(reason: &str, remedy: Option<&str>) -> Result<String, Refusal> {
    Err(Refusal { reason: reason.to_owned(), remedy: remedy.map(str::to_owned) })
}

fn source(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, ToString::to_string)
}

/// Why there is no user namespace: the first of the known switches that is off.
fn no_user_namespace(errno: Errno) -> Refusal {
    let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let refused = |reason: &str, remedy: &str| Refusal {
        reason: format!("user namespaces are refused ({errno}): {reason}"),
        remedy: (!remedy.is_empty()).then(|| remedy.to_owned()),
    };
    if number("/proc/sys/user/max_user_namespaces") == Some(0) {
        refused("user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=65536")
    } else if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        refused("kernel.unprivileged_userns_clone is 0", "sysctl -w kernel.unprivileged_userns_clone=1")
    } else if errno == Errno::NOSPC {
        refused("the limit of user namespaces is reached", "sysctl -w user.max_user_namespaces=65536")
    } else if errno == Errno::INVAL {
        refused("the kernel was built without them (CONFIG_USER_NS)", "")
    } else if filtered() {
        refused(
            "a seccomp filter forbids them, as in a container",
            "run outside the container, or start it with --security-opt seccomp=unconfined",
        )
    } else {
        refused("a security module or a change of root (chroot) forbids them", "")
    }
}

/// Why a user namespace gives no power.
fn no_namespaces(errno: Errno) -> Refusal {
    let restricted = fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    if restricted.is_ok_and(|text| text.trim() == "1") {
        return Refusal {
            reason: format!("a user namespace gives no power here ({errno}): AppArmor restricts it"),
            remedy: Some("sysctl -w kernel.apparmor_restrict_unprivileged_userns=0".to_owned()),
        };
    }
    let limit = "a limit of namespaces is reached (/proc/sys/user/max_*_namespaces)";
    let reason = match errno {
        Errno::NOSPC => limit,
        Errno::PERM if filtered() => "a seccomp filter forbids them, as in a container",
        _ => "the kernel refused",
    };
    Refusal { reason: format!("{reason} ({errno})"), remedy: None }
}

/// Whether a seccomp filter is in force (proc_pid_status(5)).
fn filtered() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_child_says_is_understood() {
        let text = "entered\n0\t+\t\t\n4\t-\tno device\tmodprobe tun\n99\t+\t\t\nnoise\n";
        assert_eq!(
            parse(text),
            [
                (Feature::UserNamespace, Ok(String::new())),
                (
                    Feature::Tap,
                    Err(Refusal { reason: "no device".to_owned(), remedy: Some("modprobe tun".to_owned()) })
                ),
            ]
        );
    }

    #[test]
    fn every_feature_is_found_once() {
        let found = lab();
        let features: Vec<Feature> = found.iter().map(|finding| finding.feature).collect();
        assert_eq!(features, Feature::ALL);
    }
}
