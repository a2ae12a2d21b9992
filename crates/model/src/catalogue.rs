//! The builders and runners there are, what goes with what, and the settings each one reads.
//!
//! One table, so that a new builder is one line. What a builder does with its settings belongs in the engine.

/// A builder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Builder {
    /// Its name in manifests and compositions.
    pub name: &'static str,
    /// Whether it can be used by now.
    pub ready: bool,
    /// The settings that it reads from `build_config`.
    pub settings: &'static [&'static str],
}

/// A runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runner {
    /// Its name in manifests and compositions.
    pub name: &'static str,
    /// Whether it can be used by now.
    pub ready: bool,
    /// The builders whose artifacts it runs.
    pub builders: &'static [&'static str],
}

/// Every builder.
pub const BUILDERS: [Builder; 7] = [
    Builder { name: "exec:generic", ready: true, settings: &["build", "program", "sources"] },
    Builder {
        name: "exec:go",
        ready: true,
        settings: &["path", "module_path", "exec_pkg", "fresh_gomod", "modfile", "enable_cgo"],
    },
    Builder { name: "exec:rust", ready: true, settings: &["path", "package", "bin", "features", "profile"] },
    Builder { name: "exec:node", ready: true, settings: &["path", "script"] },
    Builder { name: "docker:go", ready: false, settings: &[] },
    Builder { name: "docker:generic", ready: false, settings: &[] },
    Builder { name: "docker:node", ready: false, settings: &[] },
];

/// Every runner.
pub const RUNNERS: [Runner; 3] = [
    Runner {
        name: "local:exec",
        ready: true,
        builders: &["exec:generic", "exec:go", "exec:rust", "exec:node"],
    },
    Runner { name: "local:docker", ready: false, builders: &["docker:go", "docker:generic", "docker:node"] },
    Runner { name: "cluster:k8s", ready: false, builders: &["docker:go", "docker:generic"] },
];

/// Settings that builders of the original read and those here don't: real files carry them, so they are no mistakes.
pub(crate) const FOREIGN_BUILD_SETTINGS: [&str; 14] = [
    "enabled",
    "base_image",
    "build_args",
    "build_base_image",
    "dockerfile_extensions",
    "enable_cgo",
    "enable_go_build_cache",
    "go_ipfs_version",
    "go_proxy_mode",
    "go_proxy_url",
    "go_version",
    "path",
    "runtime_image",
    "skip_runtime_image",
];

/// The same for runners.
pub(crate) const FOREIGN_RUN_SETTINGS: [&str; 19] = [
    "enabled",
    "disabled",
    "additional_envs",
    "autoscaler_enabled",
    "background",
    "collect_outputs_pod_cpu",
    "collect_outputs_pod_memory",
    "exposed_ports",
    "keep_containers",
    "keep_service",
    "log_level",
    "no_start",
    "outcomes_collection_timeout",
    "provider",
    "run_timeout_min",
    "sysctls",
    "testplan_pod_cpu",
    "testplan_pod_memory",
    "ulimits",
];

/// The builder of that name.
pub fn builder(name: &str) -> Option<&'static Builder> {
    BUILDERS.iter().find(|b| b.name == name)
}

/// The runner of that name.
pub fn runner(name: &str) -> Option<&'static Runner> {
    RUNNERS.iter().find(|r| r.name == name)
}
