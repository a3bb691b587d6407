//! Redis: a list, whose jobs nobody acks, and a stream with a consumer group, the nearest that it has to a queue.

use crate::peer::{Class, Event, Peer, Produce, Server, Work, version_of};
use crate::wire::{Wire, bad, number};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    List,
    Stream,
}

/// Redis with or without its log.
pub struct Redis {
    pub kind: Kind,
    /// `None` without a log, or what `appendfsync` is.
    pub sync: Option<&'static str>,
}

impl Peer for Redis {
    fn name(&self) -> String {
        match self.kind {
            Kind::List => "Redis list".to_owned(),
            Kind::Stream => "Redis stream".to_owned(),
        }
    }

    fn settings(&self) -> String {
        match self.sync {
            None => "no AOF".to_owned(),
            Some(sync) => format!("AOF, {sync}"),
        }
    }

    fn class(&self) -> Class {
        match self.sync {
            None => Class::Memory,
            Some("always") => Class::Synced,
            Some(_) => Class::Written,
        }
    }

    fn acks(&self) -> &'static str {
        match self.kind {
            Kind::List => "none: RPUSH + BLMPOP; a worker that dies loses its jobs",
            Kind::Stream => "XADD, XREADGROUP, XACK + XDEL",
        }
    }

    fn version(&self) -> Option<String> {
        version_of("redis-server", "--version")
    }

    fn start(&self, directory: &Path, port: u16) -> io::Result<Server> {
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--daemonize",
            "no",
        ]);
        command.arg("--dir").arg(directory);
        match self.sync {
            None => command.args(["--appendonly", "no"]),
            Some(sync) => command.args(["--appendonly", "yes", "--appendfsync", sync]),
        };
        Server::start(command, port)
    }

    fn prepare(&self, address: &str, queue: &str) -> io::Result<()> {
        let mut wire = Wire::connect(address)?;
        if self.kind == Kind::Stream {
            command(
                &mut wire.out,
                &[b"XGROUP", b"CREATE", queue.as_bytes(), b"g", b"$", b"MKSTREAM"],
            );
            wire.flush()?;
            skip(&mut wire)?;
        }
        Ok(())
    }

    fn producer(&self, address: &str, queue: &str) -> io::Result<Box<dyn Produce + Send>> {
        let wire = Wire::connect(address)?;
        let (kind, queue) = (self.kind, queue.to_owned());
        Ok(Box::new(Producer { wire, kind, queue }))
    }

    fn worker(&self, address: &str, queue: &str) -> io::Result<Box<dyn Work + Send>> {
        let wire = Wire::connect(address)?;
        let queue = queue.to_owned();
        Ok(match self.kind {
            Kind::List => Box::new(ListWorker { wire, queue }),
            Kind::Stream => Box::new(StreamWorker {
                wire,
                queue,
                name: format!("w{:?}", std::thread::current().id()),
                ids: Vec::new(),
            }),
        })
    }
}

fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    begin(out, words.len());
    words.iter().for_each(|word| put(out, word));
}

fn begin(out: &mut Vec<u8>, words: usize) {
    // Writing into memory does not fail.
    let _ = write!(out, "*{words}\r\n");
}

fn put(out: &mut Vec<u8>, word: &[u8]) {
    let _ = write!(out, "${}\r\n", word.len());
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}

/// The head of the next answer: its kind, and its number; `None` for nil.
fn head(wire: &mut Wire) -> io::Result<(u8, Option<usize>)> {
    let line = wire.line()?;
    match line.split_first() {
        Some((b'-', text)) => Err(bad(String::from_utf8_lossy(text).into_owned())),
        Some((b'+', _)) => Ok((b'+', None)),
        Some((kind, b"-1")) => Ok((*kind, None)),
        Some((kind, digits)) => Ok((*kind, Some(number(digits)?))),
        None => Err(bad("an empty answer")),
    }
}

/// Reads one whole answer and forgets it.
fn skip(wire: &mut Wire) -> io::Result<()> {
    match head(wire)? {
        (b'*', Some(count)) => (0..count).try_for_each(|_| skip(wire)),
        (b'$', Some(len)) => wire.block(len).map(drop),
        _ => Ok(()),
    }
}

