//! The real network: mio's poll over TCP and Unix sockets.

use super::listen::Listeners;
use super::net::{Net, Ready, Wake};
use super::stream::Stream;
use mio::{Events, Interest, Poll, Token, Waker};
use std::io;
use std::time::Duration;

/// What the poll calls the waker, the listeners, and the first connection.
const WAKER: Token = Token(0);
const LISTENERS: Token = Token(1);
const FIRST_CONNECTION: usize = 2;

/// Events taken from the poll in one turn.
const EVENTS_MAX: usize = 1_024;

/// The sockets of one reactor.
#[derive(Debug)]
pub(super) struct Sockets {
    poll: Poll,
    events: Events,
    listeners: Option<Listeners>,
}

impl Sockets {
    /// A poll, and what ends its wait. Only one reactor has listeners.
    pub(super) fn new(mut listeners: Option<Listeners>) -> io::Result<(Self, Wake)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        if let Some(listeners) = &mut listeners {
            listeners.register(poll.registry(), LISTENERS)?;
        }
        let sockets = Self {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            listeners,
        };
        let wake = move || {
            // An eventfd write fails only when its counter is full, which means that it is rung already.
            let _ = waker.wake();
        };
        Ok((sockets, Box::new(wake)))
    }
}

impl Net for Sockets {
    type Stream = Stream;

    #[inline]
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    #[inline]
    fn each_ready(&mut self, mut tell: impl FnMut(Ready)) {
        for event in &self.events {
            match event.token() {
                WAKER => {}
                LISTENERS => tell(Ready::Accept),
                Token(token) => tell(Ready::Stream {
                    number: (token - FIRST_CONNECTION) as u32,
                    readable: event.is_readable(),
                    read_closed: event.is_read_closed(),
                    writable: event.is_writable(),
                }),
            }
        }
    }

    fn accept(&mut self) -> io::Result<Option<Stream>> {
        match &self.listeners {
            Some(listeners) => listeners.accept(),
            None => Ok(None),
        }
    }

    fn stop_listening(&mut self) {
        self.listeners = None;
    }

    fn watch(&mut self, stream: &mut Stream, number: u32) -> io::Result<()> {
        let token = Token(FIRST_CONNECTION + number as usize);
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(stream, token, interest)
    }

    fn forget(&mut self, stream: &mut Stream) {
        // Closing takes it out of the poll as well, so an error here changes nothing.
        let _ = self.poll.registry().deregister(stream);
    }
}
