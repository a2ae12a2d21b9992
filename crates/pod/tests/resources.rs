//! Effective resources, in-place resize, defaults, QoS and `oom_score_adj`: each recorded vector is a test.

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use serde_json::{Value, json};
use testground_pod::{
    resources::{
        PodResources, Quantity, ResourceList, Role, memory_volume_size, resized, termination_message_limit,
    },
    version::Features,
};

const VECTORS: &str = include_str!("conformance/pod-resources.json");
const FACTS: &str = include_str!("conformance/kubelet-1.34/rules.json");

fn vector(set: &str, id: &str) -> Value {
    let all: Value = serde_json::from_str(VECTORS).expect("the vectors are JSON");
    let found = all[set].as_array().unwrap().iter().find(|c| c["id"] == id);
    found.unwrap_or_else(|| panic!("no vector {id} in {set}")).clone()
}

/// The pod of a vector. Containers get names; `sidecar` is the vectors' word for `restartPolicy: Always`.
fn spec_of(vector: &Value) -> PodSpec {
    let container = |(i, c): (usize, &Value)| Container {
        name: c["name"].as_str().map_or_else(|| format!("c{i}"), str::to_owned),
        resources: Some(requirements(c)),
        restart_policy: (c["sidecar"] == true).then(|| "Always".to_owned()),
        ..Container::default()
    };
    let list = |key: &str| -> Vec<Container> {
        vector[key].as_array().into_iter().flatten().enumerate().map(container).collect()
    };
    PodSpec {
        init_containers: Some(list("initContainers")),
        containers: list("containers"),
        resources: vector.get("podResources").map(requirements),
        overhead: serde_json::from_value(vector["overhead"].clone()).unwrap(),
        priority_class_name: (vector["nodeCritical"] == true).then(|| "system-node-critical".to_owned()),
        ..PodSpec::default()
    }
}

fn requirements(of: &Value) -> ResourceRequirements {
    let wanted = json!({"requests": of["requests"], "limits": of["limits"]});
    serde_json::from_value(wanted).unwrap()
}

fn amounts(of: &Value) -> ResourceList {
    let amount = |text: &Value| text.as_str().unwrap().parse().unwrap_or_else(|e| panic!("{text}: {e}"));
    of.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), amount(v))).collect()
}

fn resource_case(id: &str) {
    let vector = vector("resource_cases", id);
    let mut pod = PodResources::written(&spec_of(&vector));
    if vector["options"]["excludeOverhead"] == true {
        pod.overhead.clear();
    }
    pod.assume_requests(&amounts(&vector["options"]["nonMissingContainerRequests"]));
    let effective = pod.effective();
    if let Some(expected) = vector["expect"].get("requests") {
        assert_eq!(effective.requests, amounts(expected), "requests");
    }
    if let Some(expected) = vector["expect"].get("limits") {
        assert_eq!(effective.limits, amounts(expected), "limits");
    }
}

fn resize_case(id: &str) {
    let v = vector("resize_cases", id);
    let list = |keys: [&str; 2]| keys.iter().find_map(|k| v.get(k).filter(|x| !x.is_null()).map(amounts));
    let wanted = list(["spec", "spec_sum"]).unwrap();
    let allocated = list(["allocated", "allocated_sum"]);
    let actual = list(["actuated", "actuated_sum"]);
    let counted = resized(&wanted, allocated.as_ref(), actual.as_ref(), v["infeasible"] == true);
    assert_eq!(counted, amounts(&v["expect"]));
}

fn defaulting_case(id: &str) {
    let v = vector("defaulting_cases", id);
    let as_pod = if v["container"].is_object() { json!({"containers": [v["container"]]}) } else { v.clone() };
    let pod = PodResources::of(&spec_of(&as_pod), &Features::default());
    if let Some(expected) = v.get("expect_container") {
        assert_eq!(pod.containers[0].own.requests, amounts(&expected["requests"]));
        assert_eq!(pod.containers[0].own.limits, amounts(&expected["limits"]));
    }
    if let Some(class) = v["expect_qos"].as_str() {
        assert_eq!(pod.qos().to_string(), class);
    }
    if let Some(expected) = v.get("expect_podRequests") {
        assert_eq!(pod.pod_level.as_ref().unwrap().requests, amounts(expected));
    }
    if let Some(expected) = v.get("expect_podLimits") {
        assert_eq!(pod.pod_level.as_ref().unwrap().limits, amounts(expected));
    }
}

