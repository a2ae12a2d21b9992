//! Frames are understood, cut and mended as `etherparse`, somebody else's implementation, would have it.

use std::net::IpAddr;

use etherparse::{
    Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header, NetHeaders, PacketBuilder, PacketHeaders, TcpHeader,
    TransportHeader, UdpHeader,
};
use proptest::prelude::*;
use testground_sidecar::plane::switch::packet::reply::{self, Question, Resolution};
use testground_sidecar::plane::switch::packet::vnet::GsoKind;
use testground_sidecar::plane::switch::packet::{
    Gso, Layout, Network, Segments, Transport, VnetHeader, checksum, take_run,
};

const A: [u8; 6] = [2, 0x74, 0, 0, 0, 1];
const B: [u8; 6] = [2, 0x74, 0, 0, 0, 2];

/// A super-packet as a kernel hands it to a device, and the segments that a device would make of it.
#[derive(Debug, Clone)]
struct Super {
    frame: Vec<u8>,
    vnet: VnetHeader,
    expected: Vec<Vec<u8>>,
}

prop_compose! {
    fn tcp_header()(
        sequence in any::<u32>(),
        acknowledgment in any::<u32>(),
        flags in 0u8..64,
        window in any::<u16>(),
        options in prop_oneof![Just(0usize), Just(12), Just(40)],
    ) -> TcpHeader {
        let mut tcp = TcpHeader::new(40_000, 443, sequence, window);
        tcp.acknowledgment_number = acknowledgment;
        (tcp.fin, tcp.psh, tcp.ack) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        (tcp.cwr, tcp.ece, tcp.urg) = (flags & 8 != 0, flags & 16 != 0, flags & 32 != 0);
        tcp.set_options_raw(&vec![1; options]).unwrap();
        tcp
    }
}

fn packet() -> impl Strategy<Value = Super> {
    let payload = (1usize..9000).prop_flat_map(|n| prop::collection::vec(any::<u8>(), n));
    let ip4 = (any::<u16>(), prop_oneof![Just(0usize), Just(4), Just(40)]);
    (any::<bool>(), any::<bool>(), tcp_header(), payload, 100u16..1460, ip4).prop_map(
        |(is_tcp, is_v4, tcp, payload, size, (id, options))| {
            build(is_tcp.then_some(tcp), is_v4, &payload, size, id, options)
        },
    )
}

/// Puts a super-packet together, and its segments by hand from the rules of the RFCs.
fn build(tcp: Option<TcpHeader>, is_v4: bool, payload: &[u8], size: u16, id: u16, options: usize) -> Super {
    let chunks: Vec<&[u8]> = payload.chunks(size.into()).collect();
    let segment = |i: usize, chunk: &[u8], whole: bool| {
        let (first, last) = (i == 0, i + 1 == chunks.len() || whole);
        let mut l4 = Vec::new();
        let mut header4 = Ipv4Header::new(0, 64, IpNumber::TCP, [16, 0, 0, 2], [16, 0, 0, 3]).unwrap();
        let header6 = Ipv6Header {
            source: [0xfd; 16],
            destination: [0xfe; 16],
            hop_limit: 64,
            ..Ipv6Header::default()
        };
        let number = if tcp.is_some() { IpNumber::TCP } else { IpNumber::UDP };
        header4.protocol = number;
        match &tcp {
            Some(tcp) => {
                let mut tcp = tcp.clone();
                tcp.sequence_number = tcp.sequence_number.wrapping_add(i as u32 * u32::from(size));
                tcp.fin &= last;
                tcp.psh &= last;
                tcp.cwr &= first;
                tcp.checksum = match is_v4 {
                    true => tcp.calc_checksum_ipv4(&header4, chunk).unwrap(),
                    false => tcp.calc_checksum_ipv6(&header6, chunk).unwrap(),
                };
                // Of the two zeros the kernel writes this one, whatever the protocol (`skb_checksum_help`).
                if tcp.checksum == 0 {
                    tcp.checksum = 0xffff;
                }
                tcp.write(&mut l4).unwrap();
            }
            None => {
                let udp = match is_v4 {
                    true => UdpHeader::with_ipv4_checksum(5000, 6000, &header4, chunk).unwrap(),
                    false => UdpHeader::with_ipv6_checksum(5000, 6000, &header6, chunk).unwrap(),
                };
                udp.write(&mut l4).unwrap();
            }
        }
        l4.extend_from_slice(chunk);
        let mut frame = Vec::new();
        let ether_type = if is_v4 { etherparse::EtherType::IPV4 } else { etherparse::EtherType::IPV6 };
        Ethernet2Header { source: A, destination: B, ether_type }.write(&mut frame).unwrap();
        if is_v4 {
            header4.identification = id.wrapping_add(i as u16);
            header4.options = vec![1; options].as_slice().try_into().unwrap();
            header4.total_len = (header4.header_len() + l4.len()) as u16;
            header4.header_checksum = header4.calc_header_checksum();
            header4.write(&mut frame).unwrap();
        } else {
            let header = Ipv6Header { payload_length: l4.len() as u16, next_header: number, ..header6 };
            header.write(&mut frame).unwrap();
        }
        let transport_at = frame.len();
        frame.extend_from_slice(&l4);
        (frame, transport_at)
    };
    let expected = chunks.iter().enumerate().map(|(i, chunk)| segment(i, chunk, false).0).collect();
    let (mut frame, start) = segment(0, payload, true);
    let offset = if tcp.is_some() { 16 } else { 6 };
    // What a sender leaves to the device holds the sum of the pseudo-header.
    let layout = Layout::parse(&frame).unwrap();
    let ip = layout.ip().unwrap();
    let length = (frame.len() - start) as u32;
    let pseudo = checksum::pseudo_header(ip.source, ip.destination, ip.protocol, length);
    frame[start + offset..start + offset + 2].copy_from_slice(&pseudo.to_be_bytes());
    let kind = match (tcp.is_some(), is_v4) {
        (true, true) => GsoKind::Tcp4,
        (true, false) => GsoKind::Tcp6,
        (false, _) => GsoKind::Udp,
    };
    let gso = Gso { kind, ecn: tcp.is_some_and(|t| t.cwr), size, header: 0 };
    let vnet = VnetHeader {
        partial_checksum: Some((start as u16, offset as u16)),
        data_valid: false,
        gso: Some(gso),
    };
    Super { frame, vnet, expected }
}

