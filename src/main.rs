//! The `ackring` command.
fn main() {}
