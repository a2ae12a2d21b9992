//! What an API server of Kubernetes 1.34 said to good and bad manifests, word for word: each recorded case is a test.

use serde_json::Value;
use testground_pod::{
    load::{self, Document},
    validate::update,
    version::{Features, KubernetesVersion},
};

const RECORDED: &str = include_str!("conformance/kubelet-1.34/validation.json");

fn cases() -> Vec<Value> {
    serde_json::from_str(RECORDED).expect("the recorded cases are JSON")
}

fn check(name: &str) {
    let cases = cases();
    let case = cases.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no case {name}"));
    let mut features = Features::of(KubernetesVersion::new(34).unwrap());
    if let Some(gates) = case["gates"].as_str() {
        features = features.set_all(gates).unwrap();
    }
    if name.starts_with("update-") {
        return check_update(case, &features);
    }
    if name.starts_with("delete-") {
        let grace =
            update::deletion_grace(case["manifest"]["gracePeriodSeconds"].as_i64(), &Default::default());
        assert_eq!(Some(grace), case["deletionGracePeriodSeconds"].as_i64());
        return;
    }
    let document = read(&case["manifest"], &features);
    let expected = case["message"].as_str().unwrap();
    match document.api_message() {
        None => assert_eq!(expected, "accepted", "nothing was refused"),
        Some(said) => assert_eq!(said, expected),
    }
    if let Some(stored) = case.get("stored") {
        check_stored(&document, stored);
    }
}

fn read(manifest: &Value, features: &Features) -> Document {
    let mut read = load::read(&serde_json::to_string_pretty(manifest).unwrap(), features);
    assert_eq!(read.mistakes, []);
    assert_eq!(read.documents.len(), 1);
    read.documents.remove(0)
}

/// The fields that the server kept, of those that it drops without their gates.
fn check_stored(document: &Document, stored: &Value) {
    let spec = document.workload.as_ref().unwrap().spec();
    let kept = |c: &k8s_openapi::api::core::v1::Container| {
        let all = serde_json::to_value(c).unwrap();
        let fields = ["name", "restartPolicy", "restartPolicyRules", "lifecycle"];
        let kept = fields.iter().filter_map(|f| Some(((*f).to_owned(), all.get(f)?.clone())));
        without_empty(Value::Object(kept.collect()))
    };
    let apps: Vec<_> = spec.containers.iter().map(kept).collect();
    let inits: Vec<_> = spec.init_containers.iter().flatten().map(kept).collect();
    assert_eq!(Value::Array(apps), without_empty(stored["containers"].clone()));
    assert_eq!(Value::Array(inits), without_empty(stored["initContainers"].clone()));
}

/// The server leaves empty lists out.
fn without_empty(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(k, v)| (k, without_empty(v)))
                .filter(|(_, v)| !v.as_array().is_some_and(Vec::is_empty))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_empty).collect()),
        other => other,
    }
}

/// A living pod, and a patch of it. The server's message goes on with a diff of its internal types.
fn check_update(case: &Value, features: &Features) {
    let live = &case["manifest"]["live"];
    let mut patched = live.clone();
    merge(&mut patched, &case["manifest"]["patch"]);
    let pod = |manifest| read(manifest, features).workload.unwrap().pod();
    let errors = update::pod(&pod(live), &pod(&patched));
    let said = match errors.as_slice() {
        [] => "accepted".to_owned(),
        [one] => format!("Pod \"live\" is invalid: {one}"),
        many => panic!("{many:?}"),
    };
    assert_eq!(said, case["message"].as_str().unwrap().lines().next().unwrap());
}

