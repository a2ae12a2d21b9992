//! Volumes: their names, that each has one source, and what the sources of everyday need.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::Volume;

use super::{
    field::{At, Errors},
    names,
};
use crate::resources::Quantity;

/// Checks all volumes and returns their names.
pub(super) fn all<'v>(volumes: &'v [Volume], at: &At, errors: &mut Errors) -> HashSet<&'v str> {
    let mut known = HashSet::new();
    for (i, volume) in volumes.iter().enumerate() {
        let at = at.index(i);
        source(volume, &at, errors);
        match volume.name.as_str() {
            "" => errors.required(&at.field("name"), ""),
            name => {
                let wrong = !names::label(name).is_empty();
                errors.text(&at.field("name"), name, names::label);
                if !wrong && !known.insert(name) {
                    errors.duplicate(&at.field("name"), name);
                }
            }
        }
    }
    known
}

/// No source at all is an `emptyDir`.
fn source(volume: &Volume, at: &At, errors: &mut Errors) {
    let as_json = serde_json::to_value(volume).unwrap_or_default();
    let sources = as_json.as_object().into_iter().flatten().map(|(key, _)| key).filter(|key| *key != "name");
    for second in sources.skip(1) {
        errors.forbidden(&at.field(second), "may not specify more than 1 volume type");
    }
    if let Some(limit) = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref())
        && limit.0.parse::<Quantity>().is_ok_and(Quantity::is_negative)
    {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.forbidden(&at.field("emptyDir.sizeLimit"), detail);
    }
    if let Some(host) = &volume.host_path {
        let at = at.field("hostPath.path");
        if host.path.is_empty() {
            errors.required(&at, "");
        } else if host.path.split('/').any(|part| part == "..") {
            errors.invalid(&at, &host.path, "must not contain '..'");
        }
    }
    if let Some(map) = &volume.config_map {
        if map.name.is_empty() {
            errors.required(&at.field("configMap.name"), "");
        }
        mode(map.default_mode, &at.field("configMap.defaultMode"), errors);
    }
    if let Some(secret) = &volume.secret {
        if secret.secret_name.as_deref().unwrap_or_default().is_empty() {
            errors.required(&at.field("secret.secretName"), "");
        }
        mode(secret.default_mode, &at.field("secret.defaultMode"), errors);
    }
    if let Some(claim) = &volume.persistent_volume_claim
        && claim.claim_name.is_empty()
    {
        errors.required(&at.field("persistentVolumeClaim.claimName"), "");
    }
    if let Some(api) = &volume.downward_api {
        mode(api.default_mode, &at.field("downwardAPI.defaultMode"), errors);
    }
    if let Some(projected) = &volume.projected {
        mode(projected.default_mode, &at.field("projected.defaultMode"), errors);
    }
}

fn mode(mode: Option<i32>, at: &At, errors: &mut Errors) {
    if let Some(mode) = mode.filter(|m| !(0..=0o777).contains(m)) {
        errors.invalid_raw(at, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}
