#!/bin/bash
# One instance of the plan. It succeeds when it exits with 0.
set -u
export LC_ALL=C

# Parameters of the composition, or the defaults of the manifest: name=value|name=value.
param() { tr '|' '\n' <<<"$TEST_INSTANCE_PARAMS" | sed -n "s/^$1=//p"; }

# Waits until everybody is at the same place.
meet() { testground sync signal "$1" && testground sync barrier "$1" "$TEST_INSTANCE_COUNT"; } >/dev/null

meet ready

# Everybody is in /etc/hosts as <group>-<index>. Nobody listens on this port: a connection is refused after exactly one
# round trip.
next=nodes-$(((TEST_INSTANCE_INDEX + 1) % TEST_INSTANCE_COUNT))
address=$(awk -v name="$next" '$2 == name && $1 ~ /[.]/ { print $1 }' /etc/hosts)
begin=${EPOCHREALTIME/./}
{ : </dev/tcp/"$address"/9; } 2>/dev/null
took=$(((${EPOCHREALTIME/./} - begin) / 1000))
echo "$next answered after $took ms"

# Nobody leaves before everybody has asked: who has left doesn't answer.
meet done

if ((took > $(param most_ms))); then
    echo "$next took $took ms, more than $(param most_ms) ms" >&2
    exit 1
fi