/// The run as a frame of its own, with its offload header.
fn run(sample: &Super, first: u32, count: u32) -> (Vec<u8>, VnetHeader) {
    let layout = Layout::parse(&sample.frame).unwrap();
    let segments = Segments::of(&sample.frame, &layout, &sample.vnet).unwrap();
    let gso = sample.vnet.gso.unwrap();
    let (vnet, head) = take_run(&sample.frame, &layout, gso, &segments, first, count).unwrap();
    ([&head, &sample.frame[segments.payload(first, count)]].concat(), vnet)
}

fn finished(mut frame: Vec<u8>, vnet: &VnetHeader) -> Vec<u8> {
    let (start, offset) = vnet.partial_checksum.unwrap();
    assert!(checksum::fill_in(&mut frame, start.into(), offset.into()));
    frame
}

proptest! {
    #[test]
    fn each_segment_is_the_one_that_a_device_would_send(sample in packet()) {
        let layout = Layout::parse(&sample.frame).unwrap();
        let segments = Segments::of(&sample.frame, &layout, &sample.vnet).unwrap();
        prop_assert_eq!(segments.count as usize, sample.expected.len());
        let sizes: u64 = sample.expected.iter().map(|s| s.len() as u64).sum();
        prop_assert_eq!(segments.size_of(0, segments.count), sizes);
        for (i, expected) in (0u32..).zip(&sample.expected) {
            let (frame, vnet) = run(&sample, i, 1);
            prop_assert_eq!(vnet.gso, None);
            prop_assert_eq!(segments.size(i) as usize, expected.len());
            prop_assert_eq!(&finished(frame, &vnet), expected, "segment {}", i);
        }
    }

    #[test]
    fn a_run_is_a_super_packet_of_the_same_segments(
        sample in packet(),
        from in any::<prop::sample::Index>(),
        length in any::<prop::sample::Index>(),
    ) {
        let total = sample.expected.len() as u32;
        let first = from.index(total as usize) as u32;
        let count = 1 + length.index((total - first) as usize) as u32;
        let (frame, vnet) = run(&sample, first, count);
        prop_assume!(count > 1);
        // The pseudo-header's sum is that of the run's own length.
        let whole = Super { frame, vnet, expected: Vec::new() };
        for i in 0..count {
            let (frame, vnet) = run(&whole, i, 1);
            prop_assert_eq!(&finished(frame, &vnet), &sample.expected[(first + i) as usize]);
        }
    }

    #[test]
    fn frames_are_understood_as_etherparse_does(sample in packet(), cut in any::<prop::sample::Index>()) {
        let frame = &sample.expected[0];
        let layout = Layout::parse(frame).unwrap();
        let theirs = PacketHeaders::from_ethernet_slice(frame).unwrap();
        let ip = layout.ip().unwrap();
        match theirs.net.as_ref().unwrap() {
            NetHeaders::Ipv4(header, _) => {
                prop_assert_eq!(ip.source, IpAddr::from(header.source));
                prop_assert_eq!(ip.transport_at - layout.network, header.header_len());
            }
            NetHeaders::Ipv6(header, _) => prop_assert_eq!(ip.destination, IpAddr::from(header.destination)),
            NetHeaders::Arp(_) => prop_assert!(false),
        }
        match theirs.transport.as_ref().unwrap() {
            TransportHeader::Tcp(tcp) => prop_assert_eq!(ip.transport, Transport::Tcp(tcp.header_len())),
            TransportHeader::Udp(_) => prop_assert_eq!(ip.transport, Transport::Udp),
            _ => prop_assert!(false),
        }
        prop_assert_eq!(frame.len() - ip.payload_at().unwrap(), theirs.payload.slice().len());
        // A part of it is never understood: its length says more.
        let part = &frame[..cut.index(frame.len())];
        prop_assert!(Layout::parse(part).is_err());
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200), vnet in any::<[u8; 10]>()) {
        survive(&bytes, &vnet);
    }

    #[test]
    fn no_damage_is_too_odd(
        sample in packet(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        vnet in any::<[u8; 10]>(),
        keep in any::<bool>(),
    ) {
        let mut frame = sample.frame.clone();
        for (at, value) in damage {
            // Headers are where damage tells.
            let at = at.index(frame.len().min(120));
            frame[at] = value;
        }
        survive(&frame, &if keep { sample.vnet.encode() } else { vnet });
    }
}

