//! The planes: who moves the packets. What must be in force is decided above them, in [`crate::plan`].

pub mod kernel;
pub mod switch;
