//! What inits, sidecars and apps have in common.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, ContainerPort, EnvVar, EnvVarSource, VolumeMount};

use super::{
    field::{At, Errors},
    handler, names,
    pod::Context,
    resources,
};
use crate::{resources::Level, version::Gate};

/// The fields that every container has.
pub(super) fn common(container: &Container, at: &At, context: &Context<'_>, errors: &mut Errors) {
    match container.name.as_str() {
        "" => errors.required(&at.field("name"), ""),
        name => errors.text(&at.field("name"), name, names::label),
    }
    match container.image.as_deref().unwrap_or_default() {
        "" => errors.required(&at.field("image"), ""),
        image if image.trim() != image => {
            let detail = "must not have leading or trailing whitespace";
            errors.invalid(&at.field("image"), image, detail);
        }
        _ => {}
    }
    let policy_at = at.field("terminationMessagePolicy");
    let policy = container.termination_message_policy.as_deref();
    errors.one_of(&policy_at, policy, &["File", "FallbackToLogsOnError"]);
    ports(container.ports.as_deref().unwrap_or_default(), &at.field("ports"), errors);
    for (i, variable) in container.env.iter().flatten().enumerate() {
        environment(variable, &at.field("env").index(i), context, errors);
    }
    for (i, from) in container.env_from.iter().flatten().enumerate() {
        let at = at.field("envFrom").index(i);
        match (&from.config_map_ref, &from.secret_ref) {
            (None, None) => {
                errors.invalid(&at, "", "must specify one of: `configMapRef` or `secretRef`");
            }
            (Some(map), None) if map.name.is_empty() => errors.required(&at.field("configMapRef.name"), ""),
            (None, Some(secret)) if secret.name.is_empty() => {
                errors.required(&at.field("secretRef.name"), "");
            }
            (Some(_), Some(_)) => {
                errors.invalid(&at, "", "may not have more than one field specified at a time");
            }
            _ => {}
        }
    }
    mounts(
        container.volume_mounts.as_deref().unwrap_or_default(),
        &at.field("volumeMounts"),
        context,
        errors,
    );
    let pull_at = at.field("imagePullPolicy");
    errors.one_of(&pull_at, container.image_pull_policy.as_deref(), &["Always", "IfNotPresent", "Never"]);
    if let Some(of) = &container.resources {
        resources::requirements(of, &at.field("resources"), Level::Container, errors);
    }
    if let Some(security) = &container.security_context {
        let at = at.field("securityContext");
        let ids = [("runAsUser", security.run_as_user), ("runAsGroup", security.run_as_group)];
        for (name, id) in ids.into_iter().filter_map(|(n, id)| id.map(|id| (n, id))) {
            if !(0..=i64::from(i32::MAX)).contains(&id) {
                errors.invalid_raw(&at.field(name), id, "must be between 0 and 2147483647, inclusive");
            }
        }
        if security.privileged == Some(true) && security.allow_privilege_escalation == Some(false) {
            errors.invalid_raw(
                &at,
                "{...}",
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
    }
}

/// Host ports that are taken twice among some containers.
pub(super) fn host_ports<'a>(containers: impl IntoIterator<Item = (At, &'a Container)>, errors: &mut Errors) {
    let mut taken = HashSet::new();
    for (at, container) in containers {
        for (i, port) in container.ports.iter().flatten().enumerate() {
            let Some(host) = port.host_port.filter(|p| *p != 0) else { continue };
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let key = format!("{protocol}/{}/{host}", port.host_ip.as_deref().unwrap_or_default());
            if taken.contains(&key) {
                errors.duplicate(&at.field("ports").index(i).field("hostPort"), &key);
            } else {
                taken.insert(key);
            }
        }
    }
}

