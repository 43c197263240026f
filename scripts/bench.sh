#!/usr/bin/env bash
# Measures margay against the floor: the same bytes to the same disks, with no protocol. Both in one
# run, alternating, because a machine is not equally fast from one minute to the next.
#
#     scripts/bench.sh [--rounds 3] [--seconds 5] [--groups 1] [--shards 1] [--dir DIR]
#
# --dir DIR   where the nodes and the floor keep their files; default: a temporary directory in
# TMPDIR
#
# Three local nodes, closed loop, map-put of 64 bytes: 16 connections x 16 in flight, and one alone.
# The share is margay's throughput as part of the floor's; for one alone, its median latency.
set -eu
. "$(dirname -- "$0")/lib.sh"

rounds=3 seconds=5 groups=1 shards=1 dir=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --dir) dir=$(absolute "${2:?--dir needs a directory}"); shift 2 ;;
        --rounds | --seconds | --groups | --shards)
            declare "${1#--}=${2:?$1 needs a value}"; shift 2 ;;
        *) die "unknown argument '$1'" "see scripts/bench.sh --help" ;;
    esac
done

set_up
build_release
own=
[ -n "$dir" ] || { dir=$(mktemp -d "${TMPDIR:-/tmp}/margay-bench.XXXXXX"); own=$dir; }
trap '[ -z "$own" ] || rm -rf "$own"' EXIT
mkdir -p "$dir/floor"

"$ROOT/scripts/cluster.sh" --data "$dir/cluster" --groups "$groups" --shards "$shards" -- \
    "$MARGAY" bench compare --rounds "$rounds" --seconds "$seconds" --dir "$dir/floor"
