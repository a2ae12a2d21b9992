//! Which class a packet belongs to, as programs for the kernel's classifier (classic BPF, linux/filter.h): a binary search
//! over the addresses, so that thousands of prefixes are looked up as quickly as a few.
//!
//! What a class does, and which prefixes there are, is not known here.

use std::net::IpAddr;

use ipnet::IpNet;
use testground_linux::tc::BpfInstruction;

use super::TREE;

/// The instructions of one filter.
pub(super) type Program = Vec<BpfInstruction>;

/// A class by its minor number; 0: the packet passes unshaped.
pub(super) type Minor = u16;

/// Which end of a packet a table is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Where it goes.
    Destination,
    /// Where it comes from.
    Source,
}

/// What the search ends with; none: another program knows.
type Verdict = Option<Minor>;
/// From this address on, up to the next one.
type Break = (u128, Verdict);

/// Most instructions of a program. The kernel takes 4,096, but what it tells of a filter has to fit into 32 KiB.
const MOST: usize = 2000;

/// The programs for a table of prefixes, of which the longest that an address is in counts; addresses in none pass unshaped.
/// No two of the programs know the same address. ARP and neighbour discovery pass unshaped, as does all that is not IP.
pub(super) fn compile(table: &[(IpNet, Minor)], end: End) -> Vec<Program> {
    let mut programs = Vec::new();
    for family in [Family::V4, Family::V6] {
        let breaks = family.breaks(table);
        // Where everything passes unshaped no program has to say so.
        if breaks.iter().any(|(_, minor)| *minor != Some(0)) {
            family.slices(&breaks, end, &mut programs);
        }
    }
    programs
}

