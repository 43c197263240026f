#!/usr/bin/env bash
# Many sessions, resources and waiters: what one of each costs in memory, how long a fail-over takes
# with all of them there, and the slowest command while all sessions expire at once.
#
#     scripts/scale.sh [SESSIONS [RESOURCES [WAITERS]]]      10000 100000 1000
set -eu
. "$(dirname -- "$0")/lib.sh"
case ${1:-} in -h | --help) usage; exit 0 ;; esac
[ $# -le 3 ] || die "unknown argument '$4'" "see scripts/scale.sh --help"
for number in "$@"; do need_number "each of SESSIONS, RESOURCES and WAITERS" "$number"; done

set_up
cargo run --locked --release -p margay --example scale -- "$@"
