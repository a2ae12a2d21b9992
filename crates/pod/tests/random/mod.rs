//! Chance, and what must hold whatever it brings: used by the property tests and by the fuzz targets in `fuzz/`.

#![allow(dead_code, reason = "each test and each target uses its own part of this")]

pub(crate) mod holds;
pub(crate) mod judge;
pub(crate) mod loader;
pub(crate) mod pods;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use testground_pod::simulate::simulate;

/// Events for [`judge::listen`].
pub(crate) fn events() -> impl Strategy<Value = Vec<judge::Befalls>> {
    proptest::collection::vec((0..15_000u64, 0..24u8, 0..8u16, 0..6u32, -1..4i32), 0..200)
}

/// What a fuzzer's bytes make of the machine: the first one chooses what is asked, the next 32 are the seed of a pod and its
/// settings, and the rest is what happens: six bytes an event, in any order. Or the seed draws a script too, which a
/// simulation follows.
///
/// # Errors
/// What does not hold.
pub(crate) fn machine(data: &[u8]) -> Result<(), String> {
    let Some((&first, rest)) = data.split_first() else { return Ok(()) };
    let Some((seed, happens)) = rest.split_at_checked(32) else { return Ok(()) };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, seed);
    let mut chance = TestRunner::new_with_rng(Config::default(), rng);
    if first % 2 == 0 {
        let Ok(drawn) = (pods::settings(), pods::pod()).new_tree(&mut chance) else { return Ok(()) };
        let (settings, pod) = drawn.current();
        let events: Vec<judge::Befalls> = happens.chunks_exact(6).take(200).map(befalls).collect();
        return judge::listen(&pod, &settings, &events);
    }
    let Ok(drawn) = (pods::settings(), pods::pod(), pods::script()).new_tree(&mut chance) else {
        return Ok(());
    };
    let (settings, pod, script) = drawn.current();
    let engine = first % 4 == 1;
    let timeline = simulate(&pod, &pods::script_for(&pod, &script, engine), &settings)
        .map_err(|error| error.to_string())?;
    holds::lanes_make_sense(&timeline)?;
    if engine {
        return Ok(());
    }
    holds::ends_in_time(&timeline, &settings)?;
    holds::sidecars_outlive_apps(&timeline)?;
    holds::counts_never_fall(&timeline)
}

/// One event of six bytes, within the same bounds as those of [`events`].
fn befalls(six: &[u8]) -> judge::Befalls {
    let millis = u64::from(u16::from_le_bytes([six[0], six[1]])) % 15_000;
    (millis, six[2] % 24, u16::from(six[3] % 8), u32::from(six[4] % 6), i32::from(six[5] % 5) - 1)
}
