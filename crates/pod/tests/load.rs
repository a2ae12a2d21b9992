//! Manifests from text: every mistake at once with its place, and bounds that hold.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::PodSpec;
use testground_pod::{
    load::{self, Code, Kind, Manifest, Mistake, Workload},
    version::{Features, KubernetesVersion},
};

fn read(text: &str) -> Manifest {
    load::read(text, &Features::default())
}

fn mistakes(text: &str) -> Vec<String> {
    let shown = |m: &&Mistake| format!("{} {m}", m.at);
    read(text).all_mistakes().iter().map(shown).collect()
}

/// The only mistake of a text.
fn mistake(text: &str) -> Mistake {
    let read = read(text);
    let all = read.all_mistakes();
    assert_eq!(all.len(), 1, "{all:#?}");
    all[0].clone()
}

fn workload(text: &str) -> Workload {
    let mut read = read(text);
    assert_eq!(read.all_mistakes(), Vec::<&Mistake>::new());
    assert_eq!(read.documents.len(), 1);
    read.documents.remove(0).workload.unwrap()
}

/// A pod whose only container has these lines more, indented by four.
fn pod_with(lines: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n  - name: a\n    image: i\n{lines}"
    )
}

#[test]
fn all_mistakes_come_at_once_each_with_its_line_and_column() {
    let text = "\
apiVersion: v1
kind: Pod
metadata:
  name: web
  restartPolicy: Never
spec:
  containers:
  - name: app
    image: nginx
    imagePullPolcy: Never
    env:
    - name: PORT
      value: 8080
    - {name: DEBUG, value: yes}
    resources:
      limits:
        memory: 512MB
        cpu: 1
        cpu: 2
    ports:
    - containerPort: http
  - name: app
  terminationGracePeriodSeconds: 99999999999999999999
";
    assert_eq!(
        mistakes(text),
        [
            "5:3 metadata.restartPolicy: there is no field `restartPolicy` here; `restartPolicy` is a field of the pod's spec and of a container",
            "10:5 spec.containers[0].imagePullPolcy: there is no field `imagePullPolcy` here; did you mean `imagePullPolicy`?",
            "13:14 spec.containers[0].env[0].value: a string belongs here, but `8080` is a number; quote it: \"8080\"",
            "14:28 spec.containers[0].env[1].value: a string belongs here, but `yes` is a bool; quote it: \"yes\"",
            "17:17 spec.containers[0].resources.limits[memory]: `512MB` is not a quantity: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'; write 512Mi",
            "19:9 spec.containers[0].resources.limits.cpu: `cpu` is already set in line 18",
            "21:22 spec.containers[0].ports[0].containerPort: a whole number belongs here, but `http` is a string",
            "22:5 spec.containers[1].image: Required value",
            "22:5 spec.containers[1].name: Duplicate value: \"app\"",
            "23:34 spec.terminationGracePeriodSeconds: `99999999999999999999` is a number, but the field takes -9223372036854775808 to 9223372036854775807",
        ]
    );
}

#[test]
fn every_recorded_manifest_is_read_without_a_mistake() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/kubelet-1.34/manifests");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()) {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut features = Features::of(KubernetesVersion::new(34).unwrap());
        let stem = file.file_stem().unwrap().to_str().unwrap().to_owned();
        if ["K15", "K16", "K18", "K21"].contains(&&*stem) || stem.starts_with("X15") {
            features = features.set_all("ContainerRestartRules=true,ContainerStopSignals=true").unwrap();
        }
        let read = load::read(&text, &features);
        let found = read.all_mistakes();
        // The API server refused this one too: rules on a sidecar.
        if stem == "K18" {
            assert_eq!(found.len(), 1, "{found:?}");
        } else {
            assert_eq!(found, Vec::<&Mistake>::new(), "{stem}");
        }
        count += 1;
    }
    assert_eq!(count, 165);
}

