//! The messages written here, byte by byte beside those that `tc` sends for the same thing (`tests/tc/capture` made them).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::attributes::{Attributes, Walk, text};
use super::*;

/// What `tc` was told to do, in our words. `t0` is interface 3, `ifb0` is 4.
fn cases() -> BTreeMap<&'static str, Action> {
    let (tree, leaf) = (Handle::new(1, 0), Handle::new(1, 0x10));
    let netem = |netem: Netem| Action::AddQdisc {
        parent: leaf,
        handle: Handle::new(0x10, 0),
        qdisc: Qdisc::Netem(netem),
    };
    let percent = |percent: f64| Share::new(percent / 100.0);
    let ms = 1_000_000;
    let class = |rate, ceil, burst, ceil_burst, quantum, priority| HtbClass {
        rate,
        ceil,
        burst,
        ceil_burst,
        quantum,
        priority,
        overhead: 0,
        min_packet: 0,
    };
    let filter = |priority, protocol, filter| Action::AddFilter { parent: tree, priority, protocol, filter };
    let u32_filter = |keys, target, bucket| Filter::U32 { keys, target, bucket };
    let to = |minor| U32Target::Is(Target::Class(Handle::new(1, minor)));
    let net = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
    let (redirect, deliver) = (Target::Redirect { index: 4 }, Target::Deliver { index: 4 });
    let anything = vec![BpfInstruction { code: 6, jump_true: 0, jump_false: 0, operand: u32::MAX }];
    let qdisc = |parent, handle, qdisc| Action::AddQdisc { parent, handle, qdisc };
    BTreeMap::from([
        ("qdisc-htb", qdisc(Handle::ROOT, tree, Qdisc::Htb(Htb { default_class: 0x10, ..Htb::default() }))),
        (
            "qdisc-htb-r2q",
            Action::ReplaceQdisc {
                parent: Handle::ROOT,
                handle: tree,
                qdisc: Qdisc::Htb(Htb { default_class: 0, rate_to_quantum: 100, direct_queue: Some(500) }),
            },
        ),
        ("qdisc-clsact", qdisc(Handle::INGRESS, Handle::INGRESS_QDISC, Qdisc::Clsact)),
        ("qdisc-ingress", qdisc(Handle::INGRESS, Handle::INGRESS_QDISC, Qdisc::Ingress)),
        ("qdisc-pfifo", qdisc(leaf, Handle::new(0x20, 0), Qdisc::Pfifo { limit: 100 })),
        ("qdisc-blackhole", qdisc(leaf, Handle::new(0x20, 0), Qdisc::Blackhole)),
        (
            "qdisc-tbf",
            qdisc(Handle::ROOT, tree, Qdisc::Tbf(Tbf { rate: 1_000_000_000_000, burst: 1518, limit: 3000 })),
        ),
        (
            "qdisc-tbf-slow",
            Action::ChangeQdisc {
                parent: Handle::ROOT,
                handle: tree,
                qdisc: Qdisc::Tbf(Tbf { rate: 125_000, burst: 16_000, limit: 3000 }),
            },
        ),
        ("qdisc-del", Action::DeleteQdisc { parent: Handle::ROOT, handle: Handle::NONE }),
        (
            "class-htb",
            Action::AddClass {
                parent: tree,
                handle: Handle::new(1, 1),
                class: class(1_250_000, 2_500_000, 62_500, 25_000, 1514, 3),
            },
        ),
        (
            "class-htb-64",
            Action::ChangeClass {
                parent: tree,
                handle: Handle::new(1, 1),
                class: class(5_000_000_000, 12_500_000_000, 1_000_000, 1_000_000, 60_000, 0),
            },
        ),
        ("class-del", Action::DeleteClass { handle: Handle::new(1, 1) }),
        ("netem-delay", netem(Netem { delay: 10 * ms, ..Netem::default() })),
        (
            "netem-all",
            netem(Netem {
                limit: 5000,
                delay: 10 * ms,
                jitter: 2 * ms,
                delay_correlation: percent(25.0),
                loss: Loss::Random { share: percent(1.0), correlation: percent(5.0) },
                duplicate: percent(2.0),
                duplicate_correlation: percent(3.0),
                reorder: percent(4.0),
                reorder_correlation: percent(6.0),
                gap: 3,
                corrupt: percent(0.5),
                corrupt_correlation: percent(2.0),
                rate: 625_000,
                ..Netem::default()
            }),
        ),
        (
            "netem-gemodel",
            netem(Netem {
                loss: Loss::Gilbert {
                    to_bad: percent(1.0),
                    to_good: percent(10.0),
                    // As tc rounds it: 30 % first, then what is left over.
                    bad_loss: percent(30.0).complement(),
                    good_loss: percent(0.1),
                },
                ..Netem::default()
            }),
        ),
        (
            "netem-state",
            netem(Netem {
                loss: Loss::FourState {
                    p13: percent(1.0),
                    p31: percent(90.0),
                    p32: percent(2.0),
                    p23: percent(50.0),
                    p14: percent(3.0),
                },
                ..Netem::default()
            }),
        ),
        (
            "netem-rate64",
            netem(Netem {
                rate: 5_000_000_000,
                packet_overhead: 20,
                cell_size: 100,
                cell_overhead: 5,
                loss: Loss::Random { share: percent(10.0), correlation: Share::NONE },
                ecn: true,
                ..Netem::default()
            }),
        ),
        (
            "netem-slot",
            netem(Netem {
                delay: ms,
                slot: Some(Slot { min_delay: 100_000, max_delay: 200_000, max_packets: 4, max_bytes: 1000 }),
                ..Netem::default()
            }),
        ),
        (
            "netem-distribution",
            netem(Netem { delay: 10 * ms, jitter: 2 * ms, distribution: normal_table(), ..Netem::default() }),
        ),
        (
            "u32-v4",
            filter(5, Protocol::Ipv4, u32_filter(U32Key::destination(net("10.1.0.0/16")), to(0x10), None)),
        ),
        (
            "u32-v4-pair",
            filter(
                5,
                Protocol::Ipv4,
                u32_filter(
                    [U32Key::source(net("192.0.2.1/32")), U32Key::destination(net("10.1.2.0/23"))].concat(),
                    to(0x10),
                    None,
                ),
            ),
        ),
        (
            "u32-v6",
            filter(
                6,
                Protocol::Ipv6,
                u32_filter(U32Key::destination(net("fd00:1:2:3::/72")), to(0x11), None),
            ),
        ),
        ("u32-table", filter(5, Protocol::Ipv4, Filter::U32Table { table: 2, buckets: 256 })),
        (
            "u32-bucket",
            filter(
                5,
                Protocol::Ipv4,
                u32_filter(
                    U32Key::destination(net("10.0.0.10/32")),
                    to(0x10),
                    Some(U32Bucket { table: 2, bucket: 10, place: 0 }),
                ),
            ),
        ),
        (
            "u32-link",
            filter(
                5,
                Protocol::Ipv4,
                u32_filter(
                    U32Key::destination(net("10.0.0.0/24")),
                    U32Target::Table { table: 2, offset: 16, mask: 0xff },
                    Some(U32Bucket { table: 0x800, bucket: 0, place: 0 }),
                ),
            ),
        ),
        (
            "u32-all-mirred",
            Action::AddFilter {
                parent: Handle::INGRESS_QDISC,
                priority: 1,
                protocol: Protocol::All,
                filter: u32_filter(
                    vec![U32Key { value: 0, mask: 0, offset: 0 }],
                    U32Target::Is(redirect),
                    None,
                ),
            },
        ),
        (
            "u32-ether-mirred",
            Action::AddFilter {
                parent: Handle::CLSACT_INGRESS,
                priority: 9,
                protocol: Protocol::Ipv4,
                filter: u32_filter(
                    [
                        U32Key::hardware([0x02, 0x74, 1, 2, 3, 4]).to_vec(),
                        U32Key::destination(net("10.1.2.3/32")),
                    ]
                    .concat(),
                    U32Target::Is(redirect),
                    None,
                ),
            },
        ),
        (
            "u32-mirred-ingress",
            Action::AddFilter {
                parent: Handle::CLSACT_EGRESS,
                priority: 1,
                protocol: Protocol::Ipv4,
                filter: u32_filter(U32Key::destination(net("10.0.0.2/32")), U32Target::Is(deliver), None),
            },
        ),
        (
            "matchall-mirred",
            Action::AddFilter {
                parent: Handle::CLSACT_INGRESS,
                priority: 1,
                protocol: Protocol::All,
                filter: Filter::MatchAll { target: redirect },
            },
        ),
        (
            "flower-v4",
            filter(
                2,
                Protocol::Ipv4,
                Filter::Flower {
                    source: None,
                    destination: Some(net("10.1.0.0/16")),
                    target: Target::Class(Handle::new(1, 0x10)),
                },
            ),
        ),
        (
            "flower-v6",
            filter(
                2,
                Protocol::Ipv6,
                Filter::Flower {
                    source: Some(net("fd00::/32")),
                    destination: Some(net("fd01::/64")),
                    target: Target::Class(Handle::new(1, 0x10)),
                },
            ),
        ),
        (
            "bpf-classic",
            filter(
                7,
                Protocol::All,
                Filter::Bpf {
                    program: vec![
                        BpfInstruction { code: 40, jump_true: 0, jump_false: 0, operand: 12 },
                        BpfInstruction { code: 6, jump_true: 0, jump_false: 0, operand: 65_552 },
                    ],
                    target: Target::Class(Handle::new(1, 0x10)),
                },
            ),
        ),
        (
            "bpf-mirred",
            Action::AddFilter {
                parent: Handle::CLSACT_INGRESS,
                priority: 7,
                protocol: Protocol::All,
                filter: Filter::Bpf { program: anything.clone(), target: redirect },
            },
        ),
        (
            "bpf-mirred-ingress",
            Action::AddFilter {
                parent: Handle::CLSACT_EGRESS,
                priority: 7,
                protocol: Protocol::All,
                filter: Filter::Bpf { program: anything, target: deliver },
            },
        ),
        ("filter-del", Action::DeletePriority { parent: tree, priority: 5, protocol: Protocol::Ipv4 }),
        (
            "filter-del-one",
            Action::DeleteFilter {
                parent: tree,
                priority: 5,
                protocol: Protocol::Ipv4,
                kind: "u32",
                handle: 0x0020_a800,
            },
        ),
    ])
}