fn text(wire: &mut Wire) -> io::Result<&[u8]> {
    match head(wire)? {
        (b'$', Some(len)) => wire.block(len),
        _ => Err(bad("a text was expected")),
    }
}

struct Producer {
    wire: Wire,
    kind: Kind,
    queue: String,
}

impl Produce for Producer {
    fn put(&mut self, payloads: &[Vec<u8>]) {
        let (out, queue) = (&mut self.wire.out, self.queue.as_bytes());
        match self.kind {
            Kind::List => {
                begin(out, payloads.len() + 2);
                put(out, b"RPUSH");
                put(out, queue);
                payloads.iter().for_each(|payload| put(out, payload));
            }
            // A stream takes one entry a command.
            Kind::Stream => {
                for payload in payloads {
                    command(out, &[b"XADD", queue, b"*", b"p", payload]);
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.wire.flush()
    }

    fn confirm(&mut self, jobs: usize) -> io::Result<()> {
        let answers = if self.kind == Kind::List { 1 } else { jobs };
        (0..answers).try_for_each(|_| skip(&mut self.wire))
    }

    fn is_confirmed(&self, wait: Duration) -> bool {
        self.wire.is_readable(wait)
    }

    fn is_buffered(&self) -> bool {
        self.wire.is_buffered()
    }
}

struct ListWorker {
    wire: Wire,
    queue: String,
}

impl Work for ListWorker {
    fn take(&mut self, jobs_max: usize, _: usize, told: &mut dyn FnMut(Event<'_>)) -> io::Result<()> {
        let count = jobs_max.to_string();
        let queue = self.queue.as_bytes();
        command(
            &mut self.wire.out,
            &[
                b"BLMPOP",
                b"0.2",
                b"1",
                queue,
                b"LEFT",
                b"COUNT",
                count.as_bytes(),
            ],
        );
        self.wire.flush()?;
        if let (b'*', Some(_)) = head(&mut self.wire)? {
            text(&mut self.wire)?;
            let (_, count) = head(&mut self.wire)?;
            let count = count.unwrap_or(0);
            for _ in 0..count {
                told(Event::Came(text(&mut self.wire)?));
            }
            // Nothing to ack: what came is done.
            told(Event::Acked(count));
        }
        Ok(())
    }
}

struct StreamWorker {
    wire: Wire,
    queue: String,
    name: String,
    ids: Vec<Vec<u8>>,
}

impl Work for StreamWorker {
    fn take(&mut self, jobs_max: usize, ack_batch: usize, told: &mut dyn FnMut(Event<'_>)) -> io::Result<()> {
        let ids = std::mem::take(&mut self.ids);
        let queue = self.queue.as_bytes();
        for ids in ids.chunks(ack_batch) {
            for verb in [&[&b"XACK"[..], queue, b"g"][..], &[b"XDEL", queue]] {
                begin(&mut self.wire.out, verb.len() + ids.len());
                verb.iter().for_each(|word| put(&mut self.wire.out, word));
                ids.iter().for_each(|id| put(&mut self.wire.out, id));
            }
        }
        let count = jobs_max.to_string();
        let name = self.name.as_bytes();
        let read: [&[u8]; 11] = [
            b"XREADGROUP",
            b"GROUP",
            b"g",
            name,
            b"COUNT",
            count.as_bytes(),
            b"BLOCK",
            b"200",
            b"STREAMS",
            queue,
            b">",
        ];
        command(&mut self.wire.out, &read);
        self.wire.flush()?;
        for _ in 0..ids.len().div_ceil(ack_batch) * 2 {
            skip(&mut self.wire)?;
        }
        told(Event::Acked(ids.len()));
        if let (b'*', Some(_)) = head(&mut self.wire)? {
            // [[stream, [[id, [field, value]], …]]]
            head(&mut self.wire)?;
            text(&mut self.wire)?;
            let (_, count) = head(&mut self.wire)?;
            for _ in 0..count.unwrap_or(0) {
                head(&mut self.wire)?;
                self.ids.push(text(&mut self.wire)?.to_vec());
                head(&mut self.wire)?;
                text(&mut self.wire)?;
                told(Event::Came(text(&mut self.wire)?));
            }
        }
        Ok(())
    }
}
