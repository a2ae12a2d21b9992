#!/bin/bash
# Measures the round trip to every instance of the other group and compares it with what the composition asked for.
#
# A TCP connection to a port where nobody listens is refused after exactly one round trip, and bash can time that by
# itself. A probe that is lost would be sent again after a second: it is left alone after a tenth of one.
set -u
export LC_ALL=C

# The composition's parameters, as a plan without an SDK reads them: name=value|name=value.
param() { tr '|' '\n' <<<"$TEST_INSTANCE_PARAMS" | sed -n "s/^$1=//p"; }
asked_us=$(( $(param round_trip_ms) * 1000 ))
tolerance_us=$(( $(param tolerance_ms) * 1000 ))
probes=$(param probes)

probe() { # ADDRESS: prints microseconds
    local begin=${EPOCHREALTIME/./}
    { : </dev/tcp/"$1"/9; } 2>/dev/null
    echo $(( ${EPOCHREALTIME/./} - begin ))
}

# Sets `took` to what came back, and `median` and `off` in microseconds.
measure() { # ADDRESS
    took=()
    for (( i = 0; i < probes; i++ )); do
        exec 3< <(probe "$1")
        if read -r -t 0.1 us <&3; then took+=("$us"); fi
        exec 3<&-
    done
    median=$(printf '%s\n' "${took[@]:-0}" | sort -n | sed -n "$(( (${#took[@]} + 1) / 2 ))p")
    off=$(( median > asked_us ? median - asked_us : asked_us - median ))
}

# Every instance is in /etc/hosts: measure to those whose group is not ours. By address: a name has an IPv6 one too, and
# bash would try both, one after the other.
hosts=$(awk -v us="^$TEST_GROUP_ID-" '$1 ~ /[.]/ && $2 ~ /^(clients|servers)-/ && $2 !~ us { print $2 "=" $1 }' /etc/hosts)
failed=0
for entry in $hosts; do
    host=${entry%=*} address=${entry#*=}
    # A machine that is busy with something else delays everything for a while; a wrong shape is wrong every time.
    for attempt in 1 2 3 4 5; do
        measure "$address"
        (( off <= tolerance_us && ${#took[@]} > 0 )) && break
    done
    printf '%s: round trip %d.%03d ms, asked for %d ms, %d of %d probes came back\n' \
        "$host" $(( median / 1000 )) $(( median % 1000 )) $(( asked_us / 1000 )) "${#took[@]}" "$probes"
    # What stands in this file is summed up at the end of the run.
    for us in "${took[@]}"; do
        printf '{"ts":%s000,"type":"point","name":"round_trip_ms","measures":{"value":%d.%03d}}\n' \
            "${EPOCHREALTIME/./}" $(( us / 1000 )) $(( us % 1000 ))
    done >>"$TEST_OUTPUTS_PATH/results.out"
    if (( off > tolerance_us || ${#took[@]} == 0 )); then
        echo "$host: the round trip is $off us off, $attempt times" >&2
        failed=1
    fi
done

# Nobody leaves before everybody has measured: who has left does not answer.
testground sync signal measured >/dev/null
testground sync barrier measured "$TEST_INSTANCE_COUNT" >/dev/null
exit $failed