fn qos_case(id: &str) {
    let v = vector("qos_cases", id);
    let pod = PodResources::of(&spec_of(&v), &Features::default());
    assert_eq!(pod.qos().to_string(), v["expect"].as_str().unwrap());
}

fn oom_case(id: &str) {
    let v = vector("oom_score_adj_cases", id);
    let pod = PodResources::written(&spec_of(&v));
    let scores = pod.oom_scores(v["memoryCapacity"].as_i64().unwrap());
    let found: Value =
        scores.iter().map(|s| (s.name.clone(), json!(s.value))).collect::<serde_json::Map<_, _>>().into();
    assert_eq!(found, v["expect"]);
}

macro_rules! vectors {
    ($set:literal, $module:ident, $check:ident: $($test:ident => $id:literal,)*) => {
        mod $module {
            $(#[test] fn $test() { super::$check($id); })*

            #[test]
            fn every_vector_is_a_test() {
                let all: serde_json::Value = serde_json::from_str(super::VECTORS).unwrap();
                let ids: Vec<_> = all[$set].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap()).collect();
                assert_eq!(ids, [$($id),*]);
            }
        }
    };
}

vectors! { "resource_cases", resource, resource_case:
    limit_only_no_overhead => "limit-only-no-overhead",
    overhead_only => "overhead-only",
    req_and_overhead => "req-and-overhead",
    req_some_lim_and_overhead => "req-some-lim-and-overhead",
    two_containers_sum => "two-containers-sum",
    massive_init_wins => "massive-init-wins",
    req_larger_init => "req-larger-init",
    req_larger_containers => "req-larger-containers",
    req_overhead_excluded => "req-overhead-excluded",
    req_one_sidecar => "req-one-sidecar",
    req_init_between_sidecars => "req-init-between-sidecars",
    lim_larger_init => "lim-larger-init",
    lim_larger_containers => "lim-larger-containers",
    lim_none => "lim-none",
    lim_one_limited_one_unlimited => "lim-one-limited-one-unlimited",
    lim_one_sidecar => "lim-one-sidecar",
    lim_init_then_3_sidecars => "lim-init-then-3-sidecars",
    lim_sidecar_then_big_init => "lim-sidecar-then-big-init",
    plr_nil => "plr-nil",
    plr_memory_only => "plr-memory-only",
    plr_memory_container_cpu => "plr-memory-container-cpu",
    plr_unsupported_both => "plr-unsupported-both",
    plr_absent => "plr-absent",
    plr_overrides_containers => "plr-overrides-containers",
    plr_absent_init_larger => "plr-absent-init-larger",
    plr_absent_sidecar_sum => "plr-absent-sidecar-sum",
    plr_absent_sidecar_then_init => "plr-absent-sidecar-then-init",
    plr_overrides_init_and_sidecar => "plr-overrides-init-and-sidecar",
    plr_hugepages_single => "plr-hugepages-single",
    plr_hugepages_multi => "plr-hugepages-multi",
    plr_hugepages_over_container => "plr-hugepages-over-container",
    plr_hugepages_mixed_levels => "plr-hugepages-mixed-levels",
    agg_two_limits => "agg-two-limits",
    agg_sidecar8_init6_app9_requests => "agg-sidecar8-init6-app9-requests",
    agg_sidecar8_init6_app9_limits => "agg-sidecar8-init6-app9-limits",
    nonmissing_default_init => "nonmissing-default-init",
    order_matters_init_before_sidecar => "order-matters-init-before-sidecar",
    different_winner_per_resource => "different-winner-per-resource",
    sidecars_only_app_no_requests => "sidecars-only-app-no-requests",
    extended_resource_and_ephemeral_storage => "extended-resource-and-ephemeral-storage",
    plr_with_overhead => "plr-with-overhead",
    plr_limits_only_cpu_raw => "plr-limits-only-cpu-raw",
    sidecar_limit_init_no_limit => "sidecar-limit-init-no-limit",
}

