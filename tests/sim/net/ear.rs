//! The server's side of the network: what a reactor is told, and its ends of connections.

use super::pipe::Close;
use super::{End, Fabric, SimNet};
use ackring::server::machine::{Net, NetStream, Ready};
use std::io;
use std::time::Duration;

/// What one reactor sees of the network.
#[derive(Debug)]
pub struct Ear {
    pub(super) net: SimNet,
    pub(super) reactor: usize,
}

/// The server's end of a connection.
#[derive(Debug)]
pub struct ServerEnd {
    net: SimNet,
    id: u64,
}

impl Net for Ear {
    type Stream = ServerEnd;

    fn wait(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn each_ready(&mut self, mut tell: impl FnMut(Ready)) {
        let mut fabric = self.net.0.borrow_mut();
        let mut news: Vec<u64> = std::mem::take(&mut fabric.news[self.reactor])
            .into_iter()
            .collect();
        if self.reactor == 0 && std::mem::take(&mut fabric.accept_news) {
            tell(Ready::Accept);
        }
        while !news.is_empty() {
            let at = fabric.rng.index(news.len());
            let Some(link) = fabric.links.get(&news.swap_remove(at)) else {
                continue;
            };
            if let Some((_, number)) = link.watched {
                tell(Ready::Stream {
                    number,
                    readable: link.up.has_news(),
                    read_closed: link.up.closed.is_some(),
                    writable: !link.pressed && link.down.room() > 0 || link.up.closed == Some(Close::Reset),
                });
            }
        }
    }

    fn accept(&mut self) -> io::Result<Option<ServerEnd>> {
        let mut fabric = self.net.0.borrow_mut();
        if self.reactor != 0 || !fabric.listening {
            return Ok(None);
        }
        if fabric.faulty && fabric.rng.per_mille(30) {
            fabric.counts.accept_errors += 1;
            return Err(io::Error::from_raw_os_error(24));
        }
        while let Some(id) = fabric.backlog.pop_front() {
            if fabric.links.contains_key(&id) {
                drop(fabric);
                let net = self.net.clone();
                return Ok(Some(ServerEnd { net, id }));
            }
        }
        Ok(None)
    }

    fn stop_listening(&mut self) {
        let mut fabric = self.net.0.borrow_mut();
        if self.reactor == 0 && std::mem::take(&mut fabric.listening) {
            let waiting: Vec<u64> = fabric.backlog.drain(..).collect();
            let Fabric { rng, links, .. } = &mut *fabric;
            for id in waiting {
                if let Some(link) = links.get_mut(&id) {
                    link.server_open = false;
                    link.down.reset(rng, false);
                    link.up.reset(rng, true);
                }
            }
        }
    }

    fn watch(&mut self, stream: &mut ServerEnd, number: u32) -> io::Result<()> {
        let mut fabric = self.net.0.borrow_mut();
        if fabric.faulty && fabric.rng.per_mille(10) {
            fabric.counts.watch_errors += 1;
            return Err(io::Error::from_raw_os_error(28));
        }
        if let Some(link) = fabric.links.get_mut(&stream.id) {
            link.watched = Some((self.reactor, number));
        }
        fabric.tell(stream.id);
        Ok(())
    }

    fn forget(&mut self, stream: &mut ServerEnd) {
        let mut fabric = self.net.0.borrow_mut();
        if let Some(link) = fabric.links.get_mut(&stream.id) {
            link.watched = None;
        }
        fabric.news[self.reactor].remove(&stream.id);
    }
}

impl NetStream for ServerEnd {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let mut fabric = self.net.0.borrow_mut();
        interrupt(&mut fabric)?;
        let Some(link) = fabric.links.get_mut(&self.id) else {
            return Err(io::ErrorKind::ConnectionReset.into());
        };
        let count = link.up.arrived.len().min(space.len());
        if count == 0 {
            return match link.up.closed {
                Some(Close::Fin) => Ok(0),
                Some(Close::Reset) => Err(io::ErrorKind::ConnectionReset.into()),
                None => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        for (place, byte) in space.iter_mut().zip(link.up.arrived.drain(..count)) {
            *place = byte;
        }
        Ok(count)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut fabric = self.net.0.borrow_mut();
        fabric.count_down();
        if fabric.machine.is_off() {
            return Ok(bytes.len());
        }
        interrupt(&mut fabric)?;
        let presses = fabric.faulty && fabric.rng.per_mille(60);
        let Fabric {
            rng, links, counts, ..
        } = &mut *fabric;
        let Some(link) = links.get_mut(&self.id) else {
            return Err(io::ErrorKind::ConnectionReset.into());
        };
        let is_unaware = link.notice.is_some_and(|(end, _)| end == End::Server);
        if !is_unaware && (link.up.closed == Some(Close::Reset) || link.down.close.is_some()) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if !is_unaware && !link.client_open {
            // The first write to a peer that has closed is taken; the next one finds its reset.
            link.up.reset(rng, false);
            return Ok(bytes.len());
        }
        let room = if link.pressed { 0 } else { link.down.room() };
        let mut count = room.min(bytes.len());
        if presses && count > 0 {
            count = rng.index(count);
            link.pressed = true;
        }
        // Behind bytes that were lost nothing comes any more.
        if !is_unaware {
            link.down.sent.extend(&bytes[..count]);
        }
        if count < bytes.len() {
            link.blocked = true;
            counts.short_writes += 1;
        }
        if count == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(count)
    }

    fn finish_writing(&self) {
        let mut fabric = self.net.0.borrow_mut();
        if !fabric.machine.is_off()
            && let Some(link) = fabric.links.get_mut(&self.id)
        {
            link.down.close.get_or_insert(Close::Fin);
        }
    }
}

/// A signal may come into any call.
fn interrupt(fabric: &mut Fabric) -> io::Result<()> {
    if fabric.faulty && fabric.rng.per_mille(5) {
        fabric.counts.interrupts += 1;
        return Err(io::ErrorKind::Interrupted.into());
    }
    Ok(())
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        let mut fabric = self.net.0.borrow_mut();
        let Fabric {
            rng, links, machine, ..
        } = &mut *fabric;
        let Some(link) = links.get_mut(&self.id) else {
            return;
        };
        if machine.is_off() {
            // What becomes of it is said when the machine's end is.
            return;
        }
        if !std::mem::replace(&mut link.server_open, false) {
            return;
        }
        link.watched = None;
        if link.notice.is_some_and(|(end, _)| end == End::Server) {
            link.notice = None;
        }
        if link.notice.is_some() {
            // The client will notice by itself.
        } else if link.up.arrived.is_empty() && link.up.sent.is_empty() {
            link.down.close.get_or_insert(Close::Fin);
        } else {
            // Closed with bytes unread: the peer is told by a reset, which may take the last answers with it.
            link.down.reset(rng, false);
        }
        link.up.arrived.clear();
        let id = self.id;
        fabric.collect(id);
    }
}
