//! See `tests/fuzz_targets/wire_decode.rs`.
#![no_main]

mod memory;
#[path = "../../tests/fuzz_targets/wire_decode.rs"]
mod target;
#[path = "../../tests/fuzz_targets/wire_again.rs"]
mod wire_again;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // Input, its pieces, what was read of it and what was written again: each at most a few times its length.
    memory::with_limit(target::FRAME_BYTES_MAX * 4 + input.len() * 64 + (1 << 20), || {
        target::run(input)
    });
});
