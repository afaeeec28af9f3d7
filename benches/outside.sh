#!/usr/bin/env bash
# Measures the built server from outside, as ratios to the load generator's own echo server in the same run.
#
#   cargo build --release && benches/outside.sh path/to/wsload [seconds]
#
# At the end come the parts of `cargo bench --bench storm`, which needs no load generator: clients that all return at
# once, deltas against whole results, idle connections.
#
# The figures are in docs/BENCHMARKS.md. Everything stays on this machine's loopback and in a folder of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

wsload=${1:?the path of the load generator}
secs=${2:-5}
server=$PWD/target/release/noex-server
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$folder"' EXIT

# Preparing a large bucket takes longer than the heartbeat waits for a client that does not answer pings.
cat >"$folder/config.json" <<'JSON'
{ "heartbeat": { "intervalMs": 3600000 }, "connectionLimits": { "maxTotalSubscriptions": 20000 }, "logLevel": "warn" }
JSON

# The same for somebody with a token, whom a rule allows everything; and for somebody who may read the rows of a rule.
loader='"tokens": { "load": { "userId": "loader", "roles": ["loader"] } }'
cat >"$folder/permissions.json" <<JSON
{ "heartbeat": { "intervalMs": 3600000 }, "logLevel": "error", "auth": { $loader, "permissions": { "default": "deny", "rules": [
  { "role": "clerk", "allow": "store.*", "buckets": ["orders"] }, { "role": "loader", "allow": "store.*" } ] } } }
JSON
cat >"$folder/row-rule.json" <<JSON
{ "heartbeat": { "intervalMs": 3600000 }, "logLevel": "error", "auth": { $loader, "permissions": { "default": "deny", "rules": [
  { "role": "loader", "allow": ["store.defineBucket", "store.clear", "store.insert"] },
  { "role": "loader", "allow": "store.get", "buckets": ["load"], "where": { "n": { "\$gte": 0 } } } ] } } }
JSON

pid= port= configuration=config
start() { # durability, data folder
    "$server" --config "$folder/$configuration.json"  --port 0 --durability "$1" --data-dir "$folder/$2" >"$folder/banner" 2>"$folder/log" &
    pid=$!
    until grep -q 'ws://' "$folder/banner"; do kill -0 "$pid"; sleep 0.05; done
    port=$(grep -o 'ws://[^ ]*' "$folder/banner" | head -n 1 | sed 's/.*://')
}
stop() { kill "$pid"; wait "$pid" || true; }
load() { printf '%-28s' "$1"; shift; "$wsload" "$@"; }

"$wsload" echo --port 9101 >/dev/null &
sleep 0.5
common="--records 10000 --filler 90 --secs $secs"
# shellcheck disable=SC2086
{
    start memory memory
    load 'echo 16x16' rr --op raw --addr 127.0.0.1:9101 $common
    load 'get 16x16' rr --op get --addr "127.0.0.1:$port" --pid "$pid" $common
    load 'where 16x16' rr --op where --addr "127.0.0.1:$port" --pid "$pid" $common
    load 'echo 16x1' rr --op raw --depth 1 --addr 127.0.0.1:9101 $common
    load 'get 16x1' rr --op get --depth 1 --addr "127.0.0.1:$port" --pid "$pid" $common
    load 'insert, memory 16x16' rr --op insert --addr "127.0.0.1:$port" --pid "$pid" $common
    stop
    start sync sync
    load 'insert, fsynced 16x16' rr --op insert --addr "127.0.0.1:$port" --pid "$pid" $common
    load 'transaction, fsynced 16x16' rr --op tx --addr "127.0.0.1:$port" --pid "$pid" $common
    load 'echo 16x16' rr --op raw --addr 127.0.0.1:9101 $common
    load 'insert, fsynced 64x64' rr --op insert --conns 64 --depth 64 --addr "127.0.0.1:$port" --pid "$pid" $common
    load 'echo 64x64' rr --op raw --conns 64 --depth 64 --addr 127.0.0.1:9101 $common
    stop
}

# Who may do what: twice in turn, because a machine is not the same from one minute to the next.
for turn in 1 2; do
    for configuration in config permissions row-rule; do
        start memory "access-$configuration-$turn"
        # shellcheck disable=SC2086
        load "get, $configuration" rr --op get --token load --addr "127.0.0.1:$port" --pid "$pid" $common
        stop
    done
done
configuration=config

for durability in memory sync; do
    for subscribers in 200 2000; do
        start "$durability" "fanout-$durability-$subscribers"
        load "echo, $subscribers" fanout --raw --subs "$subscribers" --secs "$secs" --addr 127.0.0.1:9101
        load "$durability, $subscribers followers" fanout --subs "$subscribers" --secs "$secs" --addr "127.0.0.1:$port" --pid "$pid"
        stop
    done
done
for stuck in 0 200; do
    start sync "slow-$stuck"
    load "$stuck stuck" slow --stuck "$stuck" --result-size 200 --addr "127.0.0.1:$port" --pid "$pid"
    stop
done
start memory idle
load '10,000 idle' idle --conns 10000 --addr "127.0.0.1:$port" --pid "$pid"
stop

for durability in memory sync; do
    for views in 10 10000; do
        start "$durability" "views-$durability-$views"
        load "$durability, views" views --records 100000 --filler 90 --views "$views" --addr "127.0.0.1:$port" --pid "$pid"
        stop
    done
done
for records in 1000 1000000; do
    start memory "size-$records"
    load 'memory, size' views --records "$records" --filler 90 --views 0 --writes 5000 --addr "127.0.0.1:$port" --pid "$pid"
    stop
done

start interval million
load 'a million, to disk' views --records 1000000 --filler 90 --views 0 --writes 1000 --addr "127.0.0.1:$port" --pid "$pid"
stop
for _ in 1 2 3; do
    begun=$(date +%s%N)
    start sync million
    printf '%-28s%d ms, %s\n' 'start with a million' $((($(date +%s%N) - begun) / 1000000)) "$(grep VmRSS "/proc/$pid/status" | tr -s '\t ' ' ')"
    stop
done

# One file descriptor for each client, here and in the server.
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -H -n)"
for part in 'resume --clients 2000 --records 1000' 'delta --records 10000' 'idle --connections 10000' 'leave --connections 10000'; do
    # shellcheck disable=SC2086
    cargo bench --quiet --bench storm -- $part
done
