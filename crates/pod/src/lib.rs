//! An instance as a pod: the Kubernetes lifecycle, and the supervision of its processes.

pub mod explain;
pub mod load;
pub mod machine;
pub mod render;
pub mod resources;
pub mod simulate;
pub mod validate;
pub mod version;
