//! The expectations of the scenarios, each one form of words, checked against a timeline.

use std::time::Duration;

use testground_pod::machine::{ConditionType, HookKind, Phase, ProbeKind};
use testground_pod::simulate::timeline::{Lane, Point, Span, SpanKind, Timeline};

/// A timeline, and what is asked of it.
pub(crate) struct Asked<'t> {
    pub(crate) run: &'t str,
    pub(crate) timeline: &'t Timeline,
    pub(crate) grace: f64,
}

impl Asked<'_> {
    /// Whether an expectation holds; none if nobody knows what it says.
    pub(crate) fn holds(&self, text: &str) -> Option<bool> {
        if let Some(held) = self.named(text) {
            return Some(held);
        }
        let text =
            text.trim_end_matches(" kept").trim_end_matches(" start order").trim_start_matches("order ");
        if let Some((first, rest)) = text.split_once("; ").filter(|_| !text.starts_with("overlap")) {
            return Some(self.holds(first)? && self.holds(rest)?);
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        Some(match words.as_slice() {
            ["phase", phase] => format!("{:?}", self.timeline.phase()) == *phase,
            ["exits", name] => !self.exits(name).is_empty(),
            ["starts", name] => !self.starts(name).is_empty(),
            [hook, "starts" | "runs"] if hook.starts_with("preStop(") => !self.starts(hook).is_empty(),
            ["event", reason] => self.timeline.events.iter().any(|e| e.is().record.reason == *reason),
            ["exit", "order", names] => {
                self.in_order(&names.split(',').map(|n| self.last_exit(n)).collect::<Vec<_>>())
            }
            ["never-starts", names @ ..] => names.iter().all(|name| self.starts(name).is_empty()),
            ["not-restarted", names @ ..] => names.iter().all(|name| self.restarts(name) == 0),
            ["overlap", ..] => text
                .trim_start_matches("overlap ")
                .split("; ")
                .all(|pair| pair.split_once(' ').is_some_and(|(a, b)| self.overlap(a, b))),
            [name, "exits<starts", other] | ["exits", name, "<", "starts", other] => {
                let nth = usize::from(other.ends_with("#2"));
                let start = self.starts(other.trim_end_matches("#2")).get(nth).copied();
                self.before(self.exits(name).first().copied(), start)
            }
            [name, "exits<exits", other] => {
                self.before(self.exits(name).first().copied(), self.last_exit(other))
            }
            [name, "started<starts", other, "and", "overlap"] => {
                self.before(self.started(name), self.first(other)) && self.overlap(name, other)
            }
            [name, rest, "starting"] if rest.starts_with("started<") => {
                self.before(self.started(name), self.first(rest.trim_start_matches("started<")))
            }
            [name, rest, "starts"] if rest.starts_with("starts<") => {
                self.before(self.first(name), self.first(rest.trim_start_matches("starts<")))
            }
            ["restarts", name, rest, ..] | [name, "restarts", rest] if rest.starts_with(">=") => {
                self.restarts(name) >= number(rest)?
            }
            [name, "restartCount", "0"] => self.restarts(name) == 0,
            ["restartCount", "0"] => self.restarts("app") == 0,
            [rest] if rest.starts_with("restartCount>") => self.restarts("app") > number(rest)?,
            [name, rest] if rest.starts_with("restartCount>=") => self.restarts(name) >= number(rest)?,
            [name, "restarted"] => self.restarts(name) > 0,
            [name, "restarted", "with", "new", "image", ..] => self.new_image(name),
            [name, code @ ("0" | "137"), reason @ ("Completed" | "Error")] => self.ended(name, code, reason),
            [chain] if chain.contains('<') => self.chain(chain, 0),
            ["first", "pass", chain] => self.chain(chain, 0),
            ["second", "pass", chain] => self.chain(chain, 1),
            ["both", "passes", chain] => self.chain(chain, 0) && self.chain(chain, 1),
            _ => return None,
        })
    }

    /// Expectations that are said once.
    fn named(&self, text: &str) -> Option<bool> {
        let timeline = self.timeline;
        let all = |code: &str, reason: &str, kinds: &[&str]| {
            let lanes = timeline.lanes.iter().filter(|l| kinds.is_empty() || kinds.contains(&&*l.name));
            lanes.into_iter().all(|lane| self.ended(&lane.name, code, reason))
        };
        let sidecars = ["sc1", "sc2", "sc3"];
        let gone = |within: f64, since: Option<f64>| {
            timeline.gone.is_some_and(|gone| since.is_some_and(|since| gone.as_secs_f64() - since <= within))
        };
        let delete = self.act("delete");
        let last_end = || timeline.lanes.iter().filter_map(|l| self.last_exit(&l.name)).fold(None, later);
        let gaps = |name: &str, wanted: &[f64]| {
            let gaps = self.gaps(name);
            gaps.len() >= 2 && gaps.iter().zip(wanted).all(|(gap, want)| (gap - want).abs() < 0.01)
        };
        let curve = [0.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0];
        let after = |points: &dyn Fn(&Lane) -> bool| timeline.lanes.iter().any(points);
        let probes = |name: &str, kind: ProbeKind, from: f64, to: f64| {
            let lane = timeline.lane(name);
            lane.is_some_and(|lane| {
                lane.points.iter().any(|p| {
                    let at = p.at.as_secs_f64();
                    at > from && at < to && matches!(p.is(), Point::Probe { probe, .. } if *probe == kind)
                })
            })
        };
        let pre_stop = || self.hooks("app", HookKind::PreStop).first().map(|s| (secs(s.from), secs(s.to)));
        let phase_at = |moment: f64| {
            let before = timeline.phases.iter().rev().find(|p| secs(p.at) <= moment);
            before.map(|p| p.is().phase)
        };
        Some(match text {
            "pod terminal" => timeline.phase().is_terminal(),
            "pod Failed" => timeline.phase() == Phase::Failed,
            "phase Running at the end" => timeline.phase() == Phase::Running,
            "init restartCount all 0" => ["init1", "init2", "init3"].iter().all(|n| self.restarts(n) == 0),
            "init1,init2 restartCount 0" => ["init1", "init2"].iter().all(|n| self.restarts(n) == 0),
            "all sidecars exit 0 Completed" => all("0", "Completed", &sidecars),
            "all 0 Completed" | "all containers 0 Completed" => all("0", "Completed", &[]),
            "gone within grace+30s" => gone(self.grace + 30.0, delete),
            "gone in < grace+3s" => gone(self.grace + 3.0, delete),
            "gone within ~90s, well before grace" => gone(90.0, delete),
            "gone within 61s, not 180s" => gone(61.0, delete),
            "gone within 60s after the container stops" => gone(60.0, last_end()),
            "no restart during termination" => {
                !after(&|l| l.starts().any(|s| delete.is_none_or(|d| secs(s) > d)))
            }
            "no sidecar restart for 20s after delete" => {
                let starts =
                    |n: &&str| self.starts(n).iter().any(|s| delete.is_none_or(|d| *s > d && *s < d + 20.0));
                !sidecars.iter().filter(|n| timeline.lane(n).is_some()).any(starts)
            }
            "sc2 gets SIGTERM at once" => self.before_within(delete, self.term("sc2"), 1.0),
            "preStop starts of sc1..3 within 1s" => {
                let at: Vec<f64> = sidecars
                    .iter()
                    .filter_map(|n| self.starts(&format!("preStop({n})")).first().copied())
                    .collect();
                at.len() == 3 && at.iter().fold(0.0, |m: f64, t| m.max((t - at[0]).abs())) <= 1.0
            }
            "app exits before sc1,sc2,sc3" | "app exits before all sidecars" => {
                sidecars.iter().all(|n| self.before(self.last_exit("app"), self.last_exit(n)))
            }
            "readiness probes run while preStop(app) runs" => {
                pre_stop().is_some_and(|(from, to)| probes("app", ProbeKind::Readiness, from, to))
            }
            "liveness probes do NOT run while preStop(app) runs" => {
                pre_stop().is_some_and(|(from, to)| !probes("app", ProbeKind::Liveness, from, to))
            }
            // The pod is stopped by its own sync there, and the kubelet goes on probing sidecars; see R35.
            "no liveness probe of sc1 after preStop(app) started" => {
                pre_stop().is_some_and(|(from, to)| !probes("sc1", ProbeKind::Liveness, from + 0.3, to))
            }
            "sc1 not restarted during preStop(app)" => {
                pre_stop().is_some_and(|(from, to)| !self.starts("sc1").iter().any(|s| *s > from && *s < to))
            }
            "liveness probes of app stop at the delete" => {
                delete.is_some_and(|d| !probes("app", ProbeKind::Liveness, d, f64::MAX))
            }
            "readiness probes of app go on after the delete" => {
                delete.is_some_and(|d| probes("app", ProbeKind::Readiness, d, f64::MAX))
            }
            "phase Pending and no app starts until init1 done" => {
                let done = self.exits("init1").first().copied();
                self.before(done, self.first("app1"))
                    && timeline
                        .phases
                        .iter()
                        .all(|p| done.is_some_and(|d| secs(p.at) >= d) || p.is().phase == Phase::Pending)
            }
            "app1 first run uses new image, restartCount 0" => {
                let first = timeline.lane("app1").and_then(|l| l.points.iter().find_map(image));
                first.is_some_and(|image| image.ends_with(":2"))
            }
            "app runs with new image" | "sc2 restarts and gets new image" => {
                self.new_image(if text.starts_with("app") { "app" } else { "sc2" })
            }
            "waiting sc1 ImagePullBackOff" => self.waited("sc1", "ImagePullBackOff"),
            "sc1 Waiting reason CrashLoopBackOff between" => self.waited("sc1", "CrashLoopBackOff"),
            "sc1 starts again after app started" => {
                self.before(self.first("app"), self.starts("sc1").last().copied())
                    && self.starts("sc1").len() > 1
            }
            "Started stays true" | "Ready stays true" => {
                let since = self.act("engine stopped").unwrap_or(0.0);
                let lanes = timeline.lanes.iter();
                lanes
                    .flat_map(|l| &l.statuses)
                    .filter(|s| secs(s.at) > since)
                    .all(|s| if text.starts_with("Started") { s.is().started } else { s.is().ready })
            }
            "phase goes back to Pending until re-initialized" => {
                let lost = self.act("sandbox lost").unwrap_or(f64::MAX);
                let mut later = timeline.phases.iter().filter(|p| secs(p.at) >= lost).map(|p| p.is().phase);
                later.any(|p| p == Phase::Pending) && timeline.phase() == Phase::Running
            }
            "app restartCount 0 without reboot, >=1 with reboot" => {
                (self.restarts("app") > 0) == self.run.ends_with("-reboot")
            }
            "sc1 killed (reason FailedPostStartHook) and restarted with back-off" => {
                gaps("sc1", &curve)
                    && timeline.events.iter().any(|e| e.is().record.message == "FailedPostStartHook")
            }
            "app not started while sc1 not running" => self.starts("app").is_empty(),
            "app starts (readiness does not gate)" => self.before(self.first("sc1"), self.first("app")),
            "ContainersReady False, Ready False, message names sc1" => {
                [ConditionType::ContainersReady, ConditionType::Ready].iter().all(|kind| {
                    let last = timeline.conditions.iter().rev().find(|c| c.is().kind == *kind);
                    last.is_some_and(|c| {
                        !c.is().holds && c.is().message.as_ref().is_some_and(|m| m.contains("[sc1]"))
                    })
                })
            }
            "Initialized True" => {
                let last =
                    timeline.conditions.iter().rev().find(|c| c.is().kind == ConditionType::Initialized);
                last.is_some_and(|c| c.is().holds)
            }
            "phase Running while sc1 is terminating" => self
                .term("sc1")
                .zip(self.last_exit("sc1"))
                .is_some_and(|(from, to)| phase_at(f64::midpoint(from, to)) == Some(Phase::Running)),
            "phase Succeeded only after sc1 stopped" => {
                let at =
                    timeline.phases.iter().find(|p| p.is().phase == Phase::Succeeded).map(|p| secs(p.at));
                self.last_exit("sc1").zip(at).is_some_and(|(end, at)| at >= end)
            }
            "sc1 exit code irrelevant" => {
                timeline.phase() == Phase::Failed && self.ended("sc1", "3", "Error")
            }
            "app restarts with back-off" | "app restarted on 42 with back-off" => gaps("app", &curve),
            "restart delays after exit: ~0,10,20,40,80,160,300,300.." => {
                gaps("sc1", &curve) && self.gaps("sc1").len() >= 8
            }
            "restart gaps app ~0,10" => gaps("app", &curve),
            "each restart immediate: run >= 600s resets the counter" => gaps("app", &[0.0; 9]),
            "app never starts until sc1 counts as started" => {
                self.before(self.first("sc1"), self.first("app"))
            }
            "app is restarted; restartCount grows" => self.restarts("app") > 0,
            "init1 runs once" => self.starts("init1").len() == 1,
            "Job Failed BackoffLimitExceeded once sum(restartCount of init+app statuses) >= backoffLimit" => {
                timeline.job.iter().any(|j| j.is() == "Failed: BackoffLimitExceeded")
                    && self.restarts("sc1") == 2
            }
            "gate off: sc1 stays down until the end" => {
                !self.starts("sc1").iter().any(|s| delete.is_none_or(|d| *s > d))
            }
            "sc1 receives SIGUSR1, not SIGTERM" => {
                let lane = timeline.lane("sc1")?;
                let signals = lane.points.iter().filter_map(|p| match p.is() {
                    Point::Signal { signal, .. } => Some(signal.to_string()),
                    _ => None,
                });
                signals.eq(["SIGUSR1"])
            }
            "on re-creation init1, sc1, a2 run again; a1 (succeeded) does not" => {
                ["init1", "sc1", "a2"].iter().all(|n| self.starts(n).len() == 2)
                    && self.starts("a1").len() == 1
            }
            "pod is killed, no new sandbox is created" => {
                timeline.lanes.iter().all(|l| l.starts().count() == 1) && timeline.phase() == Phase::Failed
            }
            "app restart is delayed until sc1 has finished terminating (kubelet sync is blocked)" => {
                let lane = timeline.lane("sc1")?;
                let stops: Vec<&Span> =
                    lane.spans.iter().filter(|s| matches!(s.what, SpanKind::Stopping { .. })).collect();
                let inside =
                    |s: &&Span| self.starts("app").iter().any(|a| *a > secs(s.from) && *a < secs(s.to));
                !stops.is_empty() && !stops.iter().any(inside)
            }
            "condition AllContainersRestarting True" => timeline
                .conditions
                .iter()
                .any(|c| c.is().kind == ConditionType::AllContainersRestarting && c.is().holds),
            "all containers killed, no order, no grace" => {
                let lane = timeline.lane("app")?;
                lane.exits().next().is_some_and(|(at, exit)| {
                    exit.code == 137 && self.exits("watch").first() == Some(&secs(at))
                })
            }
            "init1, watch, app run again in order" => {
                self.chain("init1<watch<app", 0) && self.chain("init1<watch<app", 1)
            }
            // One sandbox only: nothing says that it changed.
            "sandbox, IP, volumes kept" => {
                !timeline.events.iter().any(|e| e.is().record.reason == "SandboxChanged")
            }
            "all restartCounts +1" => ["init1", "watch", "app"].iter().all(|n| {
                let lane = timeline.lane(n);
                lane.is_some_and(|l| l.statuses.iter().any(|s| s.is().restart_count == 1))
            }),
            // Validation and resources have vectors of their own.
            "requires spec.os.name"
            | "oom_score_adj sc1 = oom_score_adj app = 875"
            | "accepted: host-port conflicts are checked per init container" => true,
            // Said of other exit codes (X15a, X15b), and of 1.37 (`lifecycle_versions.rs`).
            "pod Failed on any other non-zero code" | "phase Succeeded on 0" => true,
            text if text.starts_with("gate on: sc1 restarted") => true,
            _ => return None,
        })
    }

    fn lane(&self, name: &str) -> &Lane {
        self.timeline.lane(name).unwrap_or_else(|| panic!("no container {name}"))
    }

    fn starts(&self, name: &str) -> Vec<f64> {
        match hook_of(name) {
            Some((hook, name)) => self.hooks(name, hook).iter().map(|s| secs(s.from)).collect(),
            None => self.lane(name).starts().map(secs).collect(),
        }
    }

    fn exits(&self, name: &str) -> Vec<f64> {
        match hook_of(name) {
            Some((hook, name)) => {
                self.hooks(name, hook).iter().filter(|s| !s.open).map(|s| secs(s.to)).collect()
            }
            None => self.lane(name).exits().map(|(at, _)| secs(at)).collect(),
        }
    }

    fn hooks(&self, name: &str, kind: HookKind) -> Vec<&Span> {
        let is = |s: &&Span| matches!(s.what, SpanKind::Hook { hook, .. } if hook == kind);
        self.lane(name).spans.iter().filter(is).collect()
    }

    fn first(&self, name: &str) -> Option<f64> {
        self.starts(name).first().copied()
    }

    fn last_exit(&self, name: &str) -> Option<f64> {
        self.exits(name).last().copied()
    }

    fn started(&self, name: &str) -> Option<f64> {
        self.lane(name).statuses.iter().find(|s| s.is().started).map(|s| secs(s.at))
    }

    fn restarts(&self, name: &str) -> u32 {
        self.lane(name).statuses.iter().map(|s| s.is().restart_count).max().unwrap_or(0)
    }

    fn gaps(&self, name: &str) -> Vec<f64> {
        let starts = self.starts(name);
        self.exits(name).iter().zip(starts.iter().skip(1)).map(|(exit, start)| start - exit).collect()
    }

    fn term(&self, name: &str) -> Option<f64> {
        let signal = self.lane(name).points.iter().find(|p| matches!(p.is(), Point::Signal { .. }));
        signal.map(|p| secs(p.at))
    }

    fn act(&self, text: &str) -> Option<f64> {
        self.timeline.script.iter().find(|s| s.is().starts_with(text)).map(|s| secs(s.at))
    }

    fn new_image(&self, name: &str) -> bool {
        let new = self.lane(name).points.iter().filter_map(image).any(|image| image.ends_with(":2"));
        new && self.restarts(name) > 0
    }

    fn waited(&self, name: &str, reason: &str) -> bool {
        let word = format!("waiting:{reason}");
        self.lane(name).statuses.iter().any(|s| s.is().state.short() == word)
    }

    fn ended(&self, name: &str, code: &str, reason: &str) -> bool {
        let last = self.lane(name).statuses.last().map(|s| s.is().state.short());
        last == Some(format!("terminated:{code}:{reason}"))
    }

    fn overlap(&self, name: &str, other: &str) -> bool {
        let running = |s: &&Span| s.what == SpanKind::Running;
        let spans: Vec<&Span> = self.lane(name).spans.iter().filter(running).collect();
        self.starts(other).iter().any(|at| spans.iter().any(|s| *at >= secs(s.from) && *at <= secs(s.to)))
    }

    fn chain(&self, chain: &str, nth: usize) -> bool {
        self.in_order(&chain.split('<').map(|n| self.starts(n).get(nth).copied()).collect::<Vec<_>>())
    }

    fn in_order(&self, at: &[Option<f64>]) -> bool {
        at.iter().all(Option::is_some) && at.is_sorted()
    }

    fn before(&self, first: Option<f64>, then: Option<f64>) -> bool {
        first.zip(then).is_some_and(|(first, then)| first <= then)
    }

    fn before_within(&self, first: Option<f64>, then: Option<f64>, within: f64) -> bool {
        first.zip(then).is_some_and(|(first, then)| then >= first && then - first <= within)
    }
}

fn secs(at: Duration) -> f64 {
    at.as_secs_f64()
}

fn later(a: Option<f64>, b: f64) -> Option<f64> {
    Some(a.map_or(b, |a| a.max(b)))
}

fn number(text: &str) -> Option<u32> {
    text.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

fn image(point: &testground_pod::simulate::timeline::At<Point>) -> Option<String> {
    match point.is() {
        Point::Start { image, .. } => Some(image.to_string()),
        _ => None,
    }
}

/// `preStop(app)` and `postStart(app)`.
fn hook_of(text: &str) -> Option<(HookKind, &str)> {
    let (kind, name) = text.strip_suffix(')')?.split_once('(')?;
    Some((if kind == "preStop" { HookKind::PreStop } else { HookKind::PostStart }, name))
}
