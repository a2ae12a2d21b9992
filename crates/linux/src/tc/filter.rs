//! Filters: which class a packet belongs to, or where it is sent instead (tc-u32(8), tc-flower(8), tc-bpf(8), tc-mirred(8)).

use std::net::IpAddr;

use ipnet::IpNet;

use super::Handle;
use super::attributes::{Attributes, Walk, text, word, words_of};

/// How packets are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Every packet.
    MatchAll {
        /// What becomes of it.
        target: Target,
    },
    /// By bits at fixed places; the filters of one priority are tried one after the other, unless they lie in tables.
    U32 {
        /// What must match, all of it.
        keys: Vec<U32Key>,
        /// What becomes of a match.
        target: U32Target,
        /// The bucket of a table in which the filter lies; none: the root table.
        bucket: Option<U32Bucket>,
    },
    /// A table of u32 filters, looked up by some bits of the packet: what makes thousands of filters as quick as a few. It is
    /// reached by a filter whose target is [`U32Target::Table`].
    U32Table {
        /// Its number, 1 to 0x7ff.
        table: u16,
        /// How many buckets it has: a power of two up to 256.
        buckets: u16,
    },
    /// By addresses, in a hash table for each combination of prefix lengths.
    Flower {
        /// Source network.
        source: Option<IpNet>,
        /// Destination network; of the same family as the source.
        destination: Option<IpNet>,
        /// What becomes of a match.
        target: Target,
    },
    /// By a program of the classic kind (linux/filter.h), which needs no power over the machine. It answers 0 for "no match",
    /// -1 for a match, or a class as its handle's number.
    Bpf {
        /// Its instructions, 4,096 at most.
        program: Vec<BpfInstruction>,
        /// What becomes of a match; a class that the program names itself goes before the one here.
        target: Target,
    },
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// It belongs to this class.
    Class(Handle),
    /// It leaves by this interface instead (mirred).
    Redirect {
        /// The interface's index; an IFB device, say.
        index: u32,
    },
    /// It arrives at this interface instead (mirred; Linux 4.10 and newer).
    Deliver {
        /// The interface's index.
        index: u32,
    },
}

/// What becomes of a packet that a u32 filter matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum U32Target {
    /// As with other filters.
    Is(Target),
    /// It is looked up in a table.
    Table {
        /// The table's number.
        table: u16,
        /// Where the bits for the lookup are: a multiple of 4, in bytes from the start of the IP header.
        offset: u16,
        /// Which bits of the 32 there. Those of the lowest byte that has any choose the bucket.
        mask: u32,
    },
}

/// A bucket of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct U32Bucket {
    /// The table's number; 0x800 is the root table.
    pub table: u16,
    /// The bucket's number.
    pub bucket: u8,
    /// Where in the bucket, 1 to 0xfff: lower numbers are tried first. 0: behind those there, at 0x800 or above while there is room.
    pub place: u16,
}

/// Bits that must have a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct U32Key {
    /// The value, in host order.
    pub value: u32,
    /// Which bits of the 32.
    pub mask: u32,
    /// Where they are: a multiple of 4, in bytes from the start of the IP header. The Ethernet header is before it, at -14.
    pub offset: i16,
}

/// An instruction of a classic program (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BpfInstruction {
    /// What it does.
    pub code: u16,
    /// How many instructions it skips when its test is true.
    pub jump_true: u8,
    /// How many it skips when it is false.
    pub jump_false: u8,
    /// Its operand.
    pub operand: u32,
}

impl U32Bucket {
    /// The number that a filter at this place is listed with.
    pub fn handle(self) -> u32 {
        u32::from(self.table) << 20 | u32::from(self.bucket) << 12 | u32::from(self.place)
    }
}

impl U32Key {
    /// The keys for packets to a network. A network of everything needs none, and one that never fails stands in.
    pub fn destination(network: IpNet) -> Vec<Self> {
        Self::address(network, 16, 24)
    }

    /// The keys for packets from a network.
    pub fn source(network: IpNet) -> Vec<Self> {
        Self::address(network, 12, 8)
    }

    /// The keys for packets to a hardware address.
    pub fn hardware([a, b, c, d, e, f]: [u8; 6]) -> [Self; 2] {
        let value = u32::from_be_bytes([0, 0, a, b]);
        [
            Self { value, mask: 0x0000_ffff, offset: -16 },
            Self { value: u32::from_be_bytes([c, d, e, f]), mask: u32::MAX, offset: -12 },
        ]
    }

