//! What `--dry-run` shows of a run, to people and to programs.

mod common;

use common::{HEAD, attempt, run};
use testground_model::composition::Files;
use testground_model::run::Run;

#[test]
fn a_run_is_shown_in_the_words_of_compositions() {
    let text = format!(
        "{}{}",
        HEAD.replace(
            "[[groups]]\nid = \"b\"",
            "region = \"eu\"\n[[groups]]\nid = \"b\"\nregions = { eu = 1, us = \"rest\" }\n"
        ),
        r#"
[groups.resources]
memory = "64Mi"
cpu = "1.5"
[groups.run.test_params]
x = 1
[regions]
latency_matrix = "m.csv"
[[links]]
from = "a"
to = "b[0]"
both = true
latency = "50ms"
jitter = "5ms"
jitter_distribution = "normal"
bandwidth = "10Mbit/s"
queue = "100 packets"
loss = "1%"
loss_correlation = "25%"
[[timeline]]
at = "10s"
action = "partition"
from = "region:eu"
to = "region:us"
[[timeline]]
at = "20s"
action = "heal"
from = "*"
to = "*"
[[timeline]]
at = "90s"
action = "ramp"
from = "b[1]"
to = "a"
loss = "5%"
over = "1m"
"#
    );
    let files = Files::from([("m.csv".to_owned(), Ok(",eu,us\neu,,81\nus,80,\n".to_owned()))]);
    let (runs, _) = attempt(&text, &files).unwrap_or_else(|e| panic!("{e}"));
    let wanted = r#"run default: plan network-ping, case any, on local:exec
  5 instances; seed 0, timeout 3m, stall 5s, grace 1s, max_output 64MiB, min_success 100%
  proof of shapes: delay within 1ms, rate within 5%
group a: 2 instances
  build      exec:generic, program = "plan.sh"
group b: 3 instances
  build      exec:generic, program = "plan.sh"
  params     x = "1"
  resources  memory 64MiB, cpu 1500m
networks
  default  16.0.0.0/16, fd54:474e::/64, mtu 1500
regions
  eu  a[0..1] b[0]
  us  b[1..2]
links
  region:eu -> region:us  latency 40500us
  region:us -> region:eu  latency 40ms
  a <-> b[0]  latency 50ms, jitter 5ms normal, bandwidth 10Mbit/s, queue 100 packets, loss 1% (correlation 25%)
timeline
  10s  region:eu <-> region:us  partition
  20s  * <-> *  heal
  90s  b[1] -> a  ramp within 1m to latency 40ms, loss 5%
"#;
    assert_eq!(runs[0].to_string(), wanted);
}

#[test]
fn a_run_survives_json() {
    let run = run("[[links]]\nfrom = \"*\"\nto = \"*\"\ngilbert_elliott = { p = \"1%\", r = \"2%\" }\n");
    let json = serde_json::to_string(&run).unwrap();
    assert_eq!(serde_json::from_str::<Run>(&json).unwrap(), run);
}
