#!/usr/bin/env bash
# Simulates clusters, seed after seed, until a property does not hold or somebody presses Ctrl-C.
# Every call begins with other seeds.
#
#     scripts/sim.sh [OPTION …]            options go to margay sim, e.g. --nodes 5 --jobs 4
set -eu
. "$(dirname -- "$0")/lib.sh"
case ${1:-} in -h | --help) usage; exit 0 ;; esac

set_up
build_release
# A year is until failure.
exec "$MARGAY" sim --from "$(date +%s)000" --minutes 525600 "$@"
