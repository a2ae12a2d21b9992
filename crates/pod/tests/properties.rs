//! What holds for every pod under whatever happens to it.

mod random;

use proptest::prelude::*;
use testground_pod::simulate::simulate;
use testground_pod::simulate::timeline::Timeline;

use random::pods::{pod, script, script_for, settings};
use random::{events, holds, judge};

/// A few cases in everyday tests; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(64);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn held(result: Result<(), String>) -> Result<(), TestCaseError> {
    result.map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_pod_that_is_stopped_ends_within_its_grace_and_two_seconds(
        pod in pod(), drawn in script(), settings in settings()
    ) {
        let timeline = simulate(&pod, &script_for(&pod, &drawn, false), &settings).expect("simulates");
        held(holds::ends_in_time(&timeline, &settings))?;
    }

    #[test]
    fn a_sidecar_outlives_the_apps(pod in pod(), drawn in script(), settings in settings()) {
        let timeline = simulate(&pod, &script_for(&pod, &drawn, false), &settings).expect("simulates");
        held(holds::sidecars_outlive_apps(&timeline))?;
    }

    #[test]
    fn restart_counts_never_fall(pod in pod(), drawn in script(), settings in settings()) {
        let timeline = simulate(&pod, &script_for(&pod, &drawn, false), &settings).expect("simulates");
        held(holds::counts_never_fall(&timeline))?;
    }

    #[test]
    fn whatever_befalls_a_pod_its_lanes_make_sense(pod in pod(), drawn in script(), settings in settings()) {
        let timeline = simulate(&pod, &script_for(&pod, &drawn, true), &settings).expect("simulates");
        held(holds::lanes_make_sense(&timeline))?;
        // It can be written and read.
        let text = serde_json::to_string(&timeline).expect("JSON");
        let read: Timeline = serde_json::from_str(&text).expect("a timeline");
        prop_assert_eq!(read.lanes.len(), timeline.lanes.len());
    }

    #[test]
    fn random_events_never_panic_and_actions_never_contradict(
        pod in pod(), settings in settings(), events in events()
    ) {
        held(judge::listen(&pod, &settings, &events))?;
    }

    /// The fuzz target `machine`, over any bytes.
    #[test]
    fn any_bytes_make_a_pod_that_holds(data in proptest::collection::vec(any::<u8>(), 0..1_300)) {
        held(random::machine(&data))?;
    }
}