#[test]
fn the_kinds_that_hold_pods_are_found_among_others() {
    let template = "template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}";
    let job = "template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}";
    let mut text =
        String::from("# a comment\n---\n---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\n");
    for kind in ["Deployment", "DaemonSet", "StatefulSet", "ReplicaSet"] {
        let _ = write!(
            text,
            "---\napiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{selector: {{matchLabels: {{a: b}}}}, {template}}}\n"
        );
    }
    let _ = write!(text, "---\napiVersion: batch/v1\nkind: Job\nmetadata: {{name: x}}\nspec: {{{job}}}\n");
    let _ = write!(
        text,
        "---\napiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: x}}\nspec: {{schedule: '* * * * *', jobTemplate: {{spec: {{{job}}}}}}}\n"
    );
    text += "---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: z}\n  spec: {containers: [{name: c, image: i}]}\n";
    let read = read(&text);
    assert_eq!(read.all_mistakes(), Vec::<&Mistake>::new());
    let kinds: Vec<_> = read.workloads().map(Workload::kind).collect();
    use Kind::{CronJob, DaemonSet, Deployment, Job, Pod, ReplicaSet, StatefulSet};
    assert_eq!(kinds, [Deployment, DaemonSet, StatefulSet, ReplicaSet, Job, CronJob, Pod]);
    for workload in read.workloads() {
        assert_eq!(workload.spec().containers[0].name, "c");
        let place = workload.position(&workload.path("containers[0].name"));
        assert!(text.lines().nth(place.line as usize - 1).unwrap().contains("name: c"), "{place}");
    }
    assert_eq!(read.documents[0].kind, "Service");
}

#[test]
fn a_document_of_no_known_kind_or_version_says_what_was_meant() {
    let of = |head: &str| mistake(&format!("{head}\nmetadata: {{name: x}}\nspec: {{}}")).to_string();
    assert_eq!(of("apiVersion: v1\nkind: Pods"), "kind: there is no kind `Pods`; did you mean `Pod`?");
    assert_eq!(
        of("apiVersion: extensions/v1beta1\nkind: Deployment"),
        "apiVersion: no matches for kind \"Deployment\" in version \"extensions/v1beta1\"; write `apiVersion: apps/v1`"
    );
    assert_eq!(of("kind: Pod"), "apiVersion: a Pod needs its apiVersion; write `apiVersion: v1`");
    assert!(of("name: x").starts_with("kind: the document does not say its kind"));
    assert!(read("apiVersion: v1\nkind: Service\nmetadata: {name: x}").all_mistakes().is_empty());
}

#[test]
fn scalars_mean_what_kubectl_takes_them_for() {
    let text = "\
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {on: \"yes\", 12: a}}
spec:
  hostNetwork: no
  volumes: [{name: v, configMap: {name: m, defaultMode: 0644}}]
  containers:
  - name: a
    image: i
    command: [\"sh\", '-c', \"0644\", ~]
";
    let pod = workload(text);
    assert_eq!(pod.spec().host_network, Some(false));
    let volume = &pod.spec().volumes.as_ref().unwrap()[0];
    assert_eq!(volume.config_map.as_ref().unwrap().default_mode, Some(0o644));
    assert_eq!(pod.metadata().labels.as_ref().unwrap().keys().collect::<Vec<_>>(), ["12", "true"]);
    assert_eq!(pod.spec().containers[0].command.as_ref().unwrap(), &["sh", "-c", "0644", ""]);
}

#[test]
fn anchors_and_merge_keys_are_resolved_and_keep_the_place_of_the_text() {
    let text = "\
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers:
  - &base
    name: a
    image: i
    resources: {requests: {cpu: 1}}
  - <<: *base
    name: b
  - <<: [{image: j}, *base]
    name: c
    resuorces: {}
";
    let read = read(text);
    let all = read.all_mistakes();
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(
        all[0].to_string(),
        "spec.containers[2].resuorces: there is no field `resuorces` here; did you mean `resources`?"
    );
    let pod = read.workloads().next().unwrap();
    let images: Vec<_> = pod.spec().containers.iter().map(|c| c.image.as_deref().unwrap()).collect();
    assert_eq!(images, ["i", "i", "j"]);
    assert_eq!(pod.position("spec.containers[1].image").line, 8);
}

#[test]
fn yaml_bombs_are_refused_by_name() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..20 {
        let list = vec![format!("*a{}", i - 1); 10].join(", ");
        let _ = writeln!(bomb, "a{i}: &a{i} [{list}]");
    }
    assert_eq!(mistake(&bomb).code, Code::TooLarge);
    // Anchors within anchors: each keeps a copy of all that is in it.
    let inner = "x,".repeat(20_000);
    let nested: String = (0..40).map(|i| format!("&n{i} [")).collect::<String>() + &inner + &"]".repeat(40);
    assert_eq!(mistake(&nested).code, Code::TooLarge);
    assert_eq!(mistake("a: &a [*a]").code, Code::Recursion);
    assert_eq!(mistake("a: &a\n  b: &b\n    c: *a").code, Code::Recursion);
    assert_eq!(mistake("a: *nowhere").code, Code::Syntax);
}

