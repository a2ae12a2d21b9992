//! How each group is built: builder, settings, selectors, dependencies.

use std::collections::BTreeMap;

use super::{Resolver, with_suggestion};
use crate::catalogue::{self, BUILDERS, FOREIGN_BUILD_SETTINGS};
use crate::composition::GroupSpec;
use crate::diagnostic::names;
use crate::manifest::nearest_key;
use crate::reader::At;
use crate::run::toml_value::Value;
use crate::run::{Build, Dependency};

impl Resolver<'_> {
    /// The build of a group; `None` when it has no usable builder.
    pub(super) fn build(&self, group: &GroupSpec) -> Option<Build> {
        let global = &self.composition.global;
        let named = group.builder.as_ref().or(global.builder.as_ref())?;
        let builder = self.builder(named)?;
        let mut config: BTreeMap<String, &At<Value>> = BTreeMap::new();
        let manifest = self.manifest.builders.get(builder.name).map(|table| &table.value);
        // Lowest precedence first: each later table writes over the ones before, key by key.
        for table in [manifest, Some(&global.build.config), Some(&group.build.config)].into_iter().flatten() {
            config.extend(table.iter().map(|(key, value)| (key.clone(), value)));
        }
        let config = config.into_iter().filter(|(key, value)| self.check_setting(builder, key, value));
        let selectors = group.build.selectors.as_ref().or(global.build.selectors.as_ref());
        let mut dependencies = BTreeMap::new();
        for spec in global.build.dependencies.iter().chain(&group.build.dependencies) {
            let dependency = Dependency { target: spec.target.clone(), version: spec.version.clone() };
            dependencies.insert(spec.module.value.clone(), dependency);
        }
        if !dependencies.is_empty() && builder.name != "exec:go" {
            let at = &group.build.dependencies.first().or(global.build.dependencies.first())?.module.place;
            self.error(at.warning(format!("builder {} does not read build.dependencies", builder.name)));
        }
        let artifact = group.run.artifact.as_ref().filter(|_| !self.overrides.ignore_artifacts);
        Some(Build {
            builder: builder.name.to_owned(),
            config: config.map(|(key, value)| (key, value.value.clone())).collect(),
            selectors: selectors
                .map(|s| s.value.iter().map(|tag| tag.value.clone()).collect())
                .unwrap_or_default(),
            dependencies,
            artifact: artifact.map(|a| a.value.clone()),
        })
    }

    fn builder(&self, named: &At<String>) -> Option<&'static catalogue::Builder> {
        let known = || BUILDERS.iter().map(|b| b.name);
        let Some(builder) = catalogue::builder(&named.value) else {
            let message = format!("unknown builder: {}; known are {}", named.value, names(known()));
            self.error(named.place.error(message).suggest_nearest(&named.value, known()));
            return None;
        };
        if !builder.ready {
            let ready = names(BUILDERS.iter().filter(|b| b.ready).map(|b| b.name));
            self.error(
                named.place.error(format!("builder {} is not there yet; there are {ready}", builder.name)),
            );
            return None;
        }
        if !self.manifest.builders.contains_key(builder.name) {
            let message = format!(
                "plan does not support builder '{}'; supported: {}",
                builder.name,
                names(self.manifest.builders.keys().map(String::as_str))
            );
            self.error(with_suggestion(
                named.place.error(message),
                nearest_key(builder.name, &self.manifest.builders),
            ));
        }
        Some(builder)
    }

    /// Whether a builder reads this setting; what it doesn't read is reported.
    fn check_setting(&self, builder: &catalogue::Builder, key: &str, value: &At<Value>) -> bool {
        if builder.settings.contains(&key) {
            return true;
        }
        if FOREIGN_BUILD_SETTINGS.contains(&key) {
            if key != "enabled" {
                let message = format!("`{key}` has no effect: builder {} does not read it", builder.name);
                self.error(value.place.of_key().warning(message));
            }
            return false;
        }
        let known = || builder.settings.iter().copied();
        let message =
            format!("builder {} has no setting `{key}`; known are {}", builder.name, names(known()));
        self.error(value.place.of_key().error(message).suggest_nearest(key, known()));
        false
    }
}
