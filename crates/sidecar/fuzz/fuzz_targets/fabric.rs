//! Any frames at any moments into a whole switch: nothing panics, nothing waits for ever, no memory is kept.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use testground_model::name::InstanceName;
use testground_model::shape::{Chance, Discipline, LinkShape, Loss, Queue};
use testground_model::topology::{Endpoint, Link};
use testground_sidecar::plan::{Member, Plan, PortId};
use testground_sidecar::plane::switch::fabric::Fabric;
use testground_sidecar::plane::switch::packet::VnetHeader;
use testground_sidecar::plane::switch::table::mac_of;
use testground_sidecar::plane::switch::{Framing, NetworkKind, PortSpec, SwitchConfig};

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let mut fabric = Fabric::new(SwitchConfig { memory: 1 << 20, ..SwitchConfig::default() });
    let some = Chance { percent: 10.0, correlation: 0.0 };
    let shape = LinkShape {
        latency: Duration::from_millis(3),
        bandwidth: Some(10_000_000),
        loss: Loss::Random(some),
        corrupt: some,
        duplicate: some,
        reorder: some,
        queue: Queue {
            discipline: if data.len() % 2 == 0 { Discipline::Codel } else { Discipline::TailDrop },
            ..Queue::default()
        },
        ..LinkShape::default()
    };
    let all = Link {
        from: Endpoint::All,
        to: Endpoint::All,
        both_ways: false,
        network: "default".to_owned(),
        shape,
    };
    let mut plan = Plan::new(vec![all]);
    for i in 0..3u32 {
        let addresses: Vec<IpAddr> = vec![Ipv4Addr::from(0x1000_0002 + i).into()];
        let spec = PortSpec {
            port: PortId(i),
            name: format!("h[{i}]/default"),
            network: NetworkKind::Data(0),
            mac: mac_of(PortId(i)),
            addresses: addresses.clone(),
            fd: std::fs::File::open("/dev/null").unwrap().into(),
            framing: if i == 2 { Framing::Bare } else { Framing::VirtioNet },
            mtu: 1500,
            gateway: false,
            allow_peers: false,
        };
        fabric.attach(&spec).unwrap();
        plan.attach(Member {
            port: PortId(i),
            instance: InstanceName::new("h", i),
            network: "default".to_owned(),
            regions: Vec::new(),
            addresses,
        });
    }
    fabric.install(Arc::new(plan), 0);
    let mut now = 0u64;
    while !input.is_empty() {
        let Ok((from, to, wait, head, length)) = input.arbitrary::<(u8, u8, u32, [u8; 10], u16)>() else {
            break;
        };
        now += u64::from(wait);
        while fabric.release(now, &mut |_| Ok(())) {}
        let Ok(bytes) = input.bytes(usize::from(length).min(input.len())) else { break };
        // A destination that exists gets further than a random one.
        let mac = if to < 4 { mac_of(PortId(to.into())) } else { [0xff; 6] };
        let frame = [&mac, bytes].concat();
        fabric.scratch()[..frame.len()].copy_from_slice(&frame);
        let vnet = VnetHeader::decode(&head);
        fabric.ingress((from % 3).into(), frame.len(), vnet, now, &mut |e| {
            assert!(e.head.len() + e.body.len() >= 14);
            Ok(())
        });
    }
    while let Some(due) = fabric.next_due() {
        now = now.max(due);
        fabric.release(now, &mut |_| Ok(()));
    }
    let snapshot = fabric.snapshot(now);
    assert_eq!((snapshot.memory.used, snapshot.waiting), (0, 0));
});
