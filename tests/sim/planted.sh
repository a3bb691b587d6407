#!/bin/sh
# Shows that the simulations find bugs: builds them once with the planted ones (nothing that ships is built so), then
# plants one after the other, and lives through histories with rising seeds until a check fails.
#
#   tests/sim/planted.sh [seeds at most, each] [bugs...]
#
# Prints a table: the bug; after how many seeds each layer saw it, as the median of several starts; by which check the
# whole system did at the first of them. A layer that does not contain the bug has a dot. Ends with 1 where a
# bug was seen neither by the whole system nor by the engine's power cuts, or something was seen where nothing was planted.
#
# STARTS=n: how many starts (3). ACKRING_OPS=n: turns of each history of the whole system (1000).
set -eu
cd "$(dirname "$0")/../.."
seeds=${1:-3000}
[ $# -gt 0 ] && shift
starts=${STARTS:-3}
turns=${ACKRING_OPS:-1000}
# The smaller layers are slower, or see what they see soon.
random_seeds=200
exhaustive_seeds=12
model_seeds=150

built=$(RUSTFLAGS="--cfg planted" CARGO_TARGET_DIR=target/planted cargo test --release --no-default-features \
    --features server --test sim --test engine --no-run 2>&1) || { printf '%s\n' "$built" >&2; exit 2; }
binary() { printf '%s\n' "$built" | sed -n "s|^ *Executable tests/$1/main.rs (\(.*\))\$|\1|p"; }
sim=$(binary sim)
engine=$(binary engine)

# A layer that stops at its first failure: says at which seed, counted from the start.
count() { # program, test, first seed, seeds
    said=$(ACKRING_PLANT=$bug ACKRING_FIRST=$3 ACKRING_RUNS=$4 env -u ACKRING_OPS "$1" "$2" 2>&1 || true)
    failed=$(printf '%s\n' "$said" | sed -n 's/^replay: ACKRING_SEED=\([0-9]*\) .*/\1/p' | head -n 1)
    [ -z "$failed" ] && echo $(($4 + 1)) || echo $((failed - $3 + 1))
}

log_random() { count "$sim" log_random:: "$1" $random_seeds; }
log_exhaustive() { count "$sim" log_exhaustive:: "$1" $exhaustive_seeds; }
power_cuts() { count "$engine" model::power_cuts "$1" $model_seeds; }
whole() {
    said=$(ACKRING_PLANT=$bug ACKRING_SEED=$1 ACKRING_RUNS=$seeds ACKRING_FAILURES=1 ACKRING_OPS=$turns \
        "$sim" hunt --ignored --nocapture 2>/dev/null || true)
    [ "$1" -gt 1 ] || printf '%s\n' "$said" | sed -n 's/^seed [0-9]*: //p' | head -n 1 | cut -c 1-90 > "$seen"
    after=$(printf '%s\n' "$said" | sed -n 's/^after \([0-9]*\) seeds$/\1/p')
    echo "${after:-$((seeds + 1))}"
}

# The median of a layer's starts, or that it was not seen.
median() { # layer, seeds at most
    start=0
    middle=$(while [ $start -lt "$starts" ]; do
        "$1" $((start * 1000000 + 1))
        start=$((start + 1))
    done | sort -n | sed -n "$(((starts + 1) / 2))p")
    [ "$middle" -le "$2" ] && echo "$middle" || echo ">$2"
}

seen=$(mktemp)
trap 'rm -f "$seen"' EXIT
if [ $# -eq 0 ]; then
    set -- $(sed -n 's/^ *Plant::[A-Za-z]* => "\([a-z-]*\)",$/\1/p' src/base/plant.rs)
fi
missed=0
row='%-20s %10s %14s %10s %12s  %s\n'
printf "$row" "bug" "log_random" "log_exhaustive" "power_cuts" "whole system" "seen by"
for bug in "$@"; do
    name=$(sed -n "s/^ *Plant::\([A-Za-z]*\) => \"$bug\",\$/\1/p" src/base/plant.rs)
    [ -n "$name" ] || { echo "there is no bug $bug" >&2; exit 2; }
    random=. exhaustive=. model=.
    if grep -rq "Plant::$name" src/log; then
        random=$(median log_random $random_seeds)
        exhaustive=$(median log_exhaustive $exhaustive_seeds)
    fi
    if grep -rq "Plant::$name" src/log src/engine; then
        model=$(median power_cuts $model_seeds)
    fi
    system=$(median whole "$seeds")
    case $system$model in ">"*"." | ">"*">"*) missed=1 ;; esac
    printf "$row" "$bug" "$random" "$exhaustive" "$model" "$system" "$(cat "$seen")"
done
# And with nothing planted, but with writers that are preempted and that stall, which other builds do not have.
said=$(ACKRING_SEED=1 ACKRING_RUNS=$seeds ACKRING_FAILURES=1 ACKRING_OPS=$turns "$sim" hunt --ignored --nocapture \
    2>/dev/null || true)
printf '%s\n' "$said" | grep -E '^seed|histories'
printf '%s\n' "$said" | grep -q '^seed' && missed=1
said=$(ACKRING_FIRST=1 ACKRING_RUNS=$model_seeds env -u ACKRING_OPS "$engine" model::power_cuts 2>&1 || true)
printf '%s\n' "$said" | grep -E '^replay|^test result'
printf '%s\n' "$said" | grep -q '^test result: ok' || missed=1
exit $missed
