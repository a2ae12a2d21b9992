//! The objects of the API that hold a pod, and their pods.

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job, JobSpec},
        core::v1::{Pod, PodSpec, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Serialize;

use super::{
    decode::{decode, nearest},
    mistake::{Code, Mistake},
    tree::{Node, Position},
};

/// A kind of object that holds a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Kind {
    /// A bare pod.
    Pod,
    /// Pods that run to completion.
    Job,
    /// Jobs by the clock.
    CronJob,
    /// Interchangeable pods.
    Deployment,
    /// What a Deployment makes.
    ReplicaSet,
    /// A pod on each node.
    DaemonSet,
    /// Pods with names of their own.
    StatefulSet,
}

/// An object that holds a pod, and where its parts were written.
#[derive(Clone, Debug)]
pub struct Workload {
    object: Object,
    node: Node,
}

/// The object itself.
#[derive(Clone, Debug)]
pub enum Object {
    /// See [`Kind::Pod`].
    Pod(Box<Pod>),
    /// See [`Kind::Job`].
    Job(Box<Job>),
    /// See [`Kind::CronJob`].
    CronJob(Box<CronJob>),
    /// See [`Kind::Deployment`].
    Deployment(Box<Deployment>),
    /// See [`Kind::ReplicaSet`].
    ReplicaSet(Box<ReplicaSet>),
    /// See [`Kind::DaemonSet`].
    DaemonSet(Box<DaemonSet>),
    /// See [`Kind::StatefulSet`].
    StatefulSet(Box<StatefulSet>),
}

/// Which kind a document says it is of; `Ok(None)` for kinds that hold no pod.
pub(super) fn kind_of(node: &Node) -> Result<Option<Kind>, Mistake> {
    let at = |field: &str| node.entry(field).map_or(node.at, |e| e.value.at);
    let text = |field: &str| node.field(field).and_then(Node::text);
    let Some(name) = text("kind") else {
        let help = match node.field("spec").or_else(|| node.field("metadata")) {
            Some(_) => "add `apiVersion: v1` and `kind: Pod` (or Job, Deployment, ...)",
            None => "a manifest starts with `apiVersion` and `kind`",
        };
        return Err(Mistake::new(Code::Kind, at("kind"), "the document does not say its kind")
            .at_path("kind")
            .with_help(help));
    };
    let version = text("apiVersion");
    let Some(kind) = Kind::ALL.into_iter().find(|k| k.name() == name) else {
        let near = nearest(name, Kind::ALL.iter().map(|k| k.name())).filter(|_| !OTHERS.contains(&name));
        // A kind one letter away from one of ours, with our version, is a slip; any other is simply not a pod.
        return match near.and_then(|n| Kind::ALL.into_iter().find(|k| k.name() == n)) {
            Some(k) if version.is_none_or(|v| v == k.api_version()) => {
                Err(Mistake::new(Code::Kind, at("kind"), format!("there is no kind `{name}`"))
                    .at_path("kind")
                    .with_help(format!("did you mean `{}`?", k.name())))
            }
            _ => Ok(None),
        };
    };
    match version {
        Some(v) if v == kind.api_version() => Ok(Some(kind)),
        found => {
            let message = match found {
                Some(v) => format!("no matches for kind \"{name}\" in version \"{v}\""),
                None => format!("a {name} needs its apiVersion"),
            };
            Err(Mistake::new(Code::Kind, at("apiVersion"), message)
                .at_path("apiVersion")
                .with_help(format!("write `apiVersion: {}`", kind.api_version())))
        }
    }
}

/// Kinds of the API whose names are near to those of ours.
const OTHERS: [&str; 3] = ["PodTemplate", "PodList", "JobList"];

