//! Who takes part, and how each does a round.

use crate::load::{self, Round, Work};
use crate::peer::{self, Class, Peer};
use crate::table::Contestant;
use crate::{ackring, beanstalk, nats, redis};
use std::io;
use std::path::Path;
use std::time::Duration;

/// Everybody, in the order of the page.
pub fn all() -> impl Iterator<Item = Who> {
    let ours = [
        (Class::Memory, Manner::Plain),
        (Class::Written, Manner::Plain),
        (Class::Synced, Manner::Plain),
        (Class::Memory, Manner::Quiet),
        (Class::Written, Manner::Quiet),
        (Class::Memory, Manner::Polling),
        (Class::Written, Manner::Polling),
    ]
    .map(|(class, manner)| Who::Ours { class, manner });
    ours.into_iter().chain(peers().into_iter().map(Who::Peer))
}

fn peers() -> Vec<Box<dyn Peer>> {
    let mut peers: Vec<Box<dyn Peer>> = Vec::new();
    for kind in [redis::Kind::List, redis::Kind::Stream] {
        for sync in [None, Some("everysec"), Some("always")] {
            peers.push(Box::new(redis::Redis { kind, sync }));
        }
    }
    for sync_ms in [None, Some(50), Some(0)] {
        peers.push(Box::new(beanstalk::Beanstalk { sync_ms }));
    }
    for storage in ["memory", "file"] {
        peers.push(Box::new(nats::Nats { storage }));
    }
    peers
}

/// How ackring is used.
#[derive(Clone, Copy, PartialEq)]
pub enum Manner {
    /// Each request is answered.
    Plain,
    /// Acks are answered only where they fail.
    Quiet,
    /// Quiet, and server and tool look for bytes again and again, which is for latency alone.
    Polling,
}

/// Somebody who takes part: ackring at a level, or a peer.
pub enum Who {
    Ours { class: Class, manner: Manner },
    Peer(Box<dyn Peer>),
}

impl Who {
    /// A contestant without results in so many works; `None` where it is not installed.
    pub fn contestant(&self, works: usize) -> Option<Contestant> {
        let none = || (0..works).map(|_| Vec::new()).collect();
        let failures = vec![None; works];
        Some(match self {
            Who::Ours { class, manner } => Contestant {
                name: "ackring".to_owned(),
                settings: match manner {
                    Manner::Plain => ackring::level(*class).to_owned(),
                    Manner::Quiet => format!("{}, quiet acks", ackring::level(*class)),
                    Manner::Polling => format!("{}, quiet acks, --busy-poll", ackring::level(*class)),
                },
                class: *class,
                acks: match manner {
                    Manner::Plain => "enqueue, push to a subscription, settle",
                    _ => "enqueue, push to a subscription, settle, which is answered only if it fails",
                },
                version: env!("CARGO_PKG_VERSION").to_owned(),
                rounds: none(),
                failures,
                is_measure: *manner == Manner::Plain,
            },
            Who::Peer(peer) => Contestant {
                name: peer.name(),
                settings: peer.settings(),
                class: peer.class(),
                acks: peer.acks(),
                version: peer.version()?,
                rounds: none(),
                failures,
                is_measure: false,
            },
        })
    }

    /// Whether it takes part in that work.
    pub fn does(&self, work: &Work) -> bool {
        match self {
            Who::Ours { manner, .. } => match manner {
                Manner::Plain => true,
                Manner::Quiet => work.batch == 1,
                Manner::Polling => work.rate.is_some(),
            },
            Who::Peer(_) => true,
        }
    }

    /// Does the work on a new server, after a warm-up.
    pub fn round(&self, work: Work, time: Duration, directory: &Path) -> io::Result<Round> {
        let (port, warmup) = (peer::free_port()?, time / 4);
        match self {
            Who::Ours { class, manner } => {
                let server = ackring::start(directory, port, *manner == Manner::Polling)?;
                ackring::run(&server.address, (*class, *manner), work, time, warmup)
            }
            Who::Peer(peer) => {
                let server = peer.start(directory, port)?;
                load::run(peer.as_ref(), &server.address, "warm", work, warmup)?;
                load::run(peer.as_ref(), &server.address, "jobs", work, time)
            }
        }
    }
}
