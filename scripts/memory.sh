#!/usr/bin/env bash
# Runs the log's tests that do no I/O under valgrind: invalid reads and writes, use of uninitialised
# memory, definite leaks.
#
#     scripts/memory.sh
set -eu
. "$(dirname -- "$0")/lib.sh"
case ${1:-} in -h | --help) usage; exit 0 ;; esac
[ $# -eq 0 ] || die "unknown argument '$1'" "see scripts/memory.sh --help"

set_up
command -v valgrind >/dev/null || die "valgrind is missing" "apt-get install valgrind"
# Without the drivers: valgrind does not know io_uring, and the crc's instructions are slow under it.
export MARGAY_SEED=${MARGAY_SEED:-1}
binaries=$(cargo test --locked -p margay-log --no-default-features --features sim --no-run \
    --message-format json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
for binary in $binaries; do
    say "== $binary"
    valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite \
        --errors-for-leak-kinds=definite "$binary" --test-threads 1 golden buffer faults
done
say "no errors"
