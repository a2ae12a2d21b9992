#!/bin/bash
# One instance a region watches all others: a small probe to each, twice a second, and at the end a line for each with
# what was seen. The regions that the composition cuts apart must have lost each other and found each other again;
# nobody else may have lost anybody for long.
#
# A TCP connection to a port where nobody listens is refused after one round trip: bash can time that by itself.
set -u
export LC_ALL=C

param() { tr '|' '\n' <<<"$TEST_INSTANCE_PARAMS" | sed -n "s/^$1=//p"; }
seconds=$(param seconds) cut_from=$(param cut_from) cut_to=$(param cut_to)

probe() { # ADDRESS: prints microseconds, or nothing when no answer came within half a second
    local begin=${EPOCHREALTIME/./}
    timeout 0.5 bash -c ": </dev/tcp/$1/9" 2>/dev/null
    (( $? == 124 )) || echo $(( ${EPOCHREALTIME/./} - begin ))
}

watch() { # REGION ADDRESS
    local lost=0 row=0 seen=0 state=up changes="" best=999999999 us
    local end=$(( ${EPOCHREALTIME/./} + seconds * 1000000 ))
    while (( ${EPOCHREALTIME/./} < end )); do
        us=$(probe "$2")
        if [[ -n $us ]]; then
            seen=$(( seen + 1 )) row=0
            (( us < best )) && best=$us
            [[ $state == down ]] && changes+=" back"
            state=up
            sleep 0.1
        else
            lost=$(( lost + 1 )) row=$(( row + 1 ))
            # One that goes unanswered is bad luck; two in a row are a cut.
            if (( row >= 2 )); then
                [[ $state == up ]] && changes+=" lost"
                state=down
            fi
        fi
    done
    printf '%-16s round trip %3d.%d ms, %d answers, %d unanswered%s\n' \
        "$1" $(( best / 1000 )) $(( best / 100 % 10 )) "$seen" "$lost" "${changes:+:$changes}"
    local expected=""
    if [[ "$TEST_GROUP_ID $1" == "$cut_from $cut_to" || "$TEST_GROUP_ID $1" == "$cut_to $cut_from" ]]; then
        expected=" lost back"
    fi
    if [[ "$changes" != "$expected" ]]; then
        echo "$1:${changes:- never lost}, expected${expected:- never lost}" >&2
        return 1
    fi
}

# Nobody starts before everybody is there, or the first probes would find nobody.
testground sync signal ready >/dev/null
testground sync barrier ready "$TEST_INSTANCE_COUNT" >/dev/null
watchers=()
while read -r address host; do
    region=${host%-*}
    [[ $region == "$TEST_GROUP_ID" ]] && continue
    watch "$region" "$address" &
    watchers+=($!)
done < <(awk '$1 ~ /^16[.]/ { print $1, $2 }' /etc/hosts)
failed=0
for watcher in "${watchers[@]}"; do wait "$watcher" || failed=1; done

# Nobody leaves before everybody has watched.
testground sync signal watched >/dev/null
testground sync barrier watched "$TEST_INSTANCE_COUNT" >/dev/null
exit $failed