    fn address(network: IpNet, v4_at: i16, v6_at: i16) -> Vec<Self> {
        let (address, mask, at) = match network {
            IpNet::V4(net) => (net.network().octets().to_vec(), net.netmask().octets().to_vec(), v4_at),
            IpNet::V6(net) => (net.network().octets().to_vec(), net.netmask().octets().to_vec(), v6_at),
        };
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
        let keys: Vec<Self> = address
            .chunks(4)
            .zip(mask.chunks(4))
            .enumerate()
            .map(|(at_word, (value, mask))| Self {
                value: word(value),
                mask: word(mask),
                offset: at + 4 * at_word as i16,
            })
            .filter(|key| key.mask != 0)
            .collect();
        if keys.is_empty() { vec![Self { value: 0, mask: 0, offset: 0 }] } else { keys }
    }
}

impl Filter {
    /// The kernel's name for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::MatchAll { .. } => "matchall",
            Self::U32 { .. } | Self::U32Table { .. } => "u32",
            Self::Flower { .. } => "flower",
            Self::Bpf { .. } => "bpf",
        }
    }

    /// The handle that it must be created with, where that says what it is.
    pub(super) fn handle(&self) -> u32 {
        match self {
            Self::U32Table { table, .. } => u32::from(*table) << 20,
            Self::U32 { bucket: Some(bucket), .. } if bucket.place != 0 => bucket.handle(),
            _ => 0,
        }
    }

    pub(super) fn options(&self) -> Attributes {
        let mut options = Attributes::default();
        match self {
            Self::MatchAll { target } => target.write(&mut options, TCA_MATCHALL_CLASSID, TCA_MATCHALL_ACT),
            Self::U32Table { buckets, .. } => {
                options.u32(TCA_U32_DIVISOR, (*buckets).into());
            }
            Self::U32 { keys, target, bucket } => {
                let (mut flags, mut hash_offset, mut hash_mask) = (TC_U32_TERMINAL, 0, 0);
                match target {
                    U32Target::Is(target) => target.write(&mut options, TCA_U32_CLASSID, TCA_U32_ACT),
                    U32Target::Table { table, offset, mask } => {
                        options.u32(TCA_U32_LINK, u32::from(*table) << 20);
                        (flags, hash_offset, hash_mask) = (0, *offset, *mask);
                    }
                }
                if let Some(bucket) = bucket {
                    options.u32(TCA_U32_HASH, U32Bucket { place: 0, ..*bucket }.handle());
                }
                options.bytes(TCA_U32_SEL, &selector(keys, flags, hash_offset, hash_mask));
            }
            Self::Flower { source, destination, target } => {
                let mut family = None;
                for (network, v4, v6) in [
                    (source, (TCA_FLOWER_KEY_IPV4_SRC, TCA_FLOWER_KEY_IPV4_SRC + 1), TCA_FLOWER_KEY_IPV6_SRC),
                    (
                        destination,
                        (TCA_FLOWER_KEY_IPV4_DST, TCA_FLOWER_KEY_IPV4_DST + 1),
                        TCA_FLOWER_KEY_IPV6_DST,
                    ),
                ] {
                    let Some(network) = network else { continue };
                    let (value, mask) = if network.addr().is_ipv4() { v4 } else { (v6, v6 + 1) };
                    options.bytes(value, &octets(network.network())).bytes(mask, &octets(network.netmask()));
                    family = Some(*network);
                }
                target.write(&mut options, TCA_FLOWER_CLASSID, TCA_FLOWER_ACT);
                options.u32(TCA_FLOWER_FLAGS, 0);
                if let Some(network) = family {
                    let ethertype = if network.addr().is_ipv4() { ETH_P_IP } else { ETH_P_IPV6 };
                    options.bytes(TCA_FLOWER_KEY_ETH_TYPE, &ethertype.to_be_bytes());
                }
            }
            Self::Bpf { program, target } => {
                let bytes: Vec<u8> = program
                    .iter()
                    .flat_map(|instruction| {
                        let [code_low, code_high] = instruction.code.to_ne_bytes();
                        let [a, b, c, d] = instruction.operand.to_ne_bytes();
                        [code_low, code_high, instruction.jump_true, instruction.jump_false, a, b, c, d]
                    })
                    .collect();
                target.write(&mut options, TCA_BPF_CLASSID, TCA_BPF_ACT);
                options.u16(TCA_BPF_OPS_LEN, program.len() as u16).bytes(TCA_BPF_OPS, &bytes);
            }
        }
        options
    }
}

