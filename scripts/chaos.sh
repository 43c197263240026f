#!/usr/bin/env bash
# Real nodes under real trouble: every node a host of its own, with clients at work; links are cut
# both ways or one way, processes killed (one, or all) or stopped, disks filled or lost, while voters
# are demoted, promoted, removed and replaced and leaders moved. Afterwards every history is judged:
# linearizable, nothing acknowledged lost, one lock holder at a time, equal logs.
#
#     scripts/chaos.sh [--minutes 1] [--nodes 3|5] [--seed N] [--debug] [--data DIR]
#
#   --minutes M   how long to make trouble; fractions are allowed
#   --nodes N     3 or 5
#   --seed N      draw the same faults again
#   --debug       build without optimisation, which is faster where tests were built before
#   --data DIR    keep the nodes' data and logs in DIR; without it they are kept only on a violation
#
# Ends with 1 on a violation, 2 where it cannot run. Needs root: everything happens in a network and
# a mount namespace of its own that end with it; nothing else on the machine is touched.
set -eu
. "$(dirname -- "$0")/lib.sh"

minutes=1 nodes=3 seed=() data= profile=--release
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --minutes) minutes=${2:?--minutes needs a number}; shift 2 ;;
        --nodes) nodes=${2:?--nodes needs a number}; shift 2 ;;
        --seed) seed=(--seed "${2:?--seed needs a number}"); shift 2 ;;
        --data) data=$(absolute "${2:?--data needs a directory}"); shift 2 ;;
        --debug) profile=; shift ;;
        *) die "unknown argument '$1'" "see scripts/chaos.sh --help" ;;
    esac
done
[ "$(id -u)" -eq 0 ] || die "making hosts needs root" "run it with sudo"

set_up
missing=()
command -v ip >/dev/null || missing+=(iproute2)
command -v unshare >/dev/null && command -v fallocate >/dev/null || missing+=(util-linux)
command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs)
[ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"

say "building margay and chaos …"
# shellcheck disable=SC2086 # no profile is no word
cargo build --locked --quiet $profile -p margay-cli --bin margay --bin chaos
built=${CARGO_TARGET_DIR:-$ROOT/target}/${profile:+release}${profile:-debug}
built=${built%--release}
[ -n "$data" ] || trap '[ "${code:-0}" -eq 1 ] || rm -rf "$data"' EXIT
keep=$data
data=${data:-$(mktemp -d "${TMPDIR:-/tmp}/margay-chaos.XXXXXX")}
mkdir -p "$data"

unshare --net --mount "$built/chaos" --margay "$built/margay" --dir "$data" \
    --minutes "$minutes" --nodes "$nodes" ${seed[@]+"${seed[@]}"} && code=0 || code=$?
[ "$code" -ne 1 ] || say "data and logs are in $data"
exit "$code"
