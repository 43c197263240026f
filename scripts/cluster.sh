#!/usr/bin/env bash
# Runs a cluster of three nodes on this machine until Ctrl-C.
#
#     scripts/cluster.sh [--data DIR] [--groups N] [--shards N] [--tls] [-- COMMAND …]
#
#   --data DIR    keep the nodes' data and logs in DIR; without it they are removed at the end
#   --groups N    Raft groups
#   --shards N    executors per node
#   --tls         connections are encrypted, with certificates of an authority of its own, in DIR/tls
#   COMMAND       run it against the cluster instead of waiting, and end with its exit code
#
# Prints the line that points other terminals at the cluster:
#     export MARGAY_ENDPOINTS=127.0.0.1:…
# and with --tls
#     export MARGAY_TLS=…
set -eu
. "$(dirname -- "$0")/lib.sh"

data= flags=() tls=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --data) data=$(absolute "${2:?--data needs a directory}"); shift 2 ;;
        --groups | --shards) flags+=("$1" "${2:?$1 needs a number}"); shift 2 ;;
        --tls) tls=1; shift ;;
        --) shift; break ;;
        *) die "unknown argument '$1'" "see scripts/cluster.sh --help" ;;
    esac
done
keep=$data

set_up
build_release
data=${data:-$(mktemp -d "${TMPDIR:-/tmp}/margay-cluster.XXXXXX")}
mkdir -p "$data"

pids=()
stop() {
    trap '' INT TERM
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    [ -n "$keep" ] || rm -rf "$data"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A port below the kernel's own range that nobody answers on.
free_port() {
    local port
    while :; do
        port=$((10000 + RANDOM % 20000))
        if ! (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
}

# The authority and the folders of the nodes and of an operator, if DIR does not have them yet.
if [ -n "$tls" ]; then
    id=$data/tls
    [ -e "$id/ca" ] || "$MARGAY" tls init "$id/ca" >/dev/null
    for who in n1 n2 n3 operator; do
        role=node
        [ "$who" != operator ] || role=operator
        [ -e "$id/$who/cert.pem" ] || "$MARGAY" tls issue "$id/$who" "$role" --ca "$id/ca" >/dev/null
    done
    export MARGAY_TLS=$id/operator
else
    unset MARGAY_TLS
fi

peers= endpoints=
for n in 1 2 3; do
    address=127.0.0.1:$(free_port)
    peers=${peers:+$peers,}n$n=$address
    endpoints=${endpoints:+$endpoints,}$address
done
export MARGAY_ENDPOINTS=$endpoints

i=0
for address in ${endpoints//,/ }; do
    i=$((i + 1))
    # In a process group of its own: Ctrl-C reaches this script alone, which then stops its nodes.
    setsid "$MARGAY" serve --name "n$i" --data "$data/n$i" --listen "$address" --peers "$peers" \
        ${tls:+--tls "$id/n$i"} ${flags[@]+"${flags[@]}"} >>"$data/n$i.log" 2>&1 &
    pids+=($!)
done

if ! "$MARGAY" cluster status --wait >/dev/null; then
    tail -n 5 "$data"/n?.log >&2
    die "the cluster did not come up" "the last lines of each node are above"
fi

if [ $# -gt 0 ]; then
    cd "$HERE"
    "$@" && code=0 || code=$?
    exit "$code"
fi
"$MARGAY" cluster status
say ""
say "three nodes are up; data and logs in $data${keep:+ (kept)}; Ctrl-C stops them"
echo "export MARGAY_ENDPOINTS=$endpoints"
[ -z "$tls" ] || echo "export MARGAY_TLS=$MARGAY_TLS"
wait -n "${pids[@]}" || true
say "a node has ended:"
tail -n 5 "$data"/n?.log >&2
exit 1
