#!/usr/bin/env bash
# Cuts the power of simulated disks under the log, after every single operation, and prints how often.
#
#     scripts/power-cuts.sh [SCALE]      default 70: over a million cuts, some minutes
#
# Random histories of appends, batches of other leaders, cuts at both ends and within a batch,
# resets, meta blocks, cleaning and compaction. Each cut drops, completes or tears every write under
# way, any subset of its sectors, and may bring back what was removed since the directory was synced;
# then the log is opened and held against what it had promised.
set -eu
. "$(dirname -- "$0")/lib.sh"
case ${1:-} in -h | --help) usage; exit 0 ;; esac
[ $# -le 1 ] || die "unknown argument '$2'" "see scripts/power-cuts.sh --help"
scale=${1:-70}
need_number SCALE "$scale"

set_up
MARGAY_SCALE=$scale cargo test --locked --release -p margay-log --all-features --test it \
    power_cut -- --nocapture
