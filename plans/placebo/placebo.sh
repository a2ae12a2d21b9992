#!/bin/sh
# The same cases without an SDK: what an instance says in the event protocol is one JSON object a line.
say() { printf '{"ts":%s,"event":{%s}}\n' "$(date +%s%N)" "$1"; }

case $TEST_CASE in
ok)
    echo "this is ${TEST_GROUP_ID}[${TEST_INSTANCE_INDEX}]"
    ;;
fail)
    say "\"failure_event\":{\"group\":\"$TEST_GROUP_ID\",\"error\":\"this case always fails\"}"
    ;;
panic)
    echo "this case always aborts" >&2
    kill -ABRT $$
    ;;
stall)
    testground sync signal never
    testground sync barrier never $((TEST_INSTANCE_COUNT + 1))
    ;;
exit-code)
    exit "$(echo "$TEST_INSTANCE_PARAMS" | tr '|' '\n' | sed -n 's/^code=//p')"
    ;;
no-outcome)
    say '"start_event":{"runenv":{}}'
    ;;
*)
    echo "there is no case $TEST_CASE" >&2
    exit 64
    ;;
esac
