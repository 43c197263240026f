#!/usr/bin/env bash
# Sets up what is missing and runs all tests.
#
#     scripts/test.sh            everything
#     scripts/test.sh NAME …     arguments go to cargo test, e.g. -p margay-log
#
# Doctests included. Without arguments a minute of scripts/chaos.sh follows, where hosts can be made
# (root, namespaces). The tests with real processes start three nodes each and need io_uring; where
# it is blocked they say so and fail.
set -eu
. "$(dirname -- "$0")/lib.sh"
case ${1:-} in -h | --help) usage; exit 0 ;; esac

set_up
chaos=
if [ $# -eq 0 ]; then
    need_space "${CARGO_TARGET_DIR:-$ROOT}" 6
    need_space "${TMPDIR:-/tmp}" 3
    set -- --workspace --all-features
    chaos=1
fi
cargo test --locked "$@"

if [ -n "$chaos" ]; then
    if [ "$(id -u)" -eq 0 ] && unshare --net --mount true 2>/dev/null; then
        "$ROOT/scripts/chaos.sh" --debug --minutes 1
    else
        say "chaos: left out, making hosts needs root and namespaces"
    fi
fi
