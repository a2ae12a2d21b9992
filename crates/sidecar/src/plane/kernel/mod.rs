//! The kernel as a plane: what a plan wants of an interface, carried out by HTB, netem and routes.
//!
//! On an interface lies, from the outside in: a token bucket that holds nobody up and cuts super-packets where a shape acts on
//! each packet; in it a tree of classes, and programs that put packets into them; below each class a netem. What is wanted is a
//! value ([`Wanted`]), what is in force is read from the kernel, and only the difference is sent.
//!
//! Which interfaces there are, and what connects them, belongs to the reactors.

use testground_linux::tc::Handle;

pub use carry::Pacing;
pub use interface::{Counters, Interface, KernelError, Others};
pub use refusal::{Abilities, Wishes, refusals, unsupported};
pub use wanted::{ClassKey, Wanted, Way};

mod arrivals;
mod carry;
mod interface;
mod program;
mod refusal;
mod state;
mod tree;
mod wanted;

/// The bucket at an interface's root: `7467:`, "tg".
pub const ROOT: Handle = Handle::new(0x7467, 0);
/// The tree of classes below it: `7468:`.
pub const TREE: Handle = Handle::new(0x7468, 0);
