//! An instance as a pod: the Kubernetes lifecycle, and the supervision of its processes.

pub mod machine;
pub mod simulate;
pub mod version;