#[test]
fn messages_are_those_that_tc_sends() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tc/golden");
    let mut captured: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        captured.insert(name, read_hex(&fs::read_to_string(&path).unwrap()));
    }
    let cases = cases();
    let names: Vec<&str> = captured.keys().map(String::as_str).collect();
    assert_eq!(cases.keys().copied().collect::<Vec<_>>(), names, "each captured message has its case");
    let mut different = Vec::new();
    for (name, action) in cases {
        let request = TcChange { index: 3, action }.request();
        let golden = Message::of_tc(&captured[name]);
        let ours = Message { kind: request.kind, flags: request.flags | REQUEST_ACK, body: request.body };
        if ours != golden {
            different.push(format!("{name}\n  ours {ours:02x?}\n  tc   {golden:02x?}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[derive(Debug, PartialEq, Eq)]
struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

const REQUEST_ACK: u16 = 5;

impl Message {
    /// Without what differs from run to run (the sequence number), and without the tables of times that tc adds to an HTB
    /// class, and to a token bucket, for kernels of long ago.
    fn of_tc(bytes: &[u8]) -> Self {
        let short = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let (header, attributes) = bytes[16..].split_at(20);
        let mut kept = Attributes::default();
        let name = Walk(attributes).find(|(kind, _)| *kind == NAME).map(|(_, value)| text(value));
        for (kind, value) in Walk(attributes) {
            let mut options = Attributes::default();
            let tables: &[u16] = match &name {
                _ if kind != OPTIONS => &[],
                _ if short(4) == RTM_NEWTCLASS => &CLASS_TABLES,
                Some(name) if name == "tbf" => &BUCKET_TABLES,
                _ => &[],
            };
            if !tables.is_empty() {
                for (kind, value) in Walk(value).filter(|(kind, _)| !tables.contains(kind)) {
                    options.bytes(kind, value);
                }
                kept.bytes(kind, options.as_bytes());
            } else {
                kept.bytes(kind, value);
            }
        }
        let body = [header, kept.as_bytes()].concat();
        Self { kind: short(4), flags: short(6), body }
    }
}

const RTM_NEWTCLASS: u16 = 40;
const NAME: u16 = 1;
const OPTIONS: u16 = 2;
/// `TCA_HTB_CTAB` and `TCA_HTB_RTAB`.
const CLASS_TABLES: [u16; 2] = [3, 4];
/// `TCA_TBF_RTAB`.
const BUCKET_TABLES: [u16; 1] = [2];

fn read_hex(text: &str) -> Vec<u8> {
    let digits: String = text.lines().filter(|line| !line.starts_with('#')).collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// The table of the normal distribution as the captured message holds it: it is tc's own data.
fn normal_table() -> Vec<i16> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tc/golden/netem-distribution.hex");
    let bytes = read_hex(&fs::read_to_string(path).unwrap());
    let (_, options) = Walk(&bytes[36..]).nth(1).unwrap();
    let (kind, table) = Walk(&options[24..]).next().unwrap();
    assert_eq!((kind, table.len()), (2, 2 * 4096));
    table.chunks(2).map(|pair| i16::from_ne_bytes([pair[0], pair[1]])).collect()
}
