//! Who takes part: clients, and the one who knows what is right.

use ackring::engine::{Engine, RecoverySummary};

/// A client, without input or output of its own. The world carries its bytes.
///
/// `now_ms` is what the server's clock says (or would say if it started now). It stands still, jumps forward, and
/// steps back only between two lives of the server.
pub trait Actor {
    /// A connection was made; what it had to do on an earlier one is to be done again.
    fn connected(&mut self, now_ms: u64);

    /// Bytes came, any number of them.
    fn receive(&mut self, bytes: &[u8], now_ms: u64);

    /// What it wants to send now, in whole frames; called again and again while connected.
    fn output(&mut self, now_ms: u64) -> Vec<u8>;

    /// The connection is over. What was sent may have arrived or not.
    fn disconnected(&mut self, now_ms: u64);

    /// Whether it wants to be connected; where it does not any more, the world closes its connection.
    fn wants_connection(&self, now_ms: u64) -> bool;
}

/// How a life of the server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Crash {
    /// By `kill -9`: what was `written` stays.
    Kill,
    /// With the power: only what was `synced` stays for sure.
    Power,
    /// In good order: everything stays.
    Stop,
    /// By itself, because a sync failed (G11): as by a kill, as the machine lives on. What waited for a sync may be
    /// gone.
    Failed,
}

/// Who knows what must be true.
pub trait Judge {
    /// A life of the server ended.
    fn crashed(&mut self, crash: Crash, now_ms: u64);

    /// The server is back; nobody has spoken to it yet.
    fn recovered(&mut self, engine: &Engine, summary: &RecoverySummary, now_ms: u64);

    /// From now on nothing goes wrong: what is open is to be brought to an end, and nothing new begun.
    fn settle(&mut self);

    /// Whether everything has come to an end.
    fn is_settled(&self) -> bool;

    /// What has not, for people.
    fn what_is_open(&self, engine: Option<&Engine>) -> String;

    /// The end: everything is settled, the engine is still open.
    fn finish(&mut self, engine: &Engine, now_ms: u64);

    /// What happened, to know that it did: names and how often.
    fn counts(&self) -> Vec<(&'static str, u64)>;
}

/// Everybody of one history.
pub struct Cast {
    pub actors: Vec<Box<dyn Actor>>,
    pub judge: Box<dyn Judge>,
}
