#!/usr/bin/env bash
# Installs what is missing, builds margay and shows it: three nodes, resources at work, a leader
# killed under load, nothing lost. A few minutes the first time, seconds after that.
#
#     scripts/demo.sh [--seconds 5] [--data DIR]
#
# Leaves nothing behind but target/; with --data, the nodes' directories stay for a look.
set -eu
. "$(dirname -- "$0")/lib.sh"
case ${1:-} in -h | --help) usage; exit 0 ;; esac

set_up
build_release
exec "$MARGAY" demo "$@"
