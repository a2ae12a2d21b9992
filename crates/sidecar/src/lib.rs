//! The network of the instances: what they ask for, what must be in force, and the planes that carry it.

pub mod address;
pub mod plan;
pub mod plane;
pub mod proof;
pub mod reactor;
pub mod request;
pub mod show;
pub mod timeline;
