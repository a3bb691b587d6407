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
        (Class::Memory, false),
        (Class::Written, false),
        (Class::Synced, false),
        (Class::Memory, true),
        (Class::Written, true),
    ]
    .map(|(class, polls)| Who::Ours { class, polls });
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

/// Somebody who takes part: ackring at a level, or a peer.
pub enum Who {
    Ours {
        class: Class,
        /// Server and tool look for bytes again and again, which is for latency alone.
        polls: bool,
    },
    Peer(Box<dyn Peer>),
}

impl Who {
    /// A contestant without results in so many works; `None` where it is not installed.
    pub fn contestant(&self, works: usize) -> Option<Contestant> {
        let none = || (0..works).map(|_| Vec::new()).collect();
        let failures = vec![None; works];
        Some(match self {
            Who::Ours { class, polls } => Contestant {
                name: "ackring".to_owned(),
                settings: if *polls {
                    format!("{}, --busy-poll", ackring::level(*class))
                } else {
                    ackring::level(*class).to_owned()
                },
                class: *class,
                acks: "enqueue, push to a subscription, settle",
                version: env!("CARGO_PKG_VERSION").to_owned(),
                rounds: none(),
                failures,
                is_measure: !polls,
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
            Who::Ours { polls, .. } => !polls || work.rate.is_some(),
            Who::Peer(_) => true,
        }
    }

    /// Does the work on a new server, after a warm-up.
    pub fn round(&self, work: Work, time: Duration, directory: &Path) -> io::Result<Round> {
        let (port, warmup) = (peer::free_port()?, time / 4);
        match self {
            Who::Ours { class, polls } => {
                let server = ackring::start(directory, port, *polls)?;
                ackring::run(&server.address, (*class, *polls), work, time, warmup)
            }
            Who::Peer(peer) => {
                let server = peer.start(directory, port)?;
                load::run(peer.as_ref(), &server.address, "warm", work, warmup)?;
                load::run(peer.as_ref(), &server.address, "jobs", work, time)
            }
        }
    }
}
