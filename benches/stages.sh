#!/usr/bin/env bash
# Where the nanoseconds of one job go: samples the processor while `ackring bench --spawn` runs, client and server
# together, and sums the samples up by stage. The first second, in which the server starts, is left out. Arguments go to
# the bench.
#
#   benches/stages.sh --durability written --batch 500
#   benches/stages.sh --durability memory --batch 1 --in-flight 512
#
# Needs a release build, perf (Debian: linux-perf) and python3. A stage is a list of function names below; what is
# inlined counts where it was inlined to. `docs/NANOSECONDS.md` has what this printed.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
ackring=${ACKRING:-$root/target/release/ackring}
command -v perf >/dev/null || { echo "stages.sh: perf is needed" >&2; exit 77; }
[ -x "$ackring" ] || { echo "stages.sh: no release build: cargo build --release" >&2; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/ackring-stages.XXXXXX")
trap 'rm -rf "$work"' EXIT

perf record -q -D 1000 -F 3999 -e cpu-clock -o "$work/perf.data" -- \
    "$ackring" bench life --spawn --json "$@" >"$work/bench.json" 2>"$work/bench.err" ||
    { cat "$work/bench.err" >&2; exit 1; }
perf report -i "$work/perf.data" --no-children --sort comm,sym -F sample,comm,sym -t '|' 2>/dev/null |
    grep -v '^#' >"$work/samples" || true

python3 - "$work/bench.json" "$work/samples" <<'PYTHON'
import collections, json, re, sys

SERVER = re.compile(r"^(reactor|log keeper|timekeeper|flusher)")
# Of a symbol the first that matches.
STAGES = [
    ("kernel: socket, copying", r"^\[k\] (_?copy_|copyout|copyin|__check_object|check_stack|simple_copy)"),
    ("kernel: pages and disk", r"^\[k\] .*(folio|page|fault|ext4|jbd2|block|bio|blk|dirty|writeback|mkwrite|tlb|smp_call|xas|msync|mpage|nvme|virtio|pte)"),
    ("kernel: waking, switching, polling", r"^\[k\] .*(sched|switch|wake|epoll|ep_|futex|hrtimer|idle|enqueue_task|dequeue|try_to|update_|pick_|native_write_msr|rcu|tick|timer|ktime|clock)"),
    ("kernel: the rest, mostly TCP", r"^\[k\]"),
    ("bytes into the log and out of it (memcpy)", r"mem(move|cpy|set)"),
    ("checksums", r"crc"),
    ("allocator", r"^\[\.\] \w*(malloc|_int_|realloc|calloc|unlink_chunk)|^\[\.\] \w*free$"),
    ("frames: decode, answer, connection", r"ackring::wire::|ackring::server::(dispatch|conn|outbox|desk|peer|reactor|together|holdings|sink|waiters|deliver|threads)|socket"),
    ("enqueue: check, slots, publish", r"engine::(admit|enqueue|together)|base::batch::enqueue|slab|ackring::ring::(slots|magazine|free)"),
    ("ready ring", r"ackring::ring::"),
    ("reserve: take, log, deliver", r"engine::(reserve|deliver)"),
    ("settle, finish, free the slot", r"engine::(settle|change|finish|transition|bulk|retention|journal)|base::batch::settle"),
    ("timers and young leases", r"engine::(expire|timer|wheel|young)"),
    ("log: claim, commit, prefix, reclaim", r"ackring::log::|engine::(reclaim|remains|tally|moved|copy|definitions)"),
    ("sessions", r"engine::replay|hash"),
    ("load tool and client", r"cli::|client::|hdrhistogram"),
]
STAGES = [(name, re.compile(pattern)) for name, pattern in STAGES]

bench = json.load(open(sys.argv[1]))
by_stage = collections.defaultdict(lambda: [0, 0])
total = 0
for line in open(sys.argv[2]):
    parts = [part.strip() for part in line.split("|")]
    if len(parts) != 3 or not parts[0].isdigit():
        continue
    samples, comm, symbol = int(parts[0]), parts[1], parts[2]
    is_server = bool(SERVER.match(comm))
    stage = next((name for name, pattern in STAGES if pattern.search(symbol)), "the rest")
    if not is_server and not symbol.startswith("[k]"):
        stage = "load tool and client"
    by_stage[stage][0 if is_server else 1] += samples
    total += samples

cpu_s = (bench["client_cpu_s"] or 0) + (bench["server_cpu_s"] or 0)
ns_a_job = cpu_s * 1e9 / bench["jobs"]
print(f"{bench['durability']}, batches of {bench['batch']}, {bench['payload']} bytes: {bench['jobs_per_s']:,.0f} jobs/s, "
      f"{ns_a_job:.0f} ns of processor time a job\n")
print(f"| {'stage':<44} | server, ns | client, ns | share |")
print(f"|{'-' * 46}|-----------:|-----------:|------:|")
for stage, (server, client) in sorted(by_stage.items(), key=lambda item: -sum(item[1])):
    print(f"| {stage:<44} | {server / total * ns_a_job:10.1f} | {client / total * ns_a_job:10.1f} "
          f"| {(server + client) / total * 100:4.1f} % |")
PYTHON
