//! What an instance finds in its environment.
//!
//! The variables of the original's runners, all of them always present (sdk-rust does not start without), plus
//! `TEST_INSTANCE_INDEX`, `TEST_INSTANCE_SEED` and `TEST_PLAN_DIR`. Nothing is inherited but the locale and `LOG_LEVEL`.

use std::collections::BTreeMap;

use testground_model::name::{InstanceName, fnv1a};
use testground_model::run::Group;

use super::protocol::{Program, Setup, paths};

/// Port of the sync service.
pub const SYNC_PORT: u16 = 5050;
/// Port where measurements are taken in InfluxDB's protocol.
pub const INFLUX_PORT: u16 = 8086;
/// The gateway of the control network, as instances know it.
pub const SERVICES: [&str; 3] = ["testground-sync-service", "testground-influxdb", "testground-redis"];

/// Everything an instance's environment is made of.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The run.
    pub setup: &'a Setup,
    /// The instance's group.
    pub group: &'a Group,
    /// The instance.
    pub name: &'a InstanceName,
    /// Its host name.
    pub hostname: &'a str,
    /// Its output directory.
    pub outputs: &'a str,
    /// Its temporary directory.
    pub temp: &'a str,
    /// What it executes.
    pub program: &'a Program,
    /// The default data network's subnet.
    pub subnet: String,
    /// Variables of the lab's own environment, for the few that are passed on.
    pub inherited: &'a BTreeMap<String, String>,
}

/// The environment of an instance.
pub fn environment(facts: &Facts<'_>) -> Vec<(String, String)> {
    let Facts { setup, group, name, .. } = facts;
    let run = &setup.run;
    let mut env: Vec<(String, String)> = Vec::with_capacity(40);
    let mut put = |key: &str, value: String| env.push((key.to_owned(), value));
    put("TEST_PLAN", run.plan.clone());
    put("TEST_CASE", run.case.clone());
    put("TEST_RUN", setup.id.to_string());
    for empty in ["TEST_BRANCH", "TEST_REPO", "TEST_TAG", "TEST_COMMIT", "TEST_INSTANCE_ROLE"] {
        put(empty, String::new());
    }
    put("TEST_INSTANCE_COUNT", run.instance_count().to_string());
    put("TEST_GROUP_INSTANCE_COUNT", group.instances.to_string());
    put("TEST_GROUP_ID", group.id.clone());
    put("TEST_INSTANCE_PARAMS", packed(&group.params));
    put("TEST_CAPTURE_PROFILES", packed(&group.profiles));
    put("TEST_SIDECAR", "true".to_owned());
    put("TEST_DISABLE_METRICS", run.disable_metrics.to_string());
    put("TEST_OUTPUTS_PATH", facts.outputs.to_owned());
    put("TEST_TEMP_PATH", facts.temp.to_owned());
    put("TEST_START_TIME", setup.start_time.clone());
    put("TEST_SUBNET", facts.subnet.clone());
    put("TEST_INSTANCE_INDEX", name.index.to_string());
    put("TEST_INSTANCE_SEED", instance_seed(run.settings.seed, name).to_string());
    put("TEST_PLAN_DIR", facts.program.plan_dir.display().to_string());
    put("SYNC_SERVICE_HOST", SERVICES[0].to_owned());
    put("SYNC_SERVICE_PORT", SYNC_PORT.to_string());
    put("INFLUXDB_URL", format!("http://{}:{INFLUX_PORT}", SERVICES[1]));
    put("REDIS_HOST", SERVICES[2].to_owned());
    // Names without ports, as the original has it; absent where there are none, as there.
    let mut hosts: Vec<String> = Vec::new();
    for name in run.settings.additional_hosts.iter().map(|host| host.name()) {
        if !hosts.contains(&name) {
            hosts.push(name);
        }
    }
    if !hosts.is_empty() {
        put("ADDITIONAL_HOSTS", hosts.join(","));
    }
    put("HOSTNAME", facts.hostname.to_owned());
    put("HOME", facts.temp.to_owned());
    put("TMPDIR", facts.temp.to_owned());
    let path = facts.inherited.get("PATH").map_or("/usr/local/bin:/usr/bin:/bin", String::as_str);
    put("PATH", format!("{}:{path}", paths::BIN));
    for key in ["LANG", "LC_ALL", "TZ", "LOG_LEVEL", "RUST_LOG", "RUST_BACKTRACE", "GODEBUG"] {
        if let Some(value) = facts.inherited.get(key) {
            put(key, value.clone());
        }
    }
    env
}

/// `k=v|k=v`. Nothing is escaped, because no SDK unescapes: values with `|` never get here.
fn packed(values: &BTreeMap<String, String>) -> String {
    values.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("|")
}

/// A number of its own for each instance, the same whenever the run's seed and the name are.
fn instance_seed(seed: u64, name: &InstanceName) -> u64 {
    let text = format!("{seed}/{name}");
    // FNV mixes its last bytes poorly: one round of splitmix64 spreads them. Kept below 2^63, so that every
    // language's signed integer holds it.
    let mut z = fnv1a(text.as_bytes()).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ z >> 31) >> 1
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn seeds_differ_by_instance_and_by_run_and_repeat() {
        let seeds: HashSet<u64> =
            (0..1000).flat_map(|i| [1, 2].map(|s| instance_seed(s, &InstanceName::new("g", i)))).collect();
        assert_eq!(seeds.len(), 2000);
        let again = instance_seed(1, &InstanceName::new("g", 7));
        assert!(seeds.contains(&again) && again < 1 << 63);
    }

    #[test]
    fn parameters_are_packed_as_sdks_unpack_them() {
        let params = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "x y".to_owned())]);
        assert_eq!(packed(&params), "a=1|b=x y");
        assert_eq!(packed(&BTreeMap::new()), "");
    }
}
