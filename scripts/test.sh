#!/usr/bin/env bash
# Sets up what is missing and runs all tests.
#
#     scripts/test.sh            everything
#     scripts/test.sh NAME …     arguments go to cargo test, e.g. -p margay-log
#
# Doctests included. The tests with real processes start three nodes each and need io_uring; where
# it is blocked they say so and fail.
set -eu
. "$(dirname -- "$0")/lib.sh"
case ${1:-} in -h | --help) usage; exit 0 ;; esac

set_up
if [ $# -eq 0 ]; then
    set -- --workspace --all-features
fi
cargo test --locked "$@"