// === impl Kind ===

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Pod,
        Self::Job,
        Self::CronJob,
        Self::Deployment,
        Self::ReplicaSet,
        Self::DaemonSet,
        Self::StatefulSet,
    ];

    /// The name in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
            Self::Deployment => "Deployment",
            Self::ReplicaSet => "ReplicaSet",
            Self::DaemonSet => "DaemonSet",
            Self::StatefulSet => "StatefulSet",
        }
    }

    /// The group of the API, empty for the core.
    pub fn group(self) -> &'static str {
        match self {
            Self::Pod => "",
            Self::Job | Self::CronJob => "batch",
            Self::Deployment | Self::ReplicaSet | Self::DaemonSet | Self::StatefulSet => "apps",
        }
    }

    /// `apiVersion` as a manifest has it.
    pub fn api_version(self) -> &'static str {
        match self.group() {
            "" => "v1",
            "batch" => "batch/v1",
            _ => "apps/v1",
        }
    }

    /// The kind as the API server names it in messages: `Deployment.apps`.
    pub fn qualified(self) -> String {
        match self.group() {
            "" => self.name().to_owned(),
            group => format!("{}.{group}", self.name()),
        }
    }

    /// Whether its pods run to completion.
    pub fn is_job(self) -> bool {
        matches!(self, Self::Job | Self::CronJob)
    }

    /// The path of the pod's spec in the object.
    pub fn spec_path(self) -> &'static str {
        match self {
            Self::Pod => "spec",
            Self::CronJob => "spec.jobTemplate.spec.template.spec",
            _ => "spec.template.spec",
        }
    }

    /// The path of the pod's metadata in the object.
    pub fn metadata_path(self) -> &'static str {
        match self {
            Self::Pod => "metadata",
            Self::CronJob => "spec.jobTemplate.spec.template.metadata",
            _ => "spec.template.metadata",
        }
    }
}

// === impl Workload ===

impl Workload {
    pub(super) fn decode(kind: Kind, node: Node, mistakes: &mut Vec<Mistake>) -> Option<Self> {
        let object = match kind {
            Kind::Pod => Object::Pod(decode(&node, mistakes)?),
            Kind::Job => Object::Job(decode(&node, mistakes)?),
            Kind::CronJob => Object::CronJob(decode(&node, mistakes)?),
            Kind::Deployment => Object::Deployment(decode(&node, mistakes)?),
            Kind::ReplicaSet => Object::ReplicaSet(decode(&node, mistakes)?),
            Kind::DaemonSet => Object::DaemonSet(decode(&node, mistakes)?),
            Kind::StatefulSet => Object::StatefulSet(decode(&node, mistakes)?),
        };
        let mut workload = Self { object, node };
        workload.spec_slot();
        Some(workload)
    }

    /// What kind of object this is.
    pub fn kind(&self) -> Kind {
        match self.object {
            Object::Pod(_) => Kind::Pod,
            Object::Job(_) => Kind::Job,
            Object::CronJob(_) => Kind::CronJob,
            Object::Deployment(_) => Kind::Deployment,
            Object::ReplicaSet(_) => Kind::ReplicaSet,
            Object::DaemonSet(_) => Kind::DaemonSet,
            Object::StatefulSet(_) => Kind::StatefulSet,
        }
    }