/// Everything that is done with a frame, on one that makes no sense.
fn survive(frame: &[u8], vnet: &[u8; 10]) {
    let Some(vnet) = VnetHeader::decode(vnet) else { return };
    let Ok(layout) = Layout::parse(frame) else { return };
    let _ = reply::resolution(frame, &layout).map(|resolution| match resolution {
        Resolution::Question(question) => reply::answer(frame, &layout, &question, B),
        Resolution::Statement => None,
    });
    let _ = reply::rejection(frame, &layout);
    let Ok(segments) = Segments::of(frame, &layout, &vnet) else { return };
    assert!(segments.count >= 1 && segments.size_of(0, segments.count) >= frame.len().min(1) as u64);
    if let Some(gso) = vnet.gso {
        for (first, count) in [(0, 1), (0, segments.count), (segments.count - 1, 1), (segments.count, 1)] {
            if let Ok((vnet, head)) = take_run(frame, &layout, gso, &segments, first, count) {
                let mut run = [&head, &frame[segments.payload(first, count)]].concat();
                let (start, offset) = vnet.partial_checksum.unwrap();
                checksum::fill_in(&mut run, start.into(), offset.into());
                Layout::parse(&run).unwrap();
            }
        }
    }
}

#[test]
fn tags_extension_headers_fragments_and_jumbo_frames_are_understood() {
    let mut tagged = Vec::new();
    PacketBuilder::ethernet2(A, B)
        .double_vlan(100.try_into().unwrap(), 200.try_into().unwrap())
        .ipv4([16, 0, 0, 2], [16, 0, 0, 3], 64)
        .udp(1, 2)
        .write(&mut tagged, &[0; 8900])
        .unwrap();
    let layout = Layout::parse(&tagged).unwrap();
    assert_eq!((layout.tags, layout.network, layout.ip().unwrap().transport), (2, 22, Transport::Udp));

    // Hop-by-hop options and a fragment header before UDP, by hand.
    let mut frame = [&B[..], &A[..], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 0, 64]].concat();
    frame.extend_from_slice(&[0xfd; 32]);
    frame.extend_from_slice(&[44, 0, 1, 4, 0, 0, 0, 0]);
    frame.extend_from_slice(&[17, 0, 0, 1, 0, 0, 0, 9]);
    frame.extend_from_slice(&[0, 1, 0, 2, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    let ip = *Layout::parse(&frame).unwrap().ip().unwrap();
    assert_eq!((ip.fragment, ip.options, ip.protocol, ip.transport), (true, true, 17, Transport::Udp));
    assert_eq!(ip.transport_at, 14 + 40 + 16);
    // The same as a later fragment: no transport header.
    frame[14 + 40 + 8 + 3] = 8;
    assert_eq!(Layout::parse(&frame).unwrap().ip().unwrap().transport, Transport::Other);

    let other = [&B[..], &A[..], &[0x88, 0xcc, 1, 2, 3]].concat();
    assert_eq!(Layout::parse(&other).unwrap().content, Network::Other(0x88cc));
}

#[test]
fn questions_for_addresses_are_answered_as_the_kernel_expects() {
    let arp =
        [&[0xff; 6][..], &A, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &A, &[16, 0, 0, 2], &[0; 6], &[16, 0, 0, 3]]
            .concat();
    let layout = Layout::parse(&arp).unwrap();
    let question =
        Question { target: "16.0.0.3".parse().unwrap(), asker: "16.0.0.2".parse().unwrap(), probe: false };
    assert_eq!(reply::resolution(&arp, &layout), Some(Resolution::Question(question)));
    let answer = reply::answer(&arp, &layout, &question, B).unwrap();
    let theirs = PacketHeaders::from_ethernet_slice(&answer).unwrap();
    let Some(NetHeaders::Arp(theirs)) = theirs.net else { panic!("not ARP") };
    assert_eq!(theirs.operation, etherparse::ArpOperation::REPLY);
    assert_eq!((theirs.sender_hw_addr(), theirs.sender_protocol_addr()), (&B[..], &[16u8, 0, 0, 3][..]));
    assert_eq!((theirs.target_hw_addr(), theirs.target_protocol_addr()), (&A[..], &[16u8, 0, 0, 2][..]));
    assert_eq!(answer[..6], A);
}

#[test]
fn a_rejected_connection_is_reset_and_a_rejected_datagram_is_answered() {
    for is_v4 in [true, false] {
        let ends = |b: etherparse::PacketBuilderStep<Ethernet2Header>| match is_v4 {
            true => b.ipv4([16, 0, 0, 2], [16, 0, 0, 3], 64),
            false => b.ipv6([0xfd; 16], [0xfe; 16], 64),
        };
        let mut syn = Vec::new();
        ends(PacketBuilder::ethernet2(A, B)).tcp(1234, 80, 1000, 500).syn().write(&mut syn, &[]).unwrap();
        let reset = reply::rejection(&syn, &Layout::parse(&syn).unwrap()).unwrap();
        let theirs = PacketHeaders::from_ethernet_slice(&reset).unwrap();
        let Some(TransportHeader::Tcp(tcp)) = &theirs.transport else { panic!("not TCP") };
        assert!(tcp.rst && tcp.ack && !tcp.syn);
        assert_eq!((tcp.acknowledgment_number, tcp.source_port, tcp.destination_port), (1001, 80, 1234));
        let expected = match theirs.net.as_ref().unwrap() {
            NetHeaders::Ipv4(ip, _) => {
                assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
                tcp.calc_checksum_ipv4(ip, &[]).unwrap()
            }
            NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(ip, &[]).unwrap(),
            NetHeaders::Arp(_) => panic!("ARP"),
        };
        assert_eq!(tcp.checksum, expected);
        // A reset is not answered: two rejecting links would never stop.
        assert_eq!(reply::rejection(&reset, &Layout::parse(&reset).unwrap()), None);

        let mut datagram = Vec::new();
        ends(PacketBuilder::ethernet2(A, B)).udp(1234, 80).write(&mut datagram, &[7; 1300]).unwrap();
        let error = reply::rejection(&datagram, &Layout::parse(&datagram).unwrap()).unwrap();
        let theirs = PacketHeaders::from_ethernet_slice(&error).unwrap();
        let quoted = match &theirs.transport {
            Some(TransportHeader::Icmpv4(icmp)) => {
                assert_eq!(icmp.icmp_type.calc_checksum(theirs.payload.slice()), icmp.checksum);
                assert!(matches!(
                    icmp.icmp_type,
                    etherparse::Icmpv4Type::DestinationUnreachable(
                        etherparse::icmpv4::DestUnreachableHeader::FilterProhibited
                    )
                ));
                &error[14 + 28..]
            }
            Some(TransportHeader::Icmpv6(icmp)) => {
                let Some(NetHeaders::Ipv6(ip, _)) = &theirs.net else { panic!("not IPv6") };
                let payload = theirs.payload.slice();
                let sum = icmp.icmp_type.calc_checksum(ip.source, ip.destination, payload).unwrap();
                assert_eq!(sum, icmp.checksum);
                assert!(matches!(
                    icmp.icmp_type,
                    etherparse::Icmpv6Type::DestinationUnreachable(
                        etherparse::icmpv6::DestUnreachableCode::Prohibited
                    )
                ));
                &error[14 + 48..]
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(quoted, &datagram[14..14 + quoted.len()]);
        assert!(error.len() <= if is_v4 { 14 + 576 } else { 14 + 1280 });
        assert_eq!(reply::rejection(&error, &Layout::parse(&error).unwrap()), None);
    }
}