impl Target {
    fn write(self, options: &mut Attributes, class_kind: u16, action_kind: u16) {
        let (what, index) = match self {
            Self::Class(class) => {
                options.u32(class_kind, class.0);
                return;
            }
            Self::Redirect { index } => (TCA_EGRESS_REDIR, index),
            Self::Deliver { index } => (TCA_INGRESS_REDIR, index),
        };
        let mut parameters = Attributes::default();
        // struct tc_mirred: number, capabilities, verdict, two counts of references, what to do, and where to.
        parameters.bytes(TCA_MIRRED_PARMS, &words_of(&[0, 0, TC_ACT_STOLEN, 0, 0, what, index]));
        let mut action = Attributes::default();
        action.text(TCA_ACT_KIND, "mirred").marked(TCA_ACT_OPTIONS, &parameters);
        let mut actions = Attributes::default();
        actions.bytes(FIRST_ACTION, action.as_bytes());
        options.bytes(action_kind, actions.as_bytes());
    }

    /// The redirection that a filter's actions are, from a dump; none where they are anything else.
    pub(super) fn of_actions(actions: &[u8]) -> Option<Self> {
        let find = |bytes, wanted| Walk(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let action = find(actions, FIRST_ACTION)?;
        if text(find(action, TCA_ACT_KIND)?) != "mirred" {
            return None;
        }
        let parameters = find(find(action, TCA_ACT_OPTIONS)?, TCA_MIRRED_PARMS)?;
        let index = word(parameters, 6);
        match word(parameters, 5) {
            TCA_EGRESS_REDIR => Some(Self::Redirect { index }),
            TCA_INGRESS_REDIR => Some(Self::Deliver { index }),
            _ => None,
        }
    }
}

/// `struct tc_u32_sel` with its keys; masks and values are in network order.
fn selector(keys: &[U32Key], flags: u8, hash_offset: u16, hash_mask: u32) -> Vec<u8> {
    let mut bytes = vec![flags, 0, keys.len() as u8, 0];
    // Where the next header starts: not used.
    bytes.extend([0; 6]);
    bytes.extend(hash_offset.to_ne_bytes());
    bytes.extend(hash_mask.to_be_bytes());
    for key in keys {
        bytes.extend(key.mask.to_be_bytes());
        bytes.extend(key.value.to_be_bytes());
        bytes.extend(i32::from(key.offset).to_ne_bytes());
        bytes.extend([0; 4]);
    }
    bytes
}

/// A program from the bytes in which the kernel has it (`struct sock_filter`).
pub(super) fn instructions(bytes: &[u8]) -> Vec<BpfInstruction> {
    let instruction = |bytes: &[u8; 8]| BpfInstruction {
        code: u16::from_ne_bytes([bytes[0], bytes[1]]),
        jump_true: bytes[2],
        jump_false: bytes[3],
        operand: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    };
    bytes.as_chunks().0.iter().map(instruction).collect()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

// linux/pkt_cls.h, linux/tc_act/tc_mirred.h, linux/if_ether.h
const TCA_MATCHALL_CLASSID: u16 = 1;
pub(super) const TCA_MATCHALL_ACT: u16 = 2;
pub(super) const TCA_U32_CLASSID: u16 = 1;
const TCA_U32_HASH: u16 = 2;
const TCA_U32_LINK: u16 = 3;
pub(super) const TCA_U32_DIVISOR: u16 = 4;
const TCA_U32_SEL: u16 = 5;
pub(super) const TCA_U32_ACT: u16 = 7;
const TC_U32_TERMINAL: u8 = 1;
pub(super) const TCA_FLOWER_CLASSID: u16 = 1;
pub(super) const TCA_FLOWER_ACT: u16 = 3;
const TCA_FLOWER_KEY_ETH_TYPE: u16 = 8;
const TCA_FLOWER_KEY_IPV4_SRC: u16 = 10;
const TCA_FLOWER_KEY_IPV4_DST: u16 = 12;
const TCA_FLOWER_KEY_IPV6_SRC: u16 = 14;
const TCA_FLOWER_KEY_IPV6_DST: u16 = 16;
const TCA_FLOWER_FLAGS: u16 = 22;
pub(super) const TCA_BPF_ACT: u16 = 1;
pub(super) const TCA_BPF_CLASSID: u16 = 3;
const TCA_BPF_OPS_LEN: u16 = 4;
pub(super) const TCA_BPF_OPS: u16 = 5;
pub(super) const FIRST_ACTION: u16 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TC_ACT_STOLEN: u32 = 4;
const TCA_EGRESS_REDIR: u32 = 1;
const TCA_INGRESS_REDIR: u32 = 3;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