    /// The object.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// The object's own metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match &self.object {
            Object::Pod(o) => &o.metadata,
            Object::Job(o) => &o.metadata,
            Object::CronJob(o) => &o.metadata,
            Object::Deployment(o) => &o.metadata,
            Object::ReplicaSet(o) => &o.metadata,
            Object::DaemonSet(o) => &o.metadata,
            Object::StatefulSet(o) => &o.metadata,
        }
    }

    /// The object's name; its `generateName` with a star when it has none; `(unnamed)` without either.
    pub fn name(&self) -> String {
        let metadata = self.metadata();
        match (&metadata.name, &metadata.generate_name) {
            (Some(name), _) => name.clone(),
            (None, Some(prefix)) => format!("{prefix}*"),
            (None, None) => "(unnamed)".to_owned(),
        }
    }

    /// `job/web`, as `kubectl` names things.
    pub fn title(&self) -> String {
        format!("{}/{}", self.kind().name().to_lowercase(), self.name())
    }

    /// The spec of its pods.
    pub fn spec(&self) -> &PodSpec {
        match &self.object {
            Object::Pod(o) => o.spec.as_ref(),
            Object::Job(o) => o.spec.as_ref().and_then(|s| s.template.spec.as_ref()),
            Object::CronJob(o) => o.spec.job_template.spec.as_ref().and_then(|s| s.template.spec.as_ref()),
            Object::Deployment(o) => o.spec.template.spec.as_ref(),
            Object::ReplicaSet(o) => o.spec.template.as_ref().and_then(|t| t.spec.as_ref()),
            Object::DaemonSet(o) => o.spec.template.spec.as_ref(),
            Object::StatefulSet(o) => o.spec.template.spec.as_ref(),
        }
        .unwrap_or(&EMPTY)
    }

    /// The spec of its pods, to be changed; made when there is none.
    pub(crate) fn spec_slot(&mut self) -> &mut PodSpec {
        match &mut self.object {
            Object::Pod(o) => o.spec.get_or_insert_default(),
            Object::Job(o) => o.spec.get_or_insert_default().template.spec.get_or_insert_default(),
            Object::CronJob(o) => {
                let job = o.spec.job_template.spec.get_or_insert_default();
                job.template.spec.get_or_insert_default()
            }
            Object::Deployment(o) => o.spec.template.spec.get_or_insert_default(),
            Object::ReplicaSet(o) => {
                let template = o.spec.template.get_or_insert_default();
                template.spec.get_or_insert_default()
            }
            Object::DaemonSet(o) => o.spec.template.spec.get_or_insert_default(),
            Object::StatefulSet(o) => o.spec.template.spec.get_or_insert_default(),
        }
    }

    /// The template of its pods; `None` for a bare pod.
    pub fn template(&self) -> Option<&PodTemplateSpec> {
        match &self.object {
            Object::Pod(_) => None,
            Object::Job(o) => o.spec.as_ref().map(|s| &s.template),
            Object::CronJob(o) => o.spec.job_template.spec.as_ref().map(|s| &s.template),
            Object::Deployment(o) => Some(&o.spec.template),
            Object::ReplicaSet(o) => o.spec.template.as_ref(),
            Object::DaemonSet(o) => Some(&o.spec.template),
            Object::StatefulSet(o) => Some(&o.spec.template),
        }
    }

    /// The metadata that its pods have: the object's own for a bare pod.
    pub fn pod_metadata(&self) -> Option<&ObjectMeta> {
        match self.template() {
            None => Some(self.metadata()),
            Some(template) => template.metadata.as_ref(),
        }
    }

    /// The Job's spec, of a Job or a CronJob.
    pub fn job(&self) -> Option<&JobSpec> {
        match &self.object {
            Object::Job(o) => o.spec.as_ref(),
            Object::CronJob(o) => o.spec.job_template.spec.as_ref(),
            _ => None,
        }
    }

    /// One of its pods, named after the object.
    pub fn pod(&self) -> Pod {
        let mut metadata = self.pod_metadata().cloned().unwrap_or_default();
        metadata.name.get_or_insert_with(|| self.name());
        metadata.namespace = self.metadata().namespace.clone();
        Pod { metadata, spec: Some(self.spec().clone()), status: None }
    }

    /// The path of a field of the pod's spec in the object: `containers[0]` to `spec.template.spec.containers[0]`.
    pub fn path(&self, in_spec: &str) -> String {
        let base = self.kind().spec_path();
        if in_spec.is_empty() { base.to_owned() } else { format!("{base}.{in_spec}") }
    }

    /// Where a field of the object was written, or the nearest one above it.
    pub fn position(&self, path: &str) -> Position {
        self.node.locate(path).0
    }

    /// Where the object starts.
    pub fn at(&self) -> Position {
        self.node.at
    }
}

static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
