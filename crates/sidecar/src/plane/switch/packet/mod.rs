//! Frames as bytes: what is in one, how a super-packet is cut into runs of its segments, and which answers the switch
//! makes up itself.
//!
//! A *super-packet* is one frame that stands for many on the wire: the sender's kernel leaves the cutting of a TCP
//! stream or of a row of UDP datagrams to the device. Nothing here knows ports, links or time.

pub mod checksum;
pub mod cut;
pub mod parse;
pub mod reply;
pub mod vnet;

pub use cut::{CutError, Segments, flip_bit, take_run};
pub use parse::{Ip, Layout, Malformed, Network, Transport};
pub use vnet::{Gso, VnetHeader};
