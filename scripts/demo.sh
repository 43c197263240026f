#!/usr/bin/env bash
# Installs what is missing, builds margay and shows it: three nodes, resources at work, a leader
# killed under load, nothing lost. A few minutes the first time, seconds after that.
#
#     scripts/demo.sh [--seconds 5] [--data DIR]
#
# Leaves nothing behind but target/; with --data, the nodes' directories stay for a look.
set -eu
. "$(dirname -- "$0")/lib.sh"

flags=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --seconds) flags+=("$1" "${2:?--seconds needs a number}"); shift 2 ;;
        --data) flags+=("$1" "$(absolute "${2:?--data needs a directory}")"); shift 2 ;;
        *) die "unknown argument '$1'" "see scripts/demo.sh --help" ;;
    esac
done

set_up
build_release
exec "$MARGAY" demo ${flags[@]+"${flags[@]}"}