/// A strategic merge: lists of things with names are merged by name, and null takes away.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (Value::Array(into), Value::Array(patch)) if patch.iter().all(|p| p.get("name").is_some()) => {
            for item in patch {
                match into.iter_mut().find(|i| i["name"] == item["name"]) {
                    Some(found) => merge(found, item),
                    None => into.push(item.clone()),
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

/// R4: conflicts are looked for within each entry of `initContainers`, sidecar or not.
#[test]
fn r4_a_host_port_twice_in_one_sidecar_is_refused() {
    let ports =
        serde_json::json!([{"containerPort": 1, "hostPort": 80}, {"containerPort": 2, "hostPort": 80}]);
    let manifest = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {
            "initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always", "ports": ports}],
            "containers": [{"name": "a", "image": "i"}],
        },
    });
    let said = read(&manifest, &Features::default()).api_message();
    let words =
        "Pod \"p\" is invalid: spec.initContainers[0].ports[1].hostPort: Duplicate value: \"TCP//80\"";
    assert_eq!(said.as_deref(), Some(words));
}

macro_rules! recorded {
    ($($test:ident => $name:literal,)*) => {
        $(#[test] fn $test() { check($name); })*

        #[test]
        fn every_recorded_case_is_a_test() {
            let names: Vec<_> = cases().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect();
            assert_eq!(names, [$($name),*]);
        }
    };
}

recorded! {
    ok_minimal => "ok-minimal",
    unknown_field => "unknown-field",
    unknown_field_nested_restart_policy_in_metadata => "unknown-field-nested-restartPolicy-in-metadata",
    duplicate_names_containers => "duplicate-names-containers",
    duplicate_names_init_and_app => "duplicate-names-init-and-app",
    duplicate_names_sidecar_and_init => "duplicate-names-sidecar-and-init",
    liveness_probe_on_init => "livenessProbe-on-init",
    readiness_probe_on_init => "readinessProbe-on-init",
    startup_probe_on_init => "startupProbe-on-init",
    lifecycle_on_init => "lifecycle-on-init",
    all_four_on_init => "all-four-on-init",
    all_four_on_sidecar => "all-four-on-sidecar",
    host_port_two_apps => "hostPort-two-apps",
    host_port_two_sidecars => "hostPort-two-sidecars",
    host_port_sidecar_and_app => "hostPort-sidecar-and-app",
    host_port_twice_in_one_container => "hostPort-twice-in-one-container",
    host_port_out_of_range => "hostPort-out-of-range",
    host_network_host_port_differs => "hostNetwork-hostPort-differs",
    port_name_twice => "port-name-twice",
    negative_grace => "negative-grace",
    zero_active_deadline => "zero-activeDeadline",
    bad_quantity => "bad-quantity",
    negative_quantity => "negative-quantity",
    request_over_limit => "request-over-limit",
    unknown_resource => "unknown-resource",
    missing_containers => "missing-containers",
    empty_containers => "empty-containers",
    missing_container_name => "missing-container-name",
    missing_image => "missing-image",
    image_with_blank => "image-with-blank",
    bad_container_name => "bad-container-name",
    bad_pod_name => "bad-pod-name",
    bad_pod_restart_policy => "bad-pod-restartPolicy",
    restart_policy_on_app => "restartPolicy-on-app",
    restart_policy_never_on_app => "restartPolicy-Never-on-app",
    restart_policy_on_failure_on_init => "restartPolicy-OnFailure-on-init",
    restart_policy_never_on_init => "restartPolicy-Never-on-init",
    restart_policy_unknown_on_init => "restartPolicy-unknown-on-init",
    restart_policy_rules_on_app => "restartPolicyRules-on-app",
    restart_policy_rules_without_restart_policy => "restartPolicyRules-without-restartPolicy",
    restart_policy_rules_on_sidecar => "restartPolicyRules-on-sidecar",
    restart_policy_rules_on_init => "restartPolicyRules-on-init",
    restart_policy_rules_restart_all_containers => "restartPolicyRules-RestartAllContainers",
    restart_policy_rules_bad_operator => "restartPolicyRules-bad-operator",
    restart_policy_rules_no_values => "restartPolicyRules-no-values",
    restart_policy_rules_21_rules => "restartPolicyRules-21-rules",
    restart_policy_rules_256_values => "restartPolicyRules-256-values",
    stop_signal_without_os => "stopSignal-without-os",
    stop_signal_with_os => "stopSignal-with-os",
    stop_signal_unknown => "stopSignal-unknown",
    stop_signal_windows_usr1 => "stopSignal-windows-USR1",
    stop_signal_on_init => "stopSignal-on-init",
    probe_without_handler => "probe-without-handler",
    probe_two_handlers => "probe-two-handlers",
    probe_negative_period => "probe-negative-period",
    liveness_success_threshold_2 => "liveness-successThreshold-2",
    startup_success_threshold_2 => "startup-successThreshold-2",
    readiness_termination_grace_period => "readiness-terminationGracePeriod",
    liveness_termination_grace_period_0 => "liveness-terminationGracePeriod-0",
    pre_stop_without_handler => "preStop-without-handler",
    pre_stop_sleep_negative => "preStop-sleep-negative",
    pre_stop_sleep_over_grace => "preStop-sleep-over-grace",
    volume_mount_unknown => "volumeMount-unknown",
    mount_path_twice => "mountPath-twice",
    volume_twice => "volume-twice",
    sub_path_absolute => "subPath-absolute",
    empty_dir_negative_size => "emptyDir-negative-size",
    env_name_bad => "env-name-bad",
    env_value_number => "env-value-number",
    host_aliases_bad_ip => "hostAliases-bad-ip",
    termination_message_policy_bad => "terminationMessagePolicy-bad",
    image_pull_policy_bad => "imagePullPolicy-bad",
    ephemeral_containers_at_create => "ephemeralContainers-at-create",
    deployment_restart_policy_never => "deployment-restartPolicy-Never",
    deployment_restart_policy_on_failure => "deployment-restartPolicy-OnFailure",
    deployment_selector_mismatch => "deployment-selector-mismatch",
    job_restart_policy_always => "job-restartPolicy-Always",
    job_restart_policy_missing => "job-restartPolicy-missing",
    job_negative_backoff_limit => "job-negative-backoffLimit",
    update_command => "update-command",
    update_sidecar_restart_policy => "update-sidecar-restartPolicy",
    update_add_container => "update-add-container",
    update_grace => "update-grace",
    update_restart_policy => "update-restartPolicy",
    update_active_deadline => "update-activeDeadline",
    update_image_app => "update-image-app",
    update_image_sidecar => "update-image-sidecar",
    delete_grace_1 => "delete-grace--1",
    delete_grace_5 => "delete-grace--5",
    restart_policy_on_app_gates_on => "restartPolicy-on-app (gates on)",
    restart_policy_never_on_app_gates_on => "restartPolicy-Never-on-app (gates on)",
    restart_policy_on_failure_on_init_gates_on => "restartPolicy-OnFailure-on-init (gates on)",
    restart_policy_never_on_init_gates_on => "restartPolicy-Never-on-init (gates on)",
    restart_policy_unknown_on_init_gates_on => "restartPolicy-unknown-on-init (gates on)",
    restart_policy_rules_on_app_gates_on => "restartPolicyRules-on-app (gates on)",
    restart_policy_rules_without_restart_policy_gates_on => "restartPolicyRules-without-restartPolicy (gates on)",
    restart_policy_rules_on_sidecar_gates_on => "restartPolicyRules-on-sidecar (gates on)",
    restart_policy_rules_on_init_gates_on => "restartPolicyRules-on-init (gates on)",
    restart_policy_rules_restart_all_containers_gates_on => "restartPolicyRules-RestartAllContainers (gates on)",
    restart_policy_rules_bad_operator_gates_on => "restartPolicyRules-bad-operator (gates on)",
    restart_policy_rules_no_values_gates_on => "restartPolicyRules-no-values (gates on)",
    restart_policy_rules_21_rules_gates_on => "restartPolicyRules-21-rules (gates on)",
    restart_policy_rules_256_values_gates_on => "restartPolicyRules-256-values (gates on)",
    stop_signal_without_os_gates_on => "stopSignal-without-os (gates on)",
    stop_signal_with_os_gates_on => "stopSignal-with-os (gates on)",
    stop_signal_unknown_gates_on => "stopSignal-unknown (gates on)",
    stop_signal_windows_usr1_gates_on => "stopSignal-windows-USR1 (gates on)",
    stop_signal_on_init_gates_on => "stopSignal-on-init (gates on)",
}
