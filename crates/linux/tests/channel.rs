//! Messages with descriptors: what arrives, what is refused, and who is at the other end.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use testground_linux::Errno;
use testground_linux::fdpass::{Channel, ChannelError, Listener, MAX_FDS};

/// The tests count the descriptors of their common process, so they take turns.
static TURN: Mutex<()> = Mutex::new(());

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn messages_carry_descriptors_and_leak_none() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (one, other) = Channel::pair().unwrap();
    let pipes: Vec<_> = (0..MAX_FDS).map(|_| pipe()).collect();
    let fds: Vec<BorrowedFd<'_>> = pipes.iter().map(|(read, _)| read.as_fd()).collect();
    let mut buffer = [0u8; 32];

    one.send(b"first", &fds[..1]).unwrap();
    one.send(b"second", &fds).unwrap();
    one.send(b"third", &[]).unwrap();
    let first = other.receive(&mut buffer).unwrap().unwrap();
    assert_eq!((&buffer[..first.length], first.fds.len()), (&b"first"[..], 1));
    let second = other.receive(&mut buffer).unwrap().unwrap();
    assert_eq!((&buffer[..second.length], second.fds.len()), (&b"second"[..], MAX_FDS));
    for (number, (fd, (_, write))) in second.fds.into_iter().zip(&pipes).enumerate() {
        let flags = rustix::io::fcntl_getfd(&fd).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        rustix::io::write(write, &[number as u8]).unwrap();
        let mut byte = [0u8];
        File::from(fd).read_exact(&mut byte).unwrap();
        assert_eq!(usize::from(byte[0]), number, "in the order sent");
    }
    let third = other.receive(&mut buffer).unwrap().unwrap();
    assert_eq!((&buffer[..third.length], third.fds.len()), (&b"third"[..], 0));

    // What does not fit is an error, and its descriptors are closed.
    let before = open_descriptors();
    one.send(&[7; 33], &fds).unwrap();
    let error = other.receive(&mut buffer).unwrap_err();
    assert!(matches!(error, ChannelError::Truncated { capacity: 32, .. }), "{error}");
    assert_eq!(open_descriptors(), before);
    let seventeen: Vec<BorrowedFd<'_>> = fds.iter().copied().chain([fds[0]]).collect();
    assert!(matches!(one.send(b"x", &seventeen), Err(ChannelError::TooMany { count: 17 })));
    // A foreign sender may send more than we take: the rest is refused by name, and none leaks.
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 4))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    let many: Vec<BorrowedFd<'_>> = fds.iter().chain(&fds[..4]).copied().collect();
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&many)));
    let part = [std::io::IoSlice::new(b"many")];
    rustix::net::sendmsg(&one, &part, &mut control, rustix::net::SendFlags::empty()).unwrap();
    let error = other.receive(&mut buffer).unwrap_err();
    assert!(error.to_string().contains("descriptors"), "{error}");
    assert_eq!(open_descriptors(), before);

    assert!(matches!(one.send(b"", &[]), Err(ChannelError::Call { source: Errno::INVAL, .. })));
    other.set_nonblocking(true).unwrap();
    assert!(other.receive(&mut buffer).unwrap_err().would_block());
    drop(one);
    assert!(other.receive(&mut buffer).unwrap().is_none(), "the end");
    assert!(matches!(other.send(b"x", &[]), Err(ChannelError::Call { source: Errno::PIPE, .. })));
}

#[test]
fn a_path_may_be_longer_than_a_socket_address() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let root = tempfile::tempdir().unwrap();
    let deep = root.path().join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    let directory = File::open(&deep).unwrap();
    let listener = Listener::bind(directory.as_fd(), "door").unwrap();
    assert!(deep.join("door").exists());
    let caller = Channel::connect(directory.as_fd(), "door").unwrap();
    let answered = listener.accept().unwrap();
    let peer = answered.peer().unwrap();
    assert_eq!(peer.pid, std::process::id() as i32);
    assert_eq!((peer.uid, peer.gid), testground_linux::process::ids());
    caller.send(b"hello", &[]).unwrap();
    let mut buffer = [0u8; 8];
    assert_eq!(answered.receive(&mut buffer).unwrap().unwrap().length, 5);

    let taken = Listener::bind(directory.as_fd(), "door").unwrap_err();
    assert!(matches!(taken, ChannelError::Call { source: Errno::ADDRINUSE, .. }));
    for name in ["", "a/b", &"n".repeat(200)] {
        assert!(Listener::bind(directory.as_fd(), name).is_err(), "{name:?}");
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().unwrap_err().would_block());
    drop(listener);
    let refused = Channel::connect(directory.as_fd(), "door").unwrap_err();
    assert!(matches!(refused, ChannelError::Call { source: Errno::CONNREFUSED, .. }));
}
