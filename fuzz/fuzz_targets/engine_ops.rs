//! See `tests/fuzz_targets/engine_ops.rs`.
#![no_main]

#[path = "../../tests/engine/model/driver.rs"]
mod driver;
#[path = "../../tests/fuzz_targets/ram_disk.rs"]
mod ram_disk;
#[path = "../../tests/engine/model/reference.rs"]
mod reference;
#[path = "../../tests/engine/model/source.rs"]
mod source;
#[path = "../../tests/fuzz_targets/engine_ops.rs"]
mod target;
#[path = "../../tests/engine/world.rs"]
mod world;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| target::run(input));
