//! Several rounds of the same runs: how many, with which seeds, and what came of them.

use std::fmt::Write;

use testground_model::name::RunId;
use testground_model::outcome::RunOutcome;

use super::prepare::drawn_seed;

/// Failures that are shown one by one.
const MOST_SHOWN: usize = 20;
/// Characters of a cause.
const CAUSE: usize = 200;

/// The rounds of one command.
#[derive(Debug)]
pub(super) struct Rounds {
    /// How many there are at most.
    most: Option<u32>,
    until_fail: bool,
    /// Rounds that were begun.
    begun: u32,
    ok: u32,
    failures: Vec<Failure>,
    interrupted: bool,
}

#[derive(Debug)]
struct Failure {
    round: u32,
    run: String,
    id: RunId,
    seed: u64,
    cause: String,
}

// === impl Rounds ===

impl Rounds {
    /// One round, or as many as are asked for; without a number, as many as it takes until one fails.
    pub(super) fn new(repeat: Option<u32>, until_fail: bool) -> Rounds {
        let most = if until_fail { repeat } else { Some(repeat.unwrap_or(1)) };
        Rounds { most, until_fail, begun: 0, ok: 0, failures: Vec::new(), interrupted: false }
    }

    /// Whether there may be more than one.
    pub(super) fn are_several(&self) -> bool {
        self.most != Some(1)
    }

    /// Begins the next round, if there is one; its title, which is empty when it is the only one.
    pub(super) fn next(&mut self) -> Option<String> {
        let enough = self.most.is_some_and(|most| self.begun >= most);
        if enough || self.until_fail && !self.failures.is_empty() {
            return None;
        }
        self.begun += 1;
        Some(match self.most {
            Some(1) => String::new(),
            Some(most) => format!("round {} of {most}", self.begun),
            None => format!("round {}, until one fails", self.begun),
        })
    }

    /// The seed of a run in this round: the chosen one in all of them; else another one in each.
    pub(super) fn seed(&self, seed: u64, drawn: u64) -> u64 {
        if seed == drawn && self.begun > 1 { drawn_seed() } else { seed }
    }

    /// What tells a run of this round from those of others.
    pub(super) fn name(&self, run: &str) -> String {
        if self.are_several() { format!("{run} round {}", self.begun) } else { run.to_owned() }
    }

    /// Counts a run that ended.
    pub(super) fn add(&mut self, run: &str, id: &RunId, seed: u64, outcome: &RunOutcome) {
        match outcome {
            RunOutcome::Success => self.ok += 1,
            RunOutcome::Interrupted => self.interrupted = true,
            _ => {
                let cause = outcome.cause().unwrap_or_default();
                let first = cause.lines().next().unwrap_or_default();
                let cause = first.chars().filter(|c| !c.is_control()).take(CAUSE).collect();
                self.failures.push(Failure {
                    round: self.begun,
                    run: run.to_owned(),
                    id: id.clone(),
                    seed,
                    cause,
                });
            }
        }
    }

    /// What came of all rounds; nothing where there is only one.
    pub(super) fn summary(&self) -> String {
        if !self.are_several() {
            return String::new();
        }
        let runs = |n: usize| if n == 1 { "run" } else { "runs" };
        let all = self.ok as usize + self.failures.len();
        let rounds = if self.begun == 1 { "1 round".to_owned() } else { format!("{} rounds", self.begun) };
        let mut out =
            format!("\n  {rounds}, {all} {}: {} ok, {} failed", runs(all), self.ok, self.failures.len());
        if self.interrupted {
            out.push_str(", and one interrupted");
        }
        for failure in self.failures.iter().take(MOST_SHOWN) {
            let Failure { round, run, id, seed, cause } = failure;
            let _ = write!(out, "\n  round {round}: run {run} ({id}): {cause}");
            let _ = write!(out, "\n    the same chances again: --seed {seed}");
        }
        if self.failures.len() > MOST_SHOWN {
            let _ = write!(out, "\n  … {} more that failed", self.failures.len() - MOST_SHOWN);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> RunOutcome {
        RunOutcome::Failure { cause: "g[1] exited with code 3\nand said much".to_owned() }
    }

    fn id() -> RunId {
        RunId::new(1, [0; 8])
    }

    #[test]
    fn a_single_round_is_no_word_worth() {
        let mut rounds = Rounds::new(None, false);
        assert_eq!(rounds.next().as_deref(), Some(""));
        rounds.add("default", &id(), 1, &failure());
        assert_eq!((rounds.next(), rounds.summary(), rounds.name("a")), (None, String::new(), "a".into()));
    }

    #[test]
    fn rounds_go_on_after_a_failure_and_its_seed_is_told() {
        let mut rounds = Rounds::new(Some(3), false);
        let mut titles = Vec::new();
        while let Some(title) = rounds.next() {
            let outcome = if rounds.begun == 2 { failure() } else { RunOutcome::Success };
            rounds.add("default", &id(), 40 + u64::from(rounds.begun), &outcome);
            titles.push(title);
        }
        assert_eq!(titles, ["round 1 of 3", "round 2 of 3", "round 3 of 3"]);
        let summary = rounds.summary();
        assert!(summary.contains("3 rounds, 3 runs: 2 ok, 1 failed"), "{summary}");
        assert!(
            summary.contains(&format!("round 2: run default ({}): g[1] exited with code 3\n", id())),
            "{summary}"
        );
        assert!(summary.ends_with("--seed 42"), "{summary}");
    }

    #[test]
    fn until_one_fails_there_is_no_end_but_the_failure_or_the_bound() {
        let mut rounds = Rounds::new(None, true);
        for _ in 0..50 {
            assert!(rounds.next().is_some());
            rounds.add("default", &id(), 1, &RunOutcome::Success);
        }
        rounds.add("default", &id(), 1, &failure());
        assert_eq!(rounds.next(), None);
        let mut bounded = Rounds::new(Some(2), true);
        assert_eq!((bounded.next().is_some(), bounded.next().is_some(), bounded.next()), (true, true, None));
    }

    #[test]
    fn a_seed_that_was_chosen_stays_and_one_that_was_drawn_is_drawn_again() {
        let mut rounds = Rounds::new(Some(2), false);
        rounds.next();
        assert_eq!((rounds.seed(5, 9), rounds.seed(9, 9)), (5, 9));
        rounds.next();
        assert_eq!(rounds.seed(5, 9), 5);
        assert_ne!(rounds.seed(9, 9), 9);
    }
}