#[test]
fn what_is_too_large_or_too_deep_is_refused_by_name() {
    let large = "# ".to_owned() + &"x".repeat(10 << 20);
    assert_eq!(mistake(&large).code, Code::TooLarge);
    for deep in ["[".repeat(1000), "- ".repeat(1000), "{a: ".repeat(1000), "? ".repeat(1000)] {
        let code = mistake(&deep).code;
        assert!(matches!(code, Code::TooLarge | Code::Syntax), "{code:?} for {}", &deep[..8]);
    }
    let blocks: String = (0..1000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert_eq!(mistake(&blocks).code, Code::TooLarge);
    let many = "[".to_owned() + &"1,".repeat(1 << 20) + "]";
    assert_eq!(mistake(&many).code, Code::TooLarge);
}

#[test]
fn wide_and_repetitive_texts_are_read_in_bounded_time() {
    let wide: String = (0..60_000).map(|i| format!("k{i:06}: 1\n")).collect();
    assert_eq!(mistake(&wide).code, Code::Kind);
    let twice: String = (0..30_000).map(|_| "k: 1\n").collect();
    assert!(read(&twice).documents[0].mistakes.len() > 1);
    let documents: String = (0..200_000).map(|i| format!("--- &a{i} x\n")).collect();
    assert!(read(&documents).mistakes.iter().all(|m| m.code == Code::TooLarge));
    let merges = format!("a: &a {{{}}}\nb: {{{}}}\n", "x: 1", "? <<\n: *a\n,".repeat(1000));
    assert!(!read(&merges).all_mistakes().is_empty());
}

#[test]
fn a_thousand_containers_are_read_and_one_more_is_refused() {
    let pod = |n: usize| {
        let list: String = (0..n).map(|i| format!("  - {{name: c{i}, image: i}}\n")).collect();
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n{list}")
    };
    assert_eq!(workload(&pod(1000)).spec().containers.len(), 1000);
    let refused = mistake(&pod(1001));
    assert_eq!(refused.code, Code::TooLarge);
    assert_eq!(
        refused.to_string(),
        "spec.containers: the pod has 1001 containers; more than 1000 are not modelled"
    );
}

#[test]
fn quantities_out_of_range_are_refused_by_name() {
    for (text, words) in [
        ("1e400", "`1e400` is out of range: the largest quantity is 9223372036854775807 (2^63-1)"),
        ("\"-0\"", "`-0` is minus zero: write 0"),
        ("-0", "`-0` is minus zero: write 0"),
        ("9999999999999999999", "is out of range"),
        ("8Ei", "is out of range"),
        ("1.2.3", "unable to parse numeric part of quantity"),
        ("1e", "unable to parse quantity's suffix"),
        ("[1]", "a quantity such as 100m or 1Gi belongs here, but this is a list"),
        ("true", "`true` is not a quantity"),
    ] {
        let refused = mistake(&pod_with(&format!("    resources: {{limits: {{memory: {text}}}}}\n")));
        assert!(refused.message.contains(words), "{text}: {refused}");
    }
    assert!(mistakes(&pod_with("    resources: {limits: {memory: 1.5}}\n")).is_empty());
}

#[test]
fn durations_that_overflow_are_refused_by_name() {
    let longest = i64::MAX / 1_000_000_000;
    let pod = |grace: i64| pod_with(&format!("  terminationGracePeriodSeconds: {grace}\n"));
    assert!(mistakes(&pod(longest)).is_empty());
    for grace in [longest + 1, i64::MAX] {
        assert!(mistake(&pod(grace)).message.contains("longer durations overflow"));
    }
    let huge = mistake(&pod_with("  terminationGracePeriodSeconds: 99999999999999999999\n"));
    assert_eq!(huge.code, Code::OutOfRange);
    assert!(huge.message.contains("the field takes -9223372036854775808 to 9223372036854775807"), "{huge}");
    let probe =
        "    livenessProbe: {exec: {command: [x]}, terminationGracePeriodSeconds: 9223372036854775807}\n";
    assert!(mistake(&pod_with(probe)).message.contains("longer durations overflow"));
    let period = pod_with("    livenessProbe: {exec: {command: [x]}, periodSeconds: 4294967296}\n");
    let refused = mistake(&period);
    assert_eq!(refused.code, Code::OutOfRange);
    assert!(refused.message.contains("the field takes -2147483648 to 2147483647"), "{refused}");
}

#[test]
fn a_value_that_its_type_refuses_does_not_hide_the_other_mistakes() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, creationTimestamp: yesterday, nmae: q}\nspec:\n  containers: [{name: a, image: i, livenessProbe: {tcpSocket: {port: 99999999999}}}]\n  contaniers: []\n";
    let found = mistakes(text);
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(found[0].starts_with("3:40 metadata.creationTimestamp: "), "{}", found[0]);
    assert!(found[1].contains("did you mean `name`?"), "{}", found[1]);
    assert!(found[2].starts_with("5:70 spec.containers[0].livenessProbe.tcpSocket.port: "), "{}", found[2]);
    assert!(found[3].contains("did you mean `containers`?"), "{}", found[3]);
}

