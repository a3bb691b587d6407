//! What a peer says first, for benchmarks that talk to a server by themselves.

use ackring::wire::Hello;

/// A HELLO of the session; the server's own bounds, no heartbeats.
pub fn greeting(session: u128, name: &str) -> Vec<u8> {
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        frame_bytes_max: 0,
        heartbeat_ms: 0,
        session,
        name,
    };
    let mut bytes = Vec::new();
    hello.encode(&mut bytes, 0);
    bytes
}
