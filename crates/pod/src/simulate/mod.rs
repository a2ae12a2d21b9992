//! A pod in virtual time: a script says how its containers behave, the machine what the engine does, and all of it is
//! recorded in a timeline.

pub mod timeline;
