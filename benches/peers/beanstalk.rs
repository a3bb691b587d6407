//! beanstalkd: a job queue with leases and acks, one job a command.

use crate::peer::{Class, Event, Peer, Produce, Server, Work, version_of};
use crate::wire::{Wire, bad, number};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// beanstalkd with or without its log.
pub struct Beanstalk {
    /// `None` without a log, or how many milliseconds may pass between syncs.
    pub sync_ms: Option<u32>,
}

impl Peer for Beanstalk {
    fn name(&self) -> String {
        "beanstalkd".to_owned()
    }

    fn settings(&self) -> String {
        match self.sync_ms {
            None => "no binlog".to_owned(),
            Some(ms) => format!("binlog, -f {ms}"),
        }
    }

    fn class(&self) -> Class {
        match self.sync_ms {
            None => Class::Memory,
            Some(0) => Class::Synced,
            Some(_) => Class::Written,
        }
    }

    fn acks(&self) -> &'static str {
        "put, reserve, delete"
    }

    /// Each job is asked for by a command of its own, which is answered though there is none.
    fn take_max(&self) -> usize {
        1
    }

    fn version(&self) -> Option<String> {
        version_of("beanstalkd", "-v")
    }

    fn start(&self, directory: &Path, port: u16) -> io::Result<Server> {
        let mut command = Command::new("beanstalkd");
        command.args(["-l", "127.0.0.1", "-p", &port.to_string()]);
        if let Some(ms) = self.sync_ms {
            command.args(["-f", &ms.to_string(), "-b"]).arg(directory);
        }
        Server::start(command, port)
    }

    fn prepare(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn producer(&self, address: &str, queue: &str) -> io::Result<Box<dyn Produce + Send>> {
        let mut wire = Wire::connect(address)?;
        let _ = write!(wire.out, "use {queue}\r\n");
        wire.flush()?;
        wire.line()?;
        Ok(Box::new(Producer { wire }))
    }

    fn worker(&self, address: &str, queue: &str) -> io::Result<Box<dyn Work + Send>> {
        let mut wire = Wire::connect(address)?;
        let _ = write!(wire.out, "watch {queue}\r\n");
        wire.flush()?;
        wire.line()?;
        Ok(Box::new(Worker {
            wire,
            ids: Vec::new(),
        }))
    }
}

struct Producer {
    wire: Wire,
}

impl Produce for Producer {
    fn put(&mut self, payloads: &[Vec<u8>]) {
        for payload in payloads {
            let _ = write!(self.wire.out, "put 0 0 30 {}\r\n", payload.len());
            self.wire.out.extend_from_slice(payload);
            self.wire.out.extend_from_slice(b"\r\n");
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.wire.flush()
    }

    fn confirm(&mut self, jobs: usize) -> io::Result<()> {
        for _ in 0..jobs {
            let line = self.wire.line()?;
            if !line.starts_with(b"INSERTED") {
                return Err(bad(String::from_utf8_lossy(line).into_owned()));
            }
        }
        Ok(())
    }

    fn is_confirmed(&self, wait: Duration) -> bool {
        self.wire.is_readable(wait)
    }

    fn is_buffered(&self) -> bool {
        self.wire.is_buffered()
    }
}

struct Worker {
    wire: Wire,
    ids: Vec<usize>,
}

impl Work for Worker {
    fn take(&mut self, jobs_max: usize, _: usize, told: &mut dyn FnMut(Event<'_>)) -> io::Result<()> {
        let ids = std::mem::take(&mut self.ids);
        for id in &ids {
            let _ = write!(self.wire.out, "delete {id}\r\n");
        }
        // Times are whole seconds here, so an empty queue is waited for by one of them.
        let _ = write!(self.wire.out, "reserve-with-timeout 1\r\n");
        (1..jobs_max).for_each(|_| self.wire.out.extend_from_slice(b"reserve-with-timeout 0\r\n"));
        self.wire.flush()?;
        for _ in &ids {
            let line = self.wire.line()?;
            if line != b"DELETED" {
                return Err(bad(String::from_utf8_lossy(line).into_owned()));
            }
        }
        told(Event::Acked(ids.len()));
        for _ in 0..jobs_max {
            let line = self.wire.line()?;
            let mut words = line.split(|byte| *byte == b' ');
            match words.next() {
                Some(b"RESERVED") => {
                    let id = number(words.next().unwrap_or_default())?;
                    let len = number(words.next().unwrap_or_default())?;
                    self.ids.push(id);
                    told(Event::Came(self.wire.block(len)?));
                }
                Some(b"TIMED_OUT") => {}
                _ => return Err(bad(String::from_utf8_lossy(line).into_owned())),
            }
        }
        Ok(())
    }
}
