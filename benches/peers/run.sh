#!/usr/bin/env bash
# Ackring and its peers, in turn, on this machine; writes BENCHMARKS.md. Needs redis-server, beanstalkd and
# nats-server where they are to take part (Debian's packages have these names). Arguments go to the benchmark:
# --rounds 5, --millis 2000, --only TEXT, --out FILE, --data DIR.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec cargo bench --locked --bench peers -- "$@"
