//! See `tests/fuzz_targets/engine_ops.rs`.
#![no_main]

#[path = "../../tests/sim/disk.rs"]
#[allow(dead_code, reason = "of the simulation; the driver names it")]
mod disk;
#[path = "../../tests/engine/model/driver.rs"]
mod driver;
#[path = "../../tests/engine/model/power.rs"]
#[allow(dead_code, reason = "of the engine's tests; the driver names it")]
mod power;
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
