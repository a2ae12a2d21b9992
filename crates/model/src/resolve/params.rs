//! The test parameters and profiles of each group.

use std::collections::BTreeMap;

use super::{Member, Resolver};
use crate::composition::check_param;
use crate::diagnostic::nearest;
use crate::manifest::TestCase;
use crate::reader::At;

impl Resolver<'_> {
    /// Run-group over run over group over global over manifest.
    pub(super) fn params(&self, member: &Member<'_>, case: Option<&TestCase>) -> BTreeMap<String, String> {
        let mut typed: BTreeMap<&str, &At<String>> = BTreeMap::new();
        let run = member.run.map(|(run, _)| &run.test_params);
        let in_run = member.in_run().map(|group| &group.run.test_params);
        let global = &self.composition.global.run.test_params;
        for table in [Some(global), Some(&member.base.run.test_params), run, in_run].into_iter().flatten() {
            typed.extend(table.iter().map(|(name, value)| (name.as_str(), value)));
        }
        let mut params: BTreeMap<String, String> = BTreeMap::new();
        if let Some(case) = case {
            for (name, parameter) in &case.params {
                if typed.contains_key(name.as_str()) {
                    continue;
                }
                if parameter.value.default.is_none() {
                    let message =
                        format!("parameter {name} has no default and nobody sets it: instances read `null`");
                    self.error(parameter.place.warning(message));
                }
                let value = parameter.value.effective_default();
                for mistake in check_param([&parameter.place; 2], name, value) {
                    self.error(mistake);
                }
                params.insert(name.clone(), value.to_owned());
            }
            for (name, value) in &typed {
                if !case.params.is_empty() && !case.params.contains_key(*name) {
                    let known = case.params.keys().map(String::as_str);
                    let message = format!(
                        "test case {} declares no parameter {name}; it is passed on all the same",
                        case.name.value
                    );
                    let warning = value.place.warning(message);
                    self.error(super::with_suggestion(warning, nearest(name, known)));
                }
            }
        }
        params.extend(typed.into_iter().map(|(name, value)| (name.to_owned(), value.value.clone())));
        params
    }

    /// Run-group over group over global.
    pub(super) fn profiles(&self, member: &Member<'_>) -> BTreeMap<String, String> {
        let global = &self.composition.global.run.profiles;
        let in_run = member.in_run().map(|group| &group.run.profiles);
        let mut profiles = BTreeMap::new();
        for table in [Some(global), Some(&member.base.run.profiles), in_run].into_iter().flatten() {
            profiles.extend(table.iter().map(|(kind, value)| (kind.clone(), value.value.clone())));
        }
        profiles
    }
}