/// The class that programs put a packet to, or from, an address into; none when no program knows it.
pub(super) fn look_up(programs: &[Program], address: IpAddr, end: End) -> Option<Minor> {
    let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
    let mut frame = vec![0; 14 + 40];
    frame[12..14].copy_from_slice(&family.ethertype().to_be_bytes());
    let at = 14 + family.offset(end) as usize;
    match address {
        IpAddr::V4(v4) => frame[at..at + 4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => frame[at..at + 16].copy_from_slice(&v6.octets()),
    }
    programs
        .iter()
        .map(|program| run(program, &frame))
        .find(|answer| *answer != 0)
        .map(|answer| answer as Minor)
}

#[derive(Debug, Clone, Copy)]
enum Family {
    V4,
    V6,
}

/// What lies behind a value of one word of an address.
enum Content {
    Verdict(Verdict),
    /// The next word decides.
    Deeper(Vec<Break>),
}

// === impl Family ===

impl Family {
    fn ethertype(self) -> u16 {
        match self {
            Family::V4 => 0x0800,
            Family::V6 => 0x86dd,
        }
    }

    fn words(self) -> u32 {
        match self {
            Family::V4 => 1,
            Family::V6 => 4,
        }
    }

    /// Where the address is, in bytes from the start of the IP header.
    fn offset(self, end: End) -> u32 {
        match (self, end) {
            (Family::V4, End::Source) => 12,
            (Family::V4, End::Destination) => 16,
            (Family::V6, End::Source) => 8,
            (Family::V6, End::Destination) => 24,
        }
    }

    /// The first and the last address of a prefix; none for the other family.
    fn range(self, net: &IpNet) -> Option<(u128, u128)> {
        match (self, net) {
            (Family::V4, IpNet::V4(net)) => {
                Some((u32::from(net.network()).into(), u32::from(net.broadcast()).into()))
            }
            (Family::V6, IpNet::V6(net)) => Some((net.network().into(), net.broadcast().into())),
            _ => None,
        }
    }

    /// The table as a line of addresses: what holds from each break on.
    fn breaks(self, table: &[(IpNet, Minor)]) -> Vec<Break> {
        let mut ranges: Vec<(u128, u128, Minor)> = table
            .iter()
            .filter_map(|(net, minor)| self.range(net).map(|(first, last)| (first, last, *minor)))
            .collect();
        // A prefix before those within it.
        ranges.sort_by_key(|(first, last, _)| (*first, std::cmp::Reverse(*last)));
        let most = if self.words() == 1 { u128::from(u32::MAX) } else { u128::MAX };
        let mut breaks: Vec<Break> = vec![(0, Some(0))];
        let mut around: Vec<(u128, Minor)> = vec![(most, 0)];
        let outer = |around: &[(u128, Minor)]| around.last().map_or(0, |(_, minor)| *minor);
        for (first, last, minor) in ranges {
            while let Some((end, _)) = around.pop_if(|(end, _)| *end < first) {
                put(&mut breaks, end + 1, outer(&around));
            }
            put(&mut breaks, first, minor);
            around.push((last, minor));
        }
        while let Some((end, _)) = around.pop() {
            if end < most {
                put(&mut breaks, end + 1, outer(&around));
            }
        }
        breaks
    }

    /// One program, or several that know a part of the addresses each.
    fn slices(self, breaks: &[Break], end: End, programs: &mut Vec<Program>) {
        let mut program = self.head();
        program.extend(search_word(breaks, self.words(), self.offset(end)));
        if program.len() <= MOST || breaks.len() < 4 {
            return programs.push(program);
        }
        let (left, right) = breaks.split_at(breaks.len() / 2);
        let left: Vec<Break> = left.iter().copied().chain([(right[0].0, None)]).collect();
        let right: Vec<Break> = std::iter::once((0, None)).chain(right.iter().copied()).collect();
        self.slices(&left, end, programs);
        self.slices(&right, end, programs);
    }

    /// Ends the program for packets of another family, and for neighbour discovery; X is where the IP header begins.
    fn head(self) -> Program {
        let mut program = vec![
            step(LDX_IMMEDIATE, 14),
            step(LD_HALF, 12),
            jump(JEQ, 0x8100, 1, 0),
            jump(JEQ, 0x88a8, 0, 2),
            // A VLAN's tag lies before the type.
            step(LDX_IMMEDIATE, 18),
            step(LD_HALF, 16),
            jump(JEQ, self.ethertype().into(), 1, 0),
            step(RETURN, 0),
        ];
        if let Family::V6 = self {
            program.extend([
                step(LD_BYTE_AT_X, 6),
                jump(JEQ, ICMPV6, 0, 4),
                step(LD_BYTE_AT_X, 40),
                jump(JGE, ND_FIRST, 0, 2),
                jump(JGT, ND_LAST, 1, 0),
                verdict(Some(0)),
            ]);
        }
        program
    }
}

fn put(breaks: &mut Vec<Break>, at: u128, minor: Minor) {
    if breaks.last().is_some_and(|(last, _)| *last == at) {
        breaks.pop();
    }
    if breaks.last().is_none_or(|(_, before)| *before != Some(minor)) {
        breaks.push((at, Some(minor)));
    }
}

/// Looks for the break that counts among addresses of so many words, the first of which lies at this offset.
fn search_word(breaks: &[Break], words: u32, offset: u32) -> Program {
    if let [(_, only)] = breaks {
        return vec![verdict(*only)];
    }
    let below = 32 * (words - 1);
    let high = |at: u128| (at >> below) as u32;
    let low = |at: u128| at & ((1 << below) - 1);
    let mut segments: Vec<(u32, Content)> = Vec::new();
    let mut before: Verdict = None;
    let mut rest = breaks;
    while let Some((first, _)) = rest.first() {
        let value = high(*first);
        let (here, behind) = rest.split_at(rest.partition_point(|(at, _)| high(*at) == value));
        let mut inside: Vec<Break> = here.iter().map(|(at, verdict)| (low(*at), *verdict)).collect();
        if inside[0].0 != 0 {
            inside.insert(0, (0, before));
        }
        before = inside.last().and_then(|(_, verdict)| *verdict);
        match inside[..] {
            [(_, only)] => segments.push((value, Content::Verdict(only))),
            _ => {
                segments.push((value, Content::Deeper(inside)));
                let next = value.checked_add(1);
                if let Some(next) =
                    next.filter(|next| behind.first().is_none_or(|(at, _)| high(*at) != *next))
                {
                    segments.push((next, Content::Verdict(before)));
                }
            }
        }
        rest = behind;
    }
    let mut program = vec![step(LD_WORD_AT_X, offset)];
    program.extend(search_segments(&segments, words, offset));
    program
}

fn search_segments(segments: &[(u32, Content)], words: u32, offset: u32) -> Program {
    match segments {
        [] => vec![verdict(None)],
        [(_, Content::Verdict(only))] => vec![verdict(*only)],
        [(_, Content::Deeper(breaks))] => search_word(breaks, words - 1, offset + 4),
        _ => {
            let (left, right) = segments.split_at(segments.len() / 2);
            let from = right[0].0;
            let left = search_segments(left, words, offset);
            let mut program = match u8::try_from(left.len()) {
                Ok(near) => vec![jump(JGE, from, near, 0)],
                // A test jumps over 255 instructions at most, an unconditional jump over any number.
                Err(_) => vec![jump(JGE, from, 0, 1), step(JUMP, left.len() as u32)],
            };
            program.extend(left);
            program.extend(search_segments(right, words, offset));
            program
        }
    }
}

fn verdict(verdict: Verdict) -> BpfInstruction {
    step(RETURN, verdict.map_or(0, |minor| TREE.0 | u32::from(minor)))
}

fn step(code: u16, operand: u32) -> BpfInstruction {
    BpfInstruction { code, jump_true: 0, jump_false: 0, operand }
}

fn jump(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> BpfInstruction {
    BpfInstruction { code, jump_true, jump_false, operand }
}

/// What the kernel would answer, for the instructions that are used here.
fn run(program: &[BpfInstruction], frame: &[u8]) -> u32 {
    let (mut a, mut x, mut at) = (0u32, 0u32, 0usize);
    let load = |from: u32, bytes: usize| {
        let bytes = frame.get(from as usize..from as usize + bytes)?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    };
    while let Some(BpfInstruction { code, jump_true, jump_false, operand }) = program.get(at).copied() {
        at += 1;
        let branch = |holds: bool| usize::from(if holds { jump_true } else { jump_false });
        let loaded = match code {
            LDX_IMMEDIATE => {
                x = operand;
                continue;
            }
            LD_HALF => load(operand, 2),
            LD_BYTE_AT_X => load(x.wrapping_add(operand), 1),
            LD_WORD_AT_X => load(x.wrapping_add(operand), 4),
            JEQ => {
                at += branch(a == operand);
                continue;
            }
            JGE => {
                at += branch(a >= operand);
                continue;
            }
            JGT => {
                at += branch(a > operand);
                continue;
            }
            JUMP => {
                at += operand as usize;
                continue;
            }
            RETURN => return operand,
            _ => return 0,
        };
        // A load past the end ends a program with 0.
        match loaded {
            Some(loaded) => a = loaded,
            None => return 0,
        }
    }
    0
}

const LDX_IMMEDIATE: u16 = 0x01;
const LD_HALF: u16 = 0x28;
const LD_WORD_AT_X: u16 = 0x40;
const LD_BYTE_AT_X: u16 = 0x50;
const JUMP: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const RETURN: u16 = 0x06;
/// Router solicitation to redirect (RFC 4861, 4).
const ND_FIRST: u32 = 133;
const ND_LAST: u32 = 137;
const ICMPV6: u32 = 58;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    /// What the longest prefix says.
    fn expected(table: &[(IpNet, Minor)], address: IpAddr) -> Minor {
        let of = table.iter().filter(|(net, _)| net.contains(&address));
        of.max_by_key(|(net, _)| net.prefix_len()).map_or(0, |(_, minor)| *minor)
    }

    fn agree(table: &[(IpNet, Minor)], programs: &[Program], address: IpAddr, end: End) {
        let found = look_up(programs, address, end).unwrap_or(0);
        assert_eq!(found, expected(table, address), "{address} in {table:?}");
    }

    #[test]
    fn nothing_to_tell_apart_needs_no_program() {
        assert_eq!(compile(&[], End::Destination), Vec::<Program>::new());
        assert_eq!(
            compile(&[(net("0.0.0.0/0"), 0), (net("::/0"), 0)], End::Destination),
            Vec::<Program>::new()
        );
    }

    #[test]
    fn four_thousand_rules_are_several_programs_and_a_dozen_comparisons() {
        let rule = |n: u32| (IpNet::from(IpAddr::from(Ipv4Addr::from(0x1000_0000 + 2 * n))), n as Minor + 1);
        let table: Vec<_> = (0..4096).map(rule).chain([(net("0.0.0.0/0"), 5000)]).collect();
        let programs = compile(&table, End::Destination);
        assert!((2..20).contains(&programs.len()), "{}", programs.len());
        assert!(programs.iter().all(|program| program.len() <= MOST));
        for n in 0..4096 {
            agree(&table, &programs, Ipv4Addr::from(0x1000_0000 + 2 * n).into(), End::Destination);
            agree(&table, &programs, Ipv4Addr::from(0x1000_0000 + 2 * n + 1).into(), End::Destination);
        }
    }

    #[test]
    fn arp_and_neighbour_discovery_pass_and_a_tag_hides_nothing() {
        let table = [(net("0.0.0.0/0"), 7), (net("::/0"), 8)];
        let programs = compile(&table, End::Destination);
        let answer = |frame: &[u8]| programs.iter().map(|p| run(p, frame)).find(|answer| *answer != 0);
        let mut frame = vec![0u8; 64];
        frame[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(answer(&frame), None, "ARP");
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        (frame[20], frame[54]) = (58, 135);
        assert_eq!(answer(&frame), Some(TREE.0), "a neighbour solicitation");
        frame[54] = 128;
        assert_eq!(answer(&frame), Some(TREE.0 | 8), "an echo request");
        frame[12..18].copy_from_slice(&[0x81, 0, 0, 5, 0x08, 0]);
        assert_eq!(answer(&frame), Some(TREE.0 | 7));
        assert_eq!(answer(&frame[..13]), None, "too short to say what it is");
    }

    /// Prefixes that are close together, so that they lie within each other.
    fn prefix() -> impl Strategy<Value = IpNet> {
        let v4 = (0u32..64, 24u8..=32).prop_map(|(host, len)| {
            IpNet::new(IpAddr::V4(Ipv4Addr::from(0x1000_0000 + host * 3)), len).unwrap().trunc()
        });
        let v6 = (0u128..16, prop::sample::select(vec![0u32, 32, 60, 64, 96]), 0u8..=128).prop_map(
            |(host, shift, len)| {
                IpNet::new(IpAddr::V6(Ipv6Addr::from((0xfd00 << 112) + (host << shift))), len)
                    .unwrap()
                    .trunc()
            },
        );
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn programs_say_what_the_longest_prefix_says(
            prefixes in prop::collection::btree_map(prefix(), 0u16..9, 0..40),
        ) {
            let table: Vec<(IpNet, Minor)> = prefixes.into_iter().collect();
            let programs = [End::Destination, End::Source].map(|end| (end, compile(&table, end)));
            let ends = table.iter().flat_map(|(net, _)| [net.network(), net.broadcast()]);
            let beside = ends.flat_map(|end| match end {
                IpAddr::V4(v4) => {
                    [-1i64, 0, 1].map(|d| IpAddr::from(Ipv4Addr::from((i64::from(u32::from(v4)) + d) as u32))).to_vec()
                }
                IpAddr::V6(v6) => {
                    let n = u128::from(v6);
                    [n.wrapping_sub(1), n, n.wrapping_add(1)].map(|n| IpAddr::from(Ipv6Addr::from(n))).to_vec()
                }
            });
            for address in beside {
                for (end, programs) in &programs {
                    agree(&table, programs, address, *end);
                }
            }
        }
    }
}
