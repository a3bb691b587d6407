#!/usr/bin/env bash
# Runs the stress tests under ThreadSanitizer and AddressSanitizer, with a standard library that is built for it:
#
#   tests/sanitize.sh [thread|address] [test …]
#
# Needs the nightly toolchain and its rust-src component; without them it says so and ends with 77, "skipped".
# Without an instrumented standard library ThreadSanitizer would not see std's own synchronisation and report races
# that there are not, so there is no way around -Zbuild-std.
#
# Loom checks the same structures in every interleaving, but not what threads do to mapped memory; ThreadSanitizer
# sees that as well. It takes a fence on its own for nothing; whatever is ordered only by one is atomic itself, so
# that no report has to be suppressed.
set -euo pipefail
cd "$(dirname "$0")/.."

kinds=(thread address)
case "${1:-}" in
    thread | address)
        kinds=("$1")
        shift
        ;;
esac
tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(ring_stress ring_slots ring_events log_threads crowd engine embedded)

skip() {
    echo "SKIPPED, nothing was checked: $*" >&2
    exit 77
}
[ "$(uname -sm)" = "Linux x86_64" ] || skip "the sanitizers are set up for Linux on x86_64"
rustc +nightly --version >/dev/null 2>&1 || skip "there is no nightly toolchain (rustup toolchain install nightly)"
sources=$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library/std
[ -d "$sources" ] || skip "nightly has no sources of std (rustup component add rust-src --toolchain nightly)"

arguments=()
for name in "${tests[@]}"; do arguments+=(--test "$name"); done
for kind in "${kinds[@]}"; do
    echo "== $kind sanitizer: ${tests[*]}"
    # One test at a time: shadow memory is several times what the test uses. Leaks are not looked for, since tests
    # leak jobs on purpose, as a worker that dies does.
    RUSTFLAGS="-Zsanitizer=$kind" \
        CARGO_TARGET_DIR="target/sanitize-$kind" \
        TSAN_OPTIONS="halt_on_error=1" \
        ASAN_OPTIONS="detect_leaks=0" \
        cargo +nightly test --no-fail-fast -Zbuild-std --target x86_64-unknown-linux-gnu --no-default-features --features engine \
        "${arguments[@]}" -- --test-threads=1
done
