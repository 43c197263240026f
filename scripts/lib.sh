# Shared set-up of the scripts beside this file; sourced, never run.
#
# After `set_up` there is a C compiler, git and a cargo that is new enough on PATH. On Debian and
# its relatives what is missing is installed; elsewhere the script says what to install and stops.
# Where nothing is missing, `set_up` does nothing and says nothing.

# The oldest cargo that builds margay: `rust-version` in Cargo.toml.
CARGO_MINOR_MIN=89

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# Where the script was called: what its arguments name lies there. `set_up` goes to $ROOT.
HERE=$PWD

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $1"
    [ $# -lt 2 ] || say "hint: $2"
    exit 2
}

# Prints a path that an argument names, so that it can be found from everywhere.
absolute() {
    case $1 in
        /*) printf '%s\n' "$1" ;;
        *) printf '%s\n' "$HERE/$1" ;;
    esac
}

# Stops where `$2`, the value of `$1`, is no whole number from 1 on.
need_number() {
    case $2 in
        '' | 0* | *[!0-9]*) die "$1 is a whole number from 1 on, not '$2'" "see scripts/${0##*/} --help" ;;
    esac
}

# Prints the comment block at the head of the calling script.
usage() { sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"; }

# Whether `$1` is a cargo that works and is new enough.
cargo_fits() {
    local version minor
    version=$("$1" --version 2>/dev/null) || return 1
    minor=${version#cargo 1.}
    minor=${minor%%.*}
    case $minor in '' | *[!0-9]*) return 1 ;; esac
    [ "$minor" -ge "$CARGO_MINOR_MIN" ]
}

# Puts a fitting cargo first on PATH: the one there, rustup's, or the distribution's.
find_cargo() {
    local cargo
    for cargo in "$(command -v cargo || true)" "${HOME:-/root}/.cargo/bin/cargo" /usr/bin/cargo; do
        if [ -n "$cargo" ] && cargo_fits "$cargo"; then
            PATH=$(dirname -- "$cargo"):$PATH
            export PATH
            return 0
        fi
    done
    return 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "installing packages needs root, and there is no sudo" "run as root: $*"
    fi
}

# Installs the Debian packages named, with one line that says so. apt's own words go to a file that
# is shown only if it fails.
apt_install() {
    command -v apt-get >/dev/null ||
        die "missing: $*" "install a C compiler, git and Rust 1.$CARGO_MINOR_MIN or newer, then run this again"
    local output
    output=$(mktemp)
    say "set-up: installing $* (apt-get)"
    if ! { as_root env DEBIAN_FRONTEND=noninteractive apt-get update &&
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y --no-install-recommends "$@"; } >"$output" 2>&1; then
        tail -n 20 "$output" >&2
        rm -f "$output"
        die "apt-get could not install: $*" "see the lines above"
    fi
    rm -f "$output"
}

# Compiler, git, cargo. Cheap where all is there.
set_up() {
    local missing=()
    command -v cc >/dev/null && command -v make >/dev/null || missing+=(build-essential)
    command -v git >/dev/null || missing+=(git)
    if ! find_cargo; then
        # Debian's own up-to-date toolchain, kept for its browsers.
        missing+=(cargo-web rustc-web ca-certificates)
    fi
    [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"
    find_cargo || die "no cargo 1.$CARGO_MINOR_MIN or newer" "install one from https://rustup.rs"
    cd "$ROOT"
}

# Stops where the file system of directory `$1` has less than `$2` GiB free: a disk that fills up
# half-way makes nodes refuse writes, which looks like anything but that.
need_space() {
    local free
    free=$(df -Pk "$1" 2>/dev/null | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "${free:-$2}" -ge "$2" ] ||
        die "$free GiB are free at $1, and about $2 are needed" "free some, or set TMPDIR and CARGO_TARGET_DIR"
}

# rustfmt and clippy, for the gate. rustup has them as components; Debian packages only the first.
set_up_lints() {
    local missing=()
    cargo fmt --version >/dev/null 2>&1 || missing+=(rustfmt)
    cargo clippy --version >/dev/null 2>&1 || missing+=(clippy)
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v rustup >/dev/null ||
        die "missing: ${missing[*]}" "use a toolchain of https://rustup.rs, or only scripts/test.sh"
    say "set-up: adding ${missing[*]} (rustup)"
    rustup component add "${missing[@]}"
}

# Builds the binary, release; `MARGAY` is its path. Cargo shows its own progress on a terminal;
# otherwise one line.
build_release() {
    if [ -t 2 ]; then
        cargo build --locked --release -p margay-cli --bin margay
    else
        say "building margay (release) …"
        cargo build --locked --release --quiet -p margay-cli --bin margay
    fi
    MARGAY=${CARGO_TARGET_DIR:-target}/release/margay
    case $MARGAY in /*) ;; *) MARGAY=$ROOT/$MARGAY ;; esac
}
