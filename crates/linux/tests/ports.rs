//! TAP devices and packet sockets: both ends of the cable that the switch plugs in, with real frames.

mod common;

use std::os::fd::AsFd;
use std::time::Duration;

use common::{Who, await_readable, in_lab, ip};
use testground_linux::Errno;
use testground_linux::netns::Netns;
use testground_linux::packet_socket::{PacketSocket, PacketSocketError, PacketSocketOptions};
use testground_linux::route::{Change, LinkChange, Mac, NetlinkError, RouteSocket, VethEnd};
use testground_linux::tap::{self, Tap, TapError, TapOptions, VNET_HEADER_LEN};
use testground_linux::udp::UdpSocket;

const HERE: Mac = [2, 0, 0, 0, 0, 1];
const THERE: Mac = [2, 0, 0, 0, 0, 2];
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` and `VIRTIO_NET_HDR_GSO_UDP_L4` of linux/virtio_net.h.
const NEEDS_CSUM: u8 = 1;
const GSO_UDP_L4: u8 = 5;

/// Gives an interface an address in 10.0.0.0/24 and tells it where its neighbour is.
fn set_up(socket: &mut RouteSocket, index: u32, mac: Mac, own: u8, neighbour: u8, neighbour_mac: Mac) {
    let address = format!("10.0.0.{own}/24").parse().unwrap();
    let quiet = LinkChange { mac: Some(mac), link_local: Some(false), ..LinkChange::new(index) };
    socket
        .apply(&[
            Change::Link(quiet),
            Change::Link(LinkChange { up: Some(true), ..LinkChange::new(index) }),
            Change::AddAddress { index, address },
            Change::SetNeighbour { index, address: [10, 0, 0, neighbour].into(), mac: neighbour_mac },
        ])
        .unwrap();
}

/// The next UDP frame on a port, with its header.
fn next_udp_frame(port: impl AsFd) -> Vec<u8> {
    loop {
        assert!(await_readable(&port), "no frame came");
        let mut frame = vec![0u8; 70_000];
        let length = rustix::io::read(&port, &mut frame[..]).unwrap();
        frame.truncate(length);
        let packet = &frame[VNET_HEADER_LEN..];
        if packet[12..14] == [8, 0] && packet[23] == 17 {
            return frame;
        }
    }
}

fn ones_complement(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A UDP datagram from 10.0.0.2 to a port of 10.0.0.1 as a frame, whose UDP checksum is left to the device; larger than a
/// segment, it is left to the device to cut it too.
fn frame(port: u16, payload: &[u8], segment: Option<u16>) -> Vec<u8> {
    let udp_length = (8 + payload.len()) as u16;
    let mut ip_header = vec![0x45, 0];
    ip_header.extend((20 + udp_length).to_be_bytes());
    ip_header.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    let checksum = !ones_complement(&ip_header);
    ip_header[10..12].copy_from_slice(&checksum.to_be_bytes());
    let pseudo = [&ip_header[12..20], &[0, 17], &udp_length.to_be_bytes()].concat();
    let mut packet = vec![NEEDS_CSUM, 0];
    packet[1] = if segment.is_some() { GSO_UDP_L4 } else { 0 };
    packet.extend(42u16.to_ne_bytes());
    packet.extend(segment.unwrap_or(0).to_ne_bytes());
    packet.extend(34u16.to_ne_bytes());
    packet.extend(6u16.to_ne_bytes());
    if segment.is_none() {
        packet[2..6].fill(0);
    }
    packet.extend(HERE);
    packet.extend(THERE);
    packet.extend([8, 0]);
    packet.extend(ip_header);
    packet.extend(9u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    packet.extend(ones_complement(&pseudo).to_be_bytes());
    packet.extend(payload);
    packet
}

/// The kernel connects an interface a moment after its other end is there.
fn await_running(socket: &mut RouteSocket, index: u32) {
    let link = socket.await_running(index, Duration::from_secs(120)).unwrap();
    assert!(link.up && link.running);
}

/// Both directions over a port whose other end is this namespace's interface 10.0.0.1.
fn exchange(port: impl AsFd, cut: bool) {
    let receiver = UdpSocket::bind("10.0.0.1:0".parse().unwrap()).unwrap();
    receiver.send_to(b"out", "10.0.0.2:9".parse().unwrap()).unwrap();
    let seen = next_udp_frame(&port);
    assert_eq!(seen[0], NEEDS_CSUM, "left to the device");
    assert_eq!(&seen[VNET_HEADER_LEN..][..12], &[THERE, HERE].concat()[..]);
    assert_eq!(&seen[VNET_HEADER_LEN + 42..], b"out");

    let to = receiver.local_address().unwrap().port();
    let sent = frame(to, b"in", None);
    assert_eq!(rustix::io::write(&port, &sent).unwrap(), sent.len());
    let mut buffer = [0u8; 2048];
    assert!(await_readable(&receiver), "the frame did not arrive");
    let datagram = receiver.receive(&mut buffer).unwrap().unwrap();
    assert_eq!(&buffer[..datagram.length], b"in");
    if cut {
        let payload: Vec<u8> = (0..3500u32).map(|n| n as u8).collect();
        let sent = frame(to, &payload, Some(1000));
        assert_eq!(rustix::io::write(&port, &sent).unwrap(), sent.len());
        let mut whole: Vec<u8> = Vec::new();
        let mut lengths = Vec::new();
        while whole.len() < payload.len() {
            assert!(await_readable(&receiver), "only {lengths:?} arrived");
            let datagram = receiver.receive(&mut buffer).unwrap().unwrap();
            whole.extend(&buffer[..datagram.length]);
            lengths.push(datagram.length);
        }
        assert_eq!(lengths, [1000, 1000, 1000, 500]);
        assert_eq!(whole, payload);
    }
}

#[test]
fn a_tap_carries_frames_and_outlives_its_descriptor() {
    let test = "a_tap_carries_frames_and_outlives_its_descriptor";
    in_lab(test, &[Who::Me, Who::NobodyWithTun], |who| {
        let options = TapOptions { txqueuelen: Some(321), ..TapOptions::default() };
        let tap = match Tap::open("data", &options) {
            Err(error @ (TapError::Missing { .. } | TapError::Permission { .. })) if who == Who::Me => {
                return common::skip(test, &error.to_string());
            }
            tap => tap.unwrap(),
        };
        assert_eq!((tap.name(), tap.header_len()), ("data", VNET_HEADER_LEN));
        assert!(tap.offloads().tso4 && tap.offloads().tso6, "{:?}", tap.offloads());
        let shown = &ip("link show data")[0];
        assert_eq!((&shown["ifindex"], &shown["txqlen"]), (&tap.index().into(), &321.into()));
        let data = &shown["linkinfo"]["info_data"];
        assert_eq!(
            (&data["type"], &data["persist"], &data["vnet_hdr"], &data["pi"]),
            (&"tap".into(), &true.into(), &true.into(), &false.into())
        );
        let mut socket = RouteSocket::open().unwrap();
        set_up(&mut socket, tap.index(), HERE, 1, 2, THERE);
        await_running(&mut socket, tap.index());
        exchange(&tap, tap.offloads().uso);
        assert_eq!(rustix::io::read(&tap, &mut [0u8; 100][..]), Err(Errno::AGAIN), "nonblocking");

        let busy = Tap::open("data", &options).unwrap_err();
        assert!(matches!(busy, TapError::Create { source: Errno::BUSY, .. }), "{busy}");
        let index = tap.index();
        drop(tap);
        assert_eq!(socket.link("data").unwrap().map(|link| link.index), Some(index), "persistent");
        let tap = Tap::open("data", &options).unwrap();
        assert_eq!(tap.index(), index);
        await_running(&mut socket, tap.index());
        exchange(&tap, tap.offloads().uso);
        tap.set_persist(false).unwrap();
        drop(tap);
        assert_eq!(socket.link("data").unwrap(), None);

        let bare = TapOptions { vnet_header: false, offload: false, persist: false, txqueuelen: None };
        let tap = Tap::open("bare", &bare).unwrap();
        assert_eq!((tap.header_len(), tap.offloads()), (0, tap::Offloads::default()));
        for name in ["", "a/b", "a b", "sixteen-bytes-xx", "..", "a:b", "tap%d"] {
            assert!(matches!(Tap::open(name, &bare), Err(TapError::Name { .. })), "{name:?}");
        }

        // A TAP lives in the namespace in which its device file was opened.
        let there = Netns::create().unwrap();
        let away = there.enter(|| Tap::open("away", &bare)).unwrap().unwrap();
        assert_eq!(socket.link("away").unwrap(), None);
        assert!(RouteSocket::open_in(&there).unwrap().link("away").unwrap().is_some());
        drop(away);
    });
}

#[test]
fn a_device_file_that_may_not_be_opened_is_said_by_name() {
    in_lab("a_device_file_that_may_not_be_opened_is_said_by_name", &[Who::NobodyWithoutTun], |_| {
        let error = Tap::open("data", &TapOptions::default()).unwrap_err();
        assert!(matches!(error, TapError::Permission { source: Errno::ACCESS }));
        assert!(error.to_string().contains("chmod 0666 /dev/net/tun"), "{error}");
        testground_linux::mount::tmpfs(std::path::Path::new("/dev/net"), None, 0o755).unwrap();
        let error = Tap::open("data", &TapOptions::default()).unwrap_err();
        assert!(matches!(error, TapError::Missing { source: Errno::NOENT }), "{error}");
    });
}

#[test]
fn a_packet_socket_carries_the_same_frames() {
    in_lab("a_packet_socket_carries_the_same_frames", &[Who::Me, Who::NobodyWithoutTun], |_| {
        let there = Netns::create().unwrap();
        let mut near = RouteSocket::open().unwrap();
        let other = VethEnd { mac: Some(THERE), netns: Some(&there), ..VethEnd::new("switch") };
        near.apply(&[Change::CreateVeth { one: VethEnd::new("data"), other }]).unwrap();
        let data = near.link("data").unwrap().unwrap().index;
        set_up(&mut near, data, HERE, 1, 2, THERE);
        let mut far = RouteSocket::open_in(&there).unwrap();
        let index = far.link("switch").unwrap().unwrap().index;
        let quiet = LinkChange { link_local: Some(false), ..LinkChange::new(index) };
        far.apply(&[
            Change::Link(quiet),
            Change::Link(LinkChange { up: Some(true), ..LinkChange::new(index) }),
        ])
        .unwrap();
        far.apply(&[
            Change::AddAddress { index, address: "10.9.0.1/24".parse().unwrap() },
            Change::SetNeighbour { index, address: [10, 9, 0, 2].into(), mac: HERE },
        ])
        .unwrap();
        await_running(&mut near, data);
        await_running(&mut far, index);
        for bypass_qdisc in [true, false] {
            let options = PacketSocketOptions { bypass_qdisc, ..PacketSocketOptions::default() };
            let port = there.enter(|| PacketSocket::open(index, &options)).unwrap().unwrap();
            assert!(port.receive_buffer() > 100_000, "{}", port.receive_buffer());
            exchange(&port, true);
            // What the interface's own host sends is not seen: the switch would send it back.
            let witness = PacketSocket::open(data, &options).unwrap();
            let speaker = there.enter(|| UdpSocket::bind("10.9.0.1:0".parse().unwrap())).unwrap().unwrap();
            speaker.send_to(b"own", "10.9.0.2:9".parse().unwrap()).unwrap();
            assert_eq!(&next_udp_frame(&witness)[VNET_HEADER_LEN + 42..], b"own");
            let mut seen = [0u8; 2048];
            while let Ok(length) = rustix::io::read(&port, &mut seen[..]) {
                assert!(!seen[..length].ends_with(b"own"), "its host's own frame");
            }
            let (received, dropped) = port.take_statistics().unwrap();
            assert!(received >= 1 && dropped == 0);
        }
        far.apply(&[Change::Link(LinkChange { up: Some(false), ..LinkChange::new(index) })]).unwrap();
        let waited = near.await_running(data, Duration::from_millis(1)).unwrap_err();
        assert!(matches!(waited, NetlinkError::TimedOut { .. }), "{waited}");
        let gone = near.await_running(4000, Duration::from_secs(120)).unwrap_err();
        assert_eq!(gone.errno(), Some(Errno::NODEV));
        let error = there.enter(|| PacketSocket::open(4000, &PacketSocketOptions::default())).unwrap();
        assert!(matches!(error, Err(PacketSocketError::Bind { index: 4000, source: Errno::NODEV })));
    });
}
