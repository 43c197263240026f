#!/usr/bin/env bash
# Tries every verb of every resource on a cluster of three nodes, and compares what it prints and how
# it ends.
#
#     scripts/verbs.sh [FAMILY …]      all families of commands, or some: value counter map …
#
# Builds the binary and starts a cluster of its own. Where MARGAY names a binary and MARGAY_ENDPOINTS
# a cluster, those are used; names under verbs/ are deleted before each family. Ends with 1 where a verb
# does anything else than it should, or where one was not tried.
set -eu
. "$(dirname -- "$0")/lib.sh"
case ${1:-} in -h | --help) usage; exit 0 ;; esac

# A section per family: a function `verbs_FAMILY`, here or in verbs/. Its name is in this list.
FAMILIES=(value counter map multimap set tree lock rwlock semaphore barrier latch election queue group
    topic journal txn manage)
# Commands that are about no resource, or try themselves elsewhere.
OTHERS=(serve demo cluster log tls shell bench sim completions man help)
. "$(dirname -- "$0")/verbs/coordination.sh"

for family in "$@"; do
    case " ${FAMILIES[*]} " in *" $family "*) ;; *)
        die "no family '$family'" "see scripts/verbs.sh --help"
        ;;
    esac
done

if [ -z "${MARGAY:-}" ] || [ -z "${MARGAY_ENDPOINTS:-}" ]; then
    set_up
    build_release
    export MARGAY
    exec "$ROOT/scripts/cluster.sh" --groups 2 -- "$ROOT/scripts/verbs.sh" "$@"
fi

failed=0 tried=" "
# A busy machine, or one that stands still for a while, is no failure: looks, a tenth of a second apart,
# and the time of an operation.
LOOKS=600 PATIENT=(--timeout 60s)
work=$(mktemp -d "${TMPDIR:-/tmp}/margay-verbs.XXXXXX")
pids=()
finish() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap finish EXIT

