# What people do by hand. The steps of CI are in .ci/run, so that both do the same; `just --list` shows these.

# Runs the first plan.
quickstart:
    cargo run --release -- run plans/quickstart

# Every test of every crate.
test *ARGS:
    cargo test --workspace {{ARGS}}

# Format, lints, licences and sources, and which crate may use which.
lint:
    .ci/run format lints deny

# Each crate by itself, so that the features of one can't hide what another lacks.
each:
    .ci/run each

# The real program, seen from outside, as this user.
blackbox:
    .ci/run release blackbox_root

# All that a merge needs (installs what the machine lacks, so as root).
ci:
    .ci/run

# Runs scenarios on a real kubelet (built first: minutes) and on the pod machine, and prints what differs. As root.
kubelet-oracle +FILES:
    crates/pod/oracle/kubelet-oracle {{FILES}}

# A fuzz target, such as `just fuzz pod load 600`; needs a nightly compiler, a C++ compiler and cargo-fuzz.
fuzz CRATE TARGET SECONDS="600":
    cd crates/{{CRATE}} && cargo +nightly fuzz run {{TARGET}} -- -max_total_time={{SECONDS}}

# Every fuzz target, one after the other.
fuzz-each SECONDS="120":
    for crate in model pod sidecar sync; do \
        (cd crates/$crate && for target in $(cargo +nightly fuzz list); do \
            cargo +nightly fuzz run "$target" -- -max_total_time={{SECONDS}} || exit 1; done) || exit 1; done

# A plan again and again until it fails; every round tells its seed.
soak PLAN="plans/quickstart" ROUNDS="500":
    cargo run --release -- run {{PLAN}} --repeat {{ROUNDS}} --until-fail
