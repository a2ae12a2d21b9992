//! UDP with the kernel's own time of arrival and the address that a datagram was sent to: what a probe of a link measures
//! with (socket(7), ip(7), ipv6(7)).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType};

use crate::last_errno;

/// A nonblocking UDP socket.
#[derive(Debug)]
pub struct UdpSocket(OwnedFd);

/// A datagram that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Its bytes, which lie at the start of the buffer given; it may have been longer.
    pub length: usize,
    /// Who sent it.
    pub source: SocketAddr,
    /// The address it was sent to, where the kernel says so.
    pub destination: Option<IpAddr>,
    /// When the kernel took it in, since 1970, on the clock of [`crate::poll::realtime_nanos`].
    pub arrival: Option<Duration>,
}

/// Why a socket could not be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what}")]
pub struct UdpError {
    what: &'static str,
    source: Errno,
}

impl UdpError {
    /// The kernel's error number; `EAGAIN`: nothing there yet.
    pub fn errno(&self) -> Errno {
        self.source
    }
}

fn refused(what: &'static str) -> impl FnOnce(Errno) -> UdpError {
    move |source| UdpError { what, source }
}

impl UdpSocket {
    /// Binds to an address of the calling thread's network namespace; port 0: one that is free.
    ///
    /// # Errors
    /// `EADDRINUSE`, `EADDRNOTAVAIL`.
    pub fn bind(address: SocketAddr) -> Result<Self, UdpError> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)
            .map_err(refused("open a UDP socket"))?;
        let socket = Self(fd);
        socket.enable(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, "ask for times of arrival")?;
        if address.is_ipv4() {
            socket.enable(libc::IPPROTO_IP, libc::IP_PKTINFO, "ask for destination addresses")?;
        } else {
            socket.enable(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, "ask for destination addresses")?;
        }
        rustix::net::bind(&socket.0, &address).map_err(refused("bind a UDP socket"))?;
        Ok(socket)
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// None in practice.
    pub fn local_address(&self) -> Result<SocketAddr, UdpError> {
        let address =
            rustix::net::getsockname(&self.0).map_err(refused("ask for the address of a UDP socket"))?;
        address.try_into().map_err(refused("read the address of a UDP socket"))
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// `ENETUNREACH` and the like; `EAGAIN` when the send buffer is full.
    pub fn send_to(&self, bytes: &[u8], destination: SocketAddr) -> Result<(), UdpError> {
        let mut none = SendAncillaryBuffer::default();
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg_addr(
                &self.0,
                &destination,
                &[IoSlice::new(bytes)],
                &mut none,
                SendFlags::empty(),
            )
        })
        .map_err(refused("send a datagram"))?;
        Ok(())
    }

    /// Takes the next datagram out of the receive queue; none when it is empty.
    ///
    /// # Errors
    /// What an earlier send brought back (`ECONNREFUSED`).
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<Datagram>, UdpError> {
        let mut control = [MaybeUninit::<u64>::uninit(); 32];
        // SAFETY: numbers and addresses, for all of which zero is a value.
        let mut source: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
        let mut parts = [IoSliceMut::new(buffer)];
        // SAFETY: as above.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_name = (&raw mut source).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        header.msg_iov = parts.as_mut_ptr().cast();
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        let length = loop {
            // SAFETY: every pointer of the header is that of a live buffer of the size given (IoSliceMut is an iovec).
            let length = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut header, 0) };
            match (usize::try_from(length), last_errno()) {
                (Ok(length), _) => break length,
                (Err(_), Errno::INTR) => continue,
                (Err(_), Errno::AGAIN) => return Ok(None),
                (Err(_), errno) => return Err(UdpError { what: "receive a datagram", source: errno }),
            }
        };
        let (mut destination, mut arrival) = (None, None);
        // SAFETY: the kernel has filled the control buffer as far as `msg_controllen` says; the macros walk it, and each
        // payload is read unaligned and of the type that its level and kind stand for.
        unsafe {
            let mut item = libc::CMSG_FIRSTHDR(&raw const header);
            while !item.is_null() {
                let data = libc::CMSG_DATA(item);
                match ((*item).cmsg_level, (*item).cmsg_type) {
                    (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                        let time = data.cast::<libc::timespec>().read_unaligned();
                        arrival = Some(Duration::new(time.tv_sec as u64, time.tv_nsec as u32));
                    }
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                        destination = Some(IpAddr::V4(info.ipi_addr.s_addr.to_ne_bytes().into()));
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                        destination = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
                    }
                    _ => {}
                }
                item = libc::CMSG_NXTHDR(&raw const header, item);
            }
        }
        Ok(Some(Datagram { length, source: socket_address(&source), destination, arrival }))
    }

    fn enable(&self, level: i32, option: i32, what: &'static str) -> Result<(), UdpError> {
        let on: libc::c_int = 1;
        // SAFETY: the address and size are those of a live number, which the kernel only reads.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        if result < 0 { Err(UdpError { what, source: last_errno() }) } else { Ok(()) }
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The address in a buffer that is large enough for one of IPv6.
fn socket_address(stored: &libc::sockaddr_in6) -> SocketAddr {
    if i32::from(stored.sin6_family) == libc::AF_INET6 {
        let ip = Ipv6Addr::from(stored.sin6_addr.s6_addr);
        return SocketAddr::new(ip.into(), u16::from_be(stored.sin6_port));
    }
    // SAFETY: an address of IPv4 is the smaller of the two, and any bytes are one.
    let v4 = unsafe { std::ptr::from_ref(stored).cast::<libc::sockaddr_in>().read() };
    SocketAddr::new(IpAddr::V4(v4.sin_addr.s_addr.to_ne_bytes().into()), u16::from_be(v4.sin_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(address: &str) {
        let to: SocketAddr = address.parse().unwrap();
        let one = UdpSocket::bind(to).unwrap();
        let other = UdpSocket::bind(to).unwrap();
        let mut buffer = [0u8; 64];
        assert_eq!(one.receive(&mut buffer).unwrap(), None);
        let before = Duration::from_nanos(crate::poll::realtime_nanos());
        other.send_to(b"hello", one.local_address().unwrap()).unwrap();
        let datagram = one.receive(&mut buffer).unwrap().expect("loopback delivers in the call");
        assert_eq!(&buffer[..datagram.length], b"hello");
        assert_eq!(datagram.source, other.local_address().unwrap());
        assert_eq!(datagram.destination, Some(to.ip()));
        // A receive queue's first time stamps are taken late at most, never early: the clock of both is the same one.
        assert!(datagram.arrival.expect("a time of arrival") >= before);
    }

    #[test]
    fn a_datagram_has_its_time_and_its_destination() {
        exchange("127.0.0.1:0");
        if std::net::UdpSocket::bind("[::1]:0").is_ok() {
            exchange("[::1]:0");
        } else {
            eprintln!("SKIPPED a_datagram_has_its_time_and_its_destination over IPv6: no ::1 here");
            assert!(std::env::var_os("TESTGROUND_TEST_REQUIRE").is_none_or(|value| value != "all"));
        }
    }
}
