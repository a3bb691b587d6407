#!/usr/bin/env bash
# One million lines of a real access log through ackring, with the server killed again and again.
#
# A real nginx (or Apache) on a free loopback port is driven by a load tool until its access log has a million
# lines. `ackring push` enqueues them, `ackring work` writes them into a SQLite file, and meanwhile the server is
# killed with `kill -9` and started again: twice while lines are pushed, six times while they are worked. At the
# end every line must be there, none of the confirmed ones missing; lines that came twice are counted.
#
#   tests/demo/access_log.sh                  about four minutes on two busy cores
#   LINES_WANTED=100000 tests/demo/access_log.sh
#   ACCESS_LOG=/var/log/nginx/access.log tests/demo/access_log.sh      your own log instead
#   KEEP=1 tests/demo/access_log.sh           leaves its directory behind
#
# Needs nginx or apache2, wrk or ab, python3 and a release build; installs nothing.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
lines_wanted=${LINES_WANTED:-1000000}
ackring=${ACKRING:-$root/target/release/ackring}
access_log=${ACCESS_LOG:-}
work=$(mktemp -d "${TMPDIR:-/tmp}/ackring-demo.XXXXXX")

say() { printf '%s  %s\n' "$(date +%H:%M:%S)" "$*"; }
fail() { printf 'access_log.sh: %s\n' "$*" >&2; exit 1; }

server='' worker='' pusher='' web=''
cleanup() {
  for pid in $worker $pusher $server $web; do kill -9 "$pid" 2>/dev/null || true; done
  if [ -n "${KEEP:-}" ]; then say "everything is in $work"; else rm -rf "$work"; fi
}
trap cleanup EXIT

# --- What is needed -------------------------------------------------------------------------------------------

command -v python3 >/dev/null || fail "python3 is missing; install it with your package manager"
[ -x "$ackring" ] || fail "$ackring is missing; build it with: cargo build --release"
if [ -z "$access_log" ]; then
  PATH=$PATH:/usr/sbin
  command -v nginx >/dev/null || command -v apache2 >/dev/null ||
    fail "no web server; install one: apt-get install nginx-light (or apache2)"
  command -v wrk >/dev/null || command -v ab >/dev/null ||
    fail "no load tool; install one: apt-get install wrk (or apache2-utils)"
fi

# --- A real access log ----------------------------------------------------------------------------------------

make_access_log() {
  . "$here/web_server.sh"
  start_web_server
  say "$web_name writes $lines_wanted lines"
  while [ "$(count_lines "$work/access.log")" -lt "$lines_wanted" ]; do
    drive_web_server
  done
  kill "$web" && wait "$web" 2>/dev/null || true
  web=''
  head -n "$lines_wanted" "$work/access.log" >"$work/lines"
}
count_lines() { if [ -e "$1" ]; then wc -l <"$1"; else echo 0; fi; }

if [ -n "$access_log" ]; then
  head -n "$lines_wanted" "$access_log" >"$work/lines"
else
  make_access_log
fi
lines_wanted=$(wc -l <"$work/lines")
say "$lines_wanted lines, for example: $(sed -n 2p "$work/lines")"

# --- The server, and how it is killed ---------------------------------------------------------------------------

export ACKRING_SERVER=unix:$work/socket
kills=0

start_server() {
  : >"$work/server.out"
  "$ackring" serve --data "$work/data" --listen none --unix "$work/socket" >"$work/server.out" 2>"$work/server.err" &
  server=$!
  until grep -q '^listening' "$work/server.out"; do
    kill -0 "$server" 2>/dev/null || fail "the server did not start: $(cat "$work/server.err")"
    sleep 0.05
  done
}
kill_server() {
  kill -9 "$server"
  wait "$server" 2>/dev/null || true
  kills=$((kills + 1))
  start_server
  say "kill -9 number $kills $1; $(head -n 1 "$work/server.out")"
}
# How many lines are in a state, by the column of the table: 2 ready, 3 scheduled, 4 leased. Quick enough to see a
# push half-way.
counter() { "$ackring" stats | awk -v column="$1" '$1 == "lines" { found = $column } END { print found + 0 }'; }
rows() { python3 "$here/to_sqlite.py" --count "$work/lines.sqlite"; }

start_server
say "$(tail -n 1 "$work/server.out")"
"$ackring" queue create lines --durability written >/dev/null

# --- Push, with two kills in the middle ---------------------------------------------------------------------------

"$ackring" push lines "$work/lines" --json >"$work/push.json" &
pusher=$!
for percent in 20 60; do
  until [ "$(counter 2)" -ge $((lines_wanted * percent / 100)) ]; do
    kill -0 "$pusher" 2>/dev/null || break
  done
  kill_server "while lines are pushed"
done

# --- Work, with six kills in the middle --------------------------------------------------------------------------

"$ackring" work lines -j 2 --batch 1000 -- python3 "$here/to_sqlite.py" "$work/lines.sqlite" 2>"$work/worker.err" &
worker=$!
wait "$pusher" || fail "push failed: $(cat "$work/push.json")"
pusher=''
say "pushed: $(cat "$work/push.json")"
for percent in 5 20 35 50 70 90; do
  until [ "$(rows)" -ge $((lines_wanted * percent / 100)) ]; do
    kill -0 "$worker" 2>/dev/null || fail "the worker ended: $(tail -n 5 "$work/worker.err")"
    sleep 0.2
  done
  kill_server "with $(rows) lines worked"
done
until [ "$(counter 2)$(counter 3)$(counter 4)" = 000 ]; do
  kill -0 "$worker" 2>/dev/null || fail "the worker ended: $(tail -n 5 "$work/worker.err")"
  sleep 0.2
done

# --- Stop in good order, and check ----------------------------------------------------------------------------------

kill "$worker" && wait "$worker" || fail "the worker did not stop well: $(tail -n 5 "$work/worker.err")"
worker=''
say "worker: $(tail -n 1 "$work/worker.err")"
kill "$server" && wait "$server" || fail "the server did not stop well: $(cat "$work/server.err")"
server=''
"$ackring" log verify "$work/data" >/dev/null || fail "the log is not sound"
say "the server was killed $kills times"
python3 "$here/check.py" "$work/lines" "$work/push.json" "$work/lines.sqlite"
