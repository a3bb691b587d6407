#!/bin/sh
# Shows that the simulation finds bugs: builds it once with the planted ones (nothing that ships is built so), then
# plants one after the other and lives through histories with rising seeds until a check fails.
#
#   tests/sim/planted.sh [seeds at most, each] [bugs...]
#
# Prints a table: the bug, after how many seeds it was seen, and by which check. Ends with 1 where one was not seen.
set -eu
cd "$(dirname "$0")/../.."
seeds=${1:-3000}
[ $# -gt 0 ] && shift
export CARGO_TARGET_DIR=target/planted
RUSTFLAGS="--cfg planted" cargo test --no-default-features --features server --test sim --no-run 2>/dev/null
if [ $# -eq 0 ]; then
    set -- $(sed -n 's/^ *Plant::[A-Za-z]* => "\([a-z-]*\)",$/\1/p' src/base/plant.rs)
fi
missed=0
printf '%-22s %7s  %s\n' "bug" "seeds" "seen by"
for bug in "$@"; do
    # The log's own histories first: they have writers that are in the middle of a record, which one thread has not.
    said=$(RUSTFLAGS="--cfg planted" ACKRING_PLANT=$bug cargo test --no-default-features --features server \
        --test sim log_ 2>/dev/null || true)
    check=$(printf '%s\n' "$said" | sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' | head -n 1)
    if [ -n "$check" ]; then
        printf '%-22s %7s  %s\n' "$bug" "test" "$check"
        continue
    fi
    said=$(RUSTFLAGS="--cfg planted" ACKRING_PLANT=$bug ACKRING_SEED=1 ACKRING_RUNS=$seeds ACKRING_FAILURES=1 \
        cargo test --no-default-features --features server --test sim hunt -- --ignored --nocapture 2>/dev/null || true)
    count=$(printf '%s\n' "$said" | sed -n 's/^after \([0-9]*\) seeds$/\1/p')
    check=$(printf '%s\n' "$said" | sed -n 's/^seed [0-9]*: //p' | head -n 1 | cut -c 1-110)
    if [ -z "$count" ]; then
        missed=1
        count=">$seeds"
        check="NOT SEEN"
    fi
    printf '%-22s %7s  %s\n' "$bug" "$count" "$check"
done
exit $missed
