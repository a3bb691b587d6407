//! Operations on the engine, chosen by the input, against the plain model of `tests/engine/model`: every answer, every
//! job's state and every counter must be the model's, through restarts after `kill -9` too; and when all is worked
//! off nothing may be left of it.

use crate::driver::Driver;
use crate::ram_disk::{Image, RamDisk};
use crate::source::Rng;

/// More operations than this only take time.
const OPERATIONS_MAX: usize = 300;

pub fn run(input: &[u8]) {
    let disk = RamDisk::new(&Image::new(), 1);
    let mut driver = Driver::on(Rng::from_bytes(input), disk.handle());
    for _ in 0..OPERATIONS_MAX {
        if driver.is_used_up() {
            break;
        }
        driver.step();
    }
    driver.finish();
}