# try CODE OUTPUT FAMILY VERB ARGUMENT …: runs the command, with $input as its input; its exit code must
# be CODE, and its output match the pattern OUTPUT, line ends as spaces. A version is v* there. The
# output stays in $out.
input='' out=''
try() {
    local code=$1 expected=$2 ended=0
    shift 2
    tried="$tried$1-$2 $1 "
    out=$("$MARGAY" "$1" "${PATIENT[@]}" "${@:2}" 2>"$work/err" < <(printf %s "$input")) || ended=$?
    out=${out//$'\n'/ }
    # shellcheck disable=SC2053 # OUTPUT is a pattern.
    if [ "$ended" -ne "$code" ] || [[ $out != $expected ]]; then
        say "FAILED: margay $*"
        say "  exit code $ended, expected $code"
        say "  output    '$out', expected '$expected'"
        sed 's/^/  error     /' "$work/err" >&2
        failed=1
    fi
}

# follow FILE FAMILY watch ARGUMENT …: prints events to FILE, in the background.
follow() {
    local file=$1
    shift
    tried="$tried$1-$2 $1 "
    "$MARGAY" "$1" "${PATIENT[@]}" "${@:2}" -o jsonl >"$file" 2>&1 &
    pids+=($!)
    following=$!
}

# followed FILE WORDS: waits until the events in FILE are these, as they are called.
followed() {
    local file=$1 expected=$2 said
    for _ in $(seq "$LOOKS"); do
        said=$(unmarked "$file" | sed -n 's/.*"what":"\([^"]*\)".*/\1/p' | tr '\n' ' ')
        [ "${said% }" != "$expected" ] || break
        sleep 0.1
    done
    kill "$following" 2>/dev/null || true
    if [ "${said% }" != "$expected" ]; then
        say "FAILED: told '${said% }', expected '$expected'"
        failed=1
    fi
}

# hold LINE FAMILY VERB ARGUMENT …: keeps the command running once it has printed a line like LINE.
hold() {
    local expected=$1 line=
    shift
    tried="$tried$1-$2 $1 "
    : >"$work/hold"
    "$MARGAY" "$1" "${PATIENT[@]}" "${@:2}" >"$work/hold" 2>&1 &
    held=$!
    pids+=("$held")
    for _ in $(seq "$LOOKS"); do
        line=$(head -n 1 "$work/hold")
        [ -z "$line" ] || break
        sleep 0.1
    done
    # shellcheck disable=SC2053
    if [[ $line != $expected ]]; then
        say "FAILED: margay $* printed '$line', expected '$expected'"
        failed=1
    fi
}

# Ends what `hold` keeps, and its session.
release() {
    kill "$held" 2>/dev/null || true
    wait "$held" 2>/dev/null || true
}

# until CODE FAMILY VERB ARGUMENT …: repeats a command until it ends with CODE, for a minute or more.
until_code() {
    local code=$1 ended
    shift
    for _ in $(seq "$LOOKS"); do
        ended=0
        "$MARGAY" "$@" >/dev/null 2>&1 || ended=$?
        [ "$ended" -ne "$code" ] || return 0
        sleep 0.1
    done
    say "FAILED: margay $*: exit code $ended, expected $code in time"
    failed=1
}

# until_out OUTPUT FAMILY VERB ARGUMENT …: repeats a command until its output matches the pattern OUTPUT,
# for a minute or more. The output stays in $out.
until_out() {
    local expected=$1
    shift
    tried="$tried$1-$2 $1 "
    for _ in $(seq "$LOOKS"); do
        out=$("$MARGAY" "$@" 2>/dev/null) || true
        # shellcheck disable=SC2053
        [[ $out != $expected ]] || return 0
        sleep 0.1
    done
    say "FAILED: margay $* printed '$out', expected '$expected' in time"
    failed=1
}

# listen FILE FAMILY VERB ARGUMENT …: runs a command in the background, with its output in FILE.
declare -A listeners=()
listen() {
    local file=$1
    shift
    tried="$tried$1-$2 $1 "
    "$MARGAY" "$1" "${PATIENT[@]}" "${@:2}" >"$file" 2>&1 &
    listeners[$file]=$!
    pids+=($!)
}

# settle FILE CHANGE UNDO: what follows in the background hears what comes only from some moment on. So
# the two commands are repeated, with another mark in place of MARK each time, until FILE tells of one.
# Lines about marks are not looked at later.
marks=0
settle() {
    local file=$1 change=$2 undo=$3 mark
    for _ in $(seq "$LOOKS"); do
        marks=$((marks + 1))
        mark="mark-$marks."
        for command in "$change" "$undo"; do
            # shellcheck disable=SC2086 # Words without spaces, one argument each.
            "$MARGAY" ${command//MARK/$mark} >/dev/null 2>&1 || true
        done
        for _ in 1 2 3; do
            ! grep -qF "$mark" "$file" || return 0
            sleep 0.1
        done
    done
    say "FAILED: $file tells of nothing"
    failed=1
}

# What is in FILE but for marks.
unmarked() { grep -v 'mark-[0-9]*\.' "$1" || true; }

# stir PID FAMILY VERB ARGUMENT …: repeats a command until one in the background has heard of it, and ended.
stir() {
    local pid=$1
    shift
    for _ in $(seq "$LOOKS"); do
        kill -0 "$pid" 2>/dev/null || return 0
        "$MARGAY" "$@" >/dev/null || true
        sleep 0.1
    done
    say "FAILED: a command in the background hears nothing of margay $*"
    failed=1
}

# heard FILE OUTPUT: waits until all that is in FILE matches the pattern OUTPUT, line ends as spaces.
heard() {
    local file=$1 expected=$2 said
    for _ in $(seq "$LOOKS"); do
        said=$(unmarked "$file" | tr '\n' ' ')
        # shellcheck disable=SC2053
        [[ ${said% } != $expected ]] || return 0
        sleep 0.1
    done
    say "FAILED: told '${said% }', expected '$expected' in time"
    failed=1
}

# ended PID: waits until a command in the background has ended.
ended() {
    if ! timeout 60 tail --pid="$1" -f /dev/null; then
        say "FAILED: a command in the background does not end"
        failed=1
    fi
}

verbs_value() {
    local v=verbs/value
    try 1 '' value get $v
    try 0 'v*' value set $v one
    try 0 'one' value get $v
    try 0 '{"value":"one","version":*}' value get $v -o json
    try 0 'one' value swap $v two
    try 0 'v*' value cas $v two three
    try 1 'three' value cas $v two four
    try 1 'three' value cas $v --absent four
    try 1 'three' value set $v four --if-version 1
    follow "$work/value" value watch $v
    settle "$work/value" "value set $v MARK" "value set $v three"
    try 0 'v*' value set $v four --ttl 300ms
    until_code 1 value get $v
    try 1 '' value delete $v
    try 0 'v*' value set $v five --if-version 0
    try 0 '' value delete $v
    followed "$work/value" 'changed expired added removed'
    try 2 '' value set $v six --ttl 0s
    try 2 '' value set $v six --ttl 99999999h
    hold 'v*' value set $v mine --ephemeral
    try 0 'mine' value get $v
    release
    until_code 1 value get $v
}

verbs_counter() {
    local c=verbs/counter
    try 1 '' counter get $c
    try 0 '1' counter add $c
    try 0 '-4' counter add $c -5
    try 0 '-4' counter set $c 7
    try 0 '{"value":7}' counter get $c -o json
    try 1 '7' counter cas $c 6 8
    try 0 '8' counter cas $c 7 8
    try 0 '9 108' counter ids $c 100
    try 0 '{"first":109,"last":109}' counter ids $c -o json
    try 0 '109' counter set $c 9223372036854775807
    try 1 '' counter add $c
    try 0 '9223372036854775807' counter get $c
}

verbs_map() {
    local m=verbs/map
    try 1 '' map get $m a
    try 0 '0' map size $m
    try 0 'v*' map put $m b 1
    try 0 'v*' map put $m a 2 --if-absent
    try 1 '2' map put $m a 3 --if-absent
    try 1 '2' map put $m a 3 --if-version 1
    try 1 '2' map put $m a 3 --if-version 0
    try 0 'v*' map put $m a 3 --if-value 2
    try 0 '3' map replace $m a 4
    try 1 '' map replace $m none 4
    try 0 '4' map get $m a
    try 0 'else' map get $m none --default else
    try 0 'KEY *a *4 *' map get-many $m a none
    try 0 '' map has $m a
    try 1 '{"there":false}' map has $m --value none -o json
    try 0 '' map has $m --value 4
    try 0 'v*' map put $m c 5
    try 0 'KEY *a *b *c *' map entries $m
    try 0 '\[{"key":"b",*}\]' map keys $m --from b --to c -o json
    try 0 '{"key":"c"*} {"key":"b"*}' map entries $m --descending --limit 2 -o jsonl
    try 0 '\[\]' map entries $m --prefix x -o json
    follow "$work/map" map watch $m
    settle "$work/map" "map put $m MARK x" "map remove $m MARK"
    try 1 '1' map remove $m b --if-value 9
    try 0 '' map remove $m b
    try 1 '' map remove $m b
    try 0 'a  4' map poll $m
    try 0 '{"key":"c"*}' map poll $m --last -o json
    try 1 '' map poll $m
    try 0 'v*' map put $m d 6
    try 0 '' map clear $m
    followed "$work/map" 'removed removed removed added cleared'
    hold 'v*' map put $m e mine --ephemeral
    try 0 '1' map size $m
    release
    until_code 1 map has $m e
    try 0 'v*' value set $m/value x
    try 2 '' map put $m/value a b
}

verbs_multimap() {
    local m=verbs/multimap
    try 1 '' multimap get $m k
    follow "$work/multimap" multimap watch $m
    settle "$work/multimap" "multimap put $m MARK x" "multimap remove $m MARK"
    try 0 '' multimap put $m k 2
    try 1 '' multimap put $m k 2
    try 0 '' multimap put $m k 1
    try 0 'VALUE *1 *2 *' multimap get $m k
    try 0 '' multimap has $m k 1
    try 1 '' multimap has $m k 3
    try 0 '' multimap has $m k
    try 0 '' multimap has $m --value 2
    try 0 '2' multimap size $m
    try 0 '1' multimap size $m --keys
    try 0 '{"size":2}' multimap size $m --key k -o json
    try 0 '\[{"key":"k","value":"1",*"2",*}\]' multimap entries $m -o json
    try 0 '2' multimap replace $m k 3
    try 1 '0' multimap remove $m k 9
    try 0 '1' multimap remove $m k 3
    try 0 '' multimap put $m k 4
    try 0 '1' multimap remove $m --value 4
    try 1 '0' multimap remove $m k
    try 0 '' multimap put $m k 5
    try 0 '' multimap clear $m
    followed "$work/multimap" 'added added key-removed added removed added removed added cleared'
}

verbs_set() {
    local s=verbs/set
    try 1 '' set has $s a
    try 0 '2' set add $s b a
    try 1 '0' set add $s a
    try 0 '1' set add $s a c
    try 0 '' set has $s a b c
    try 1 '{"there":false}' set has $s a x -o json
    try 0 '3' set size $s
    try 0 'MEMBER a b c' set members $s
    try 0 '{"member":"c"} {"member":"b"}' set members $s --from b --descending -o jsonl
    follow "$work/set" set watch $s
    settle "$work/set" "set add $s MARK" "set remove $s MARK"
    try 0 '1' set remove $s a x
    try 1 '0' set remove $s a
    try 0 '1' set retain $s b
    try 0 'b' set poll $s
    try 1 '' set poll $s --last
    try 0 '1' set add $s d --ttl 300ms
    until_code 1 set has $s d
    try 0 '1' set add $s e
    followed "$work/set" 'removed removed removed added expired added'
    try 0 '' set clear $s
    hold '1' set add $s f --ephemeral
    try 0 '' set has $s f
    release
    until_code 1 set has $s f
}

verbs_tree() {
    local t=verbs/tree
    try 1 '' tree children $t
    try 1 '' tree create $t /a/b one
    follow "$work/tree" tree watch $t /a --below
    settle "$work/tree" "tree create $t /a MARK" "tree delete $t /a"
    try 0 '/a/b' tree create $t /a/b one --parents
    try 1 'one' tree create $t /a/b two
    try 0 'one' tree get $t /a/b
    try 0 '{"created":*"data":"one",*}' tree get $t /a/b -o json
    try 1 'one' tree set $t /a/b two --if-version 1
    try 0 'v*' tree set $t /a/b two
    try 1 '' tree set $t /none two
    try 0 '/a/n0000000000' tree create $t /a/n --sequential
    try 0 'NAME b n0000000000' tree children $t /a
    try 0 '\[{"name":"a"}\]' tree children $t -o json
    try 1 '' tree delete $t /a
    try 1 'two' tree delete $t /a/b --if-version 1
    try 0 '' tree delete $t /a/b
    try 1 '' tree delete $t /a/b
    try 0 '2' tree delete $t /a --all
    followed "$work/tree" 'added added changed added removed removed removed'
    try 2 '' tree create $t no-path
    try 2 '' tree delete $t /
    hold '/mine' tree create $t /mine x --ephemeral
    try 1 '' tree create $t /mine/below
    release
    until_code 1 tree get $t /mine
}

# What the help of a command lists.
listed() { "$MARGAY" "$@" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z][a-z-]*\) .*/\1/p'; }

# Every verb that a family's help lists must have been tried.
all_tried() {
    local family=$1 verb
    [ "$family" != manage ] || return 0
    for verb in $(listed "$family"); do
        case $verb in help) continue ;; esac
        case $tried in *" $family-$verb "*) ;; *)
            say "FAILED: margay $family $verb was not tried"
            failed=1
            ;;
        esac
    done
}

whole=$#
[ $# -gt 0 ] || set -- "${FAMILIES[@]}"
for family in "$@"; do
    names=$("$MARGAY" ls verbs/ -o jsonl | sed -n 's/.*"name":"\([^"]*\)".*/\1/p')
    # shellcheck disable=SC2086 # Names without spaces, one argument each.
    [ -z "$names" ] || "$MARGAY" delete $names >/dev/null
    "verbs_$family"
    all_tried "$family"
    say "tried: $family"
done
# And every command must have a section, or say why not.
if [ "$whole" -eq 0 ]; then
    for command in $(listed); do
        case "$tried${OTHERS[*]} " in *" $command "*) ;; *)
            say "FAILED: margay $command has no section here"
            failed=1
            ;;
        esac
    done
fi
exit $failed
