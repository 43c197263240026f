#!/usr/bin/env bash
# The longest turn of a shard while a state of 1 GiB is written out under load: three nodes, each a
# process, release build. Prints a row for each run of the load, with and without a snapshot under
# way; exit code 1 where a turn took longer than 10 ms.
#
#     scripts/snapshot.sh [--state 1GiB] [--payload 1KiB] [--rounds 3] [--bound 10ms] [--dir DIR]
#
# --dir DIR   where the nodes keep their files, 6 GiB for 1 GiB of state; default: TMPDIR
set -eu
. "$(dirname -- "$0")/lib.sh"

dir=${TMPDIR:-/tmp} flags=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --dir) dir=$(absolute "${2:?--dir needs a directory}"); shift 2 ;;
        --state | --payload | --rounds | --bound)
            flags+=("$1" "${2:?$1 needs a value}"); shift 2 ;;
        *) die "unknown argument '$1'" "see scripts/snapshot.sh --help" ;;
    esac
done

set_up
build_release
exec "$MARGAY" bench snapshot --dir "$dir" ${flags[@]+"${flags[@]}"}
