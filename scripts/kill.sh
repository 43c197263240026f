#!/usr/bin/env bash
# The kill test, many times: the leader, a follower, then all three nodes are killed with SIGKILL
# under load and restarted; every acknowledged write must be there. Prints the time from each kill to
# the next committed write.
#
#     scripts/kill.sh [--rounds 20]
set -eu
. "$(dirname -- "$0")/lib.sh"

rounds=20
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --rounds) rounds=${2:?--rounds needs a number}; shift 2 ;;
        *) die "unknown argument '$1'" "see scripts/kill.sh --help" ;;
    esac
done

need_number --rounds "$rounds"

set_up
MARGAY_KILL_ROUNDS=$rounds cargo test --locked --release -p margay-cli --test it -- \
    --nocapture kill::
