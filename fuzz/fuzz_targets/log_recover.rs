//! See `tests/fuzz_targets/log_recover.rs`.
#![no_main]

#[path = "../../tests/fuzz_targets/histories.rs"]
mod histories;
mod memory;
#[path = "../../tests/fuzz_targets/mutations.rs"]
mod mutations;
#[path = "../../tests/fuzz_targets/ram_disk.rs"]
mod ram_disk;
#[path = "../../tests/log_common/reader.rs"]
mod reader;
#[path = "../../tests/fuzz_targets/log_recover.rs"]
mod target;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: {
    histories::all();
}, |input: &[u8]| {
    // The files of the largest history and what is read of them, several times over.
    memory::with_limit(8 << 20, || target::run(input));
});