vectors! { "resize_cases", resize, resize_case:
    resize_infeasible => "resize-infeasible",
    resize_infeasible_in_progress => "resize-infeasible-in-progress",
    resize_sidecar_infeasible => "resize-sidecar-infeasible",
    resize_max_of_sums => "resize-max-of-sums",
}

vectors! { "defaulting_cases", defaulting, defaulting_case:
    container_limit_becomes_request => "container-limit-becomes-request",
    container_limit_fills_only_missing_keys => "container-limit-fills-only-missing-keys",
    plr_limit_only_no_container_requests => "plr-limit-only-no-container-requests",
    plr_limit_only_with_container_requests => "plr-limit-only-with-container-requests",
    plr_requests_only_all_containers_limited => "plr-requests-only-all-containers-limited",
}

vectors! { "qos_cases", qos, qos_case:
    guaranteed_guaranteed => "guaranteed-guaranteed",
    best_effort_best_effort => "best-effort-best-effort",
    burstable_guaranteed => "burstable-guaranteed",
    burstable_unbounded => "burstable-unbounded",
    burstable_1 => "burstable-1",
    burstable_2_zero_requests => "burstable-2-zero-requests",
    best_effort_hugepages => "best-effort-hugepages",
    init_container_burstable => "init-container-burstable",
    plr_guaranteed => "plr-guaranteed",
    plr_guaranteed_burstable_container => "plr-guaranteed-burstable-container",
    plr_burstable_guaranteed_container => "plr-burstable-guaranteed-container",
    plr_requests_only => "plr-requests-only",
    sidecar_guaranteed_keeps_guaranteed => "sidecar-guaranteed-keeps-guaranteed",
    all_best_effort_with_sidecar => "all-best-effort-with-sidecar",
    only_ephemeral_storage => "only-ephemeral-storage",
    plr_empty_object_ignored => "plr-empty-object-ignored",
}

vectors! { "oom_score_adj_cases", oom, oom_case:
    guaranteed => "guaranteed",
    half_of_node => "half-of-node",
    almost_all_memory => "almost-all-memory",
    node_critical => "node-critical",
    burstable_one_eighth => "burstable-one-eighth",
    init_same_as_main => "init-same-as-main",
    small_sidecar_lifted_to_main => "small-sidecar-lifted-to-main",
    same_sidecar => "same-sidecar",
    big_sidecar_keeps_own_lower_score => "big-sidecar-keeps-own-lower-score",
    plr_no_container_resources_sidecar => "plr-no-container-resources-sidecar",
}

fn fact(name: &str) -> Value {
    let facts: Value = serde_json::from_str(FACTS).expect("the facts are JSON");
    facts[name].clone()
}

/// The size in KiB that a container saw for its tmpfs.
fn seen_size(mount: &str) -> i64 {
    let size = mount.split("size=").nth(1).unwrap_or_else(|| panic!("no size in {mount}"));
    size.split('k').next().unwrap().parse().unwrap()
}