#[test]
fn a_misspelt_field_is_not_missing_as_well() {
    let refused = mistake(&pod_with("  - {name: b, imgae: i}\n"));
    assert_eq!(
        refused.to_string(),
        "spec.containers[1].imgae: there is no field `imgae` here; did you mean `image`?"
    );
    assert_eq!(
        mistakes(&pod_with("  - {name: b, picture: i}\n")).len(),
        2,
        "what is not near is another matter"
    );
}

#[test]
fn a_word_that_is_not_among_the_allowed_gets_the_nearest_of_them() {
    let refused = mistake(&pod_with("  restartPolicy: always\n"));
    assert_eq!((refused.at.line, refused.at.column), (8, 3));
    assert_eq!(refused.help.as_deref(), Some("did you mean `Always`?"));
}

#[test]
fn fields_newer_than_the_version_are_unknown_to_it() {
    let text =
        pod_with("    restartPolicy: Never\n    restartPolicyRules: []\n  resources: {limits: {cpu: 1}}\n");
    let at = |minor| {
        let read = load::read(&text, &Features::of(KubernetesVersion::new(minor).unwrap()));
        let found: Vec<_> = read.all_mistakes().iter().map(ToString::to_string).collect();
        let dropped: Vec<_> = read.documents[0].dropped.iter().map(|d| (d.path.clone(), d.gate)).collect();
        (found, dropped)
    };
    let (found, _) = at(29);
    assert_eq!(
        found,
        [
            "spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers",
            "spec.containers[0].restartPolicyRules: there is no field `restartPolicyRules` in Kubernetes 1.29; it is there since 1.34",
            "spec.resources: there is no field `resources` in Kubernetes 1.29; it is there since 1.32",
        ]
    );
    let (found, dropped) = at(34);
    assert_eq!(found, Vec::<String>::new());
    assert_eq!(
        dropped,
        [
            ("spec.containers[0].restartPolicy".to_owned(), "ContainerRestartRules"),
            ("spec.containers[0].restartPolicyRules".to_owned(), "ContainerRestartRules"),
        ]
    );
    assert_eq!(at(37), (vec![], vec![]));
}

#[test]
fn the_pod_of_a_controller_takes_its_name_and_its_labels() {
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: ns}\nspec:\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec: {containers: [{name: c, image: i}]}\n";
    let pod = workload(text).pod();
    assert_eq!(pod.metadata.name.as_deref(), Some("web"));
    assert_eq!(pod.metadata.namespace.as_deref(), Some("ns"));
    assert_eq!(pod.metadata.labels.unwrap()["a"], "b");
}

#[test]
fn any_type_can_be_read_with_the_places_of_its_mistakes() {
    let spec: PodSpec = load::value("containers: [{name: a, image: i}]\nrestartPolicy: Never\n").unwrap();
    assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
    let wrong = load::value::<PodSpec>("containers: 3\nhostNetwork: maybe\n").unwrap_err();
    assert_eq!(wrong.iter().map(|m| m.at.line).collect::<Vec<_>>(), [1, 2]);
    assert!(load::value::<PodSpec>("").is_err());
    assert!(load::value::<PodSpec>("{}\n---\n{}").is_err());
}
