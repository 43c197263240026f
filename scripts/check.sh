#!/usr/bin/env bash
# The gate: what every change must pass. Changes no file outside target/.
#
#     scripts/check.sh           all steps
#     scripts/check.sh STEP …    some of: format lint tidy client test docs
#
#   format   cargo fmt
#   lint     clippy, all targets and features, warnings are errors
#   tidy     style and module arrows (tools/src/tidy)
#   client   the client builds without glommio and io-uring
#   test     all tests
#   docs     rustdoc, warnings are errors
set -eu
. "$(dirname -- "$0")/lib.sh"
case ${1:-} in -h | --help) usage; exit 0 ;; esac

step_format() { cargo fmt --all --check; }

step_lint() { cargo clippy --locked --workspace --all-targets --all-features -- -D warnings; }

step_tidy() { cargo run --locked --quiet -p margay-cli --bin tidy; }

# The client must stay usable in programs that cannot have a ring: no such crate in its tree, and it
# builds alone.
step_client() {
    local tree
    tree=$(cargo tree --locked -p margay --no-default-features -e normal --prefix none)
    if printf '%s\n' "$tree" | grep -E '^(glommio|io-uring) '; then
        die "the client depends on the crates above" "make them optional, behind feature server"
    fi
    cargo check --locked -p margay --no-default-features
    cargo check --locked -p margay --no-default-features --features tls
}

step_test() { cargo test --locked --workspace --all-features; }

step_docs() {
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --all-features --no-deps
}

set_up
set_up_lints
[ $# -gt 0 ] || set -- format lint tidy client test docs
for step in "$@"; do
    [ "$(type -t "step_$step")" = function ] || die "no step '$step'" "see scripts/check.sh --help"
    say "== $step"
    "step_$step"
done
say "all of it passed: $*"