/// R75: the tmpfs of a memory `emptyDir`, as containers on a real node saw it.
#[test]
fn r75_memory_volumes_have_the_size_that_a_kubelet_gave_them() {
    let seen = fact("R75-memory-emptyDir");
    let limited = |memory: &str| json!({"limits": {"memory": memory}});
    let sidecar = |memory: &str| json!({"limits": {"memory": memory}, "sidecar": true});
    let node = seen_size(seen["no-limits-no-size"].as_str().unwrap()) * 1024;
    for (name, size_limit, pod) in [
        ("no-limits-no-size", None, json!({"containers": [{}]})),
        ("nosize-app32-nolimit-app", None, json!({"containers": [limited("32Mi"), {}]})),
        (
            "nosize-sidecar48-app32",
            None,
            json!({"initContainers": [sidecar("48Mi")], "containers": [limited("32Mi")]}),
        ),
        ("nosize-two-apps-limit-32", None, json!({"containers": [limited("32Mi"), limited("32Mi")]})),
        ("size16-no-limits", Some("16Mi"), json!({"containers": [{}]})),
        ("size64-limit32", Some("64Mi"), json!({"containers": [limited("32Mi")]})),
        (
            "nosize-init96-app32",
            None,
            json!({"initContainers": [limited("96Mi")], "containers": [limited("32Mi")]}),
        ),
    ] {
        let pod = PodResources::of(&spec_of(&pod), &Features::default());
        let size_limit = size_limit.map(|s: &str| s.parse::<Quantity>().unwrap());
        let mount =
            seen[name].as_str().or_else(|| seen[name]["a"].as_str()).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(memory_volume_size(&pod, size_limit, node), seen_size(mount) * 1024, "{name}");
    }
}

/// R77: how much of each termination message was kept.
#[test]
fn r77_termination_messages_share_12_kib() {
    for name in [
        "R77-12-containers-6000-bytes-each",
        "R77-3-inits-3-apps-6000-bytes-each",
        "R77-4-containers-6000-bytes-each",
        "R77-6-containers-6000-bytes-each",
    ] {
        let kept = fact(name);
        let kept = kept.as_object().unwrap();
        for bytes in kept.values() {
            assert_eq!(termination_message_limit(kept.len()) as u64, bytes.as_u64().unwrap(), "{name}");
        }
    }
    assert_eq!(termination_message_limit(1), 4096);
}

/// K22: the sidecar asks for a twentieth of the node, the app for an eighth.
#[test]
fn k22_a_small_sidecar_is_as_safe_as_its_app() {
    let node = 8_000_000_000_i64;
    let asks = |n: i64| json!({"requests": {"memory": n.to_string()}});
    let mut sidecar = asks(node / 20);
    sidecar["sidecar"] = true.into();
    let pod = json!({"initContainers": [sidecar], "containers": [asks(node / 8)]});
    let pod = PodResources::written(&spec_of(&pod));
    assert_eq!(pod.containers[0].role, Role::Sidecar);
    let scores = pod.oom_scores(node);
    assert_eq!(scores.iter().map(|s| s.value).collect::<Vec<_>>(), [875, 875]);
    assert_eq!(scores[0].own, Some(950));
}

#[test]
fn cgroup_values_follow_the_kubelets_conversions() {
    let own =
        |c: Value| PodResources::of(&spec_of(&json!({"containers": [c]})), &Features::default()).cgroup();
    let guaranteed = own(json!({"limits": {"cpu": "1500m", "memory": "1Gi"}}));
    assert_eq!(guaranteed.parent, "kubepods");
    assert_eq!(guaranteed.values.cpu_shares, 1536);
    assert_eq!(guaranteed.values.cpu_weight, 59);
    assert_eq!(guaranteed.values.cpu_quota, Some(150_000));
    assert_eq!(guaranteed.values.memory_max, Some(1 << 30));
    let tiny = own(json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "1m"}}));
    assert_eq!((tiny.values.cpu_shares, tiny.values.cpu_quota), (2, Some(1000)));
    assert_eq!(tiny.without_memory_limit, ["c0"]);
    let nothing = own(json!({}));
    assert_eq!(
        (nothing.parent, nothing.values.cpu_shares, nothing.values.cpu_weight),
        ("kubepods/besteffort", 2, 1)
    );
}

#[test]
fn one_container_without_a_limit_leaves_the_pod_without_one() {
    let pod = json!({"initContainers": [{}], "containers": [{"limits": {"memory": "64Mi", "cpu": "1"}}]});
    let pod = PodResources::of(&spec_of(&pod), &Features::default());
    assert_eq!(pod.effective().limits["memory"], "64Mi".parse().unwrap());
    let cgroup = pod.cgroup();
    assert_eq!(cgroup.values.memory_max, None);
    assert_eq!(cgroup.without_memory_limit, ["c0"]);
}