fn ports(ports: &[ContainerPort], at: &At, errors: &mut Errors) {
    let mut known = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = at.index(i);
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let problems = names::port(name);
            if problems.is_empty() && !known.insert(name) {
                errors.duplicate(&at.field("name"), name);
            }
            errors.text(&at.field("name"), name, names::port);
        }
        match port.container_port {
            0 => errors.required(&at.field("containerPort"), ""),
            n => handler::port_number(i64::from(n), &at.field("containerPort"), errors),
        }
        if let Some(n) = port.host_port.filter(|n| *n != 0) {
            handler::port_number(i64::from(n), &at.field("hostPort"), errors);
        }
        errors.one_of(&at.field("protocol"), port.protocol.as_deref(), &["SCTP", "TCP", "UDP"]);
    }
}

fn environment(variable: &EnvVar, at: &At, context: &Context<'_>, errors: &mut Errors) {
    let rule = if context.features.on(Gate::RelaxedEnvironmentVariableValidation) {
        names::environment
    } else {
        names::environment_strict
    };
    match variable.name.as_str() {
        "" => errors.required(&at.field("name"), ""),
        name => errors.text(&at.field("name"), name, rule),
    }
    let Some(from) = &variable.value_from else { return };
    let at = at.field("valueFrom");
    let EnvVarSource { config_map_key_ref, field_ref, resource_field_ref, secret_key_ref, .. } = from;
    let set = [
        field_ref.is_some(),
        resource_field_ref.is_some(),
        config_map_key_ref.is_some(),
        secret_key_ref.is_some(),
        from.file_key_ref.is_some(),
    ];
    match set.into_iter().filter(|s| *s).count() {
        0 => {
            let detail =
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
            errors.invalid(&at, "", detail);
        }
        _ if variable.value.as_deref().is_some_and(|v| !v.is_empty()) => {
            errors.invalid(&at, "", "may not be specified when `value` is not empty");
        }
        1 => {}
        _ => errors.invalid(&at, "", "may not have more than one field specified at a time"),
    }
    let keys = [
        ("configMapKeyRef", config_map_key_ref.as_ref().map(|r| (&r.name, &r.key))),
        ("secretKeyRef", secret_key_ref.as_ref().map(|r| (&r.name, &r.key))),
    ];
    for (source, (name, key)) in keys.into_iter().filter_map(|(s, r)| r.map(|r| (s, r))) {
        if name.is_empty() {
            errors.required(&at.field(source).field("name"), "");
        }
        if key.is_empty() {
            errors.required(&at.field(source).field("key"), "");
        }
    }
}

fn mounts(mounts: &[VolumeMount], at: &At, context: &Context<'_>, errors: &mut Errors) {
    let mut paths = HashSet::new();
    for (i, mount) in mounts.iter().enumerate() {
        let own = at.index(i);
        if mount.name.is_empty() {
            errors.required(&own.field("name"), "");
        } else if !context.volumes.contains(mount.name.as_str()) {
            errors.not_found(&own.field("name"), &mount.name);
        }
        if mount.mount_path.is_empty() {
            errors.required(&own.field("mountPath"), "");
        } else if !paths.insert(mount.mount_path.as_str()) {
            errors.invalid(&own.field("mountPath"), &mount.mount_path, "must be unique");
        }
        // The API server leaves the index out of these two.
        for (name, path) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            let Some(path) = path.as_deref().filter(|p| !p.is_empty()) else { continue };
            if path.starts_with('/') {
                errors.invalid(&at.field(name), path, "must be a relative path");
            }
            if path.split('/').any(|part| part == "..") {
                errors.invalid(&at.field(name), path, "must not contain '..'");
            }
        }
        if mount.sub_path.is_some() && mount.sub_path_expr.is_some() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(
                &own.field("subPathExpr"),
                mount.sub_path_expr.as_deref().unwrap_or_default(),
                detail,
            );
        }
        let propagation = ["Bidirectional", "HostToContainer", "None"];
        errors.one_of(&own.field("mountPropagation"), mount.mount_propagation.as_deref(), &propagation);
    }
}
