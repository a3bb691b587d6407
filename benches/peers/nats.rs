//! NATS JetStream: a stream with the retention of a work queue, and one durable consumer that workers pull from.

use crate::peer::{Class, Event, Peer, Produce, Server, Work, version_of};
use crate::wire::{Wire, bad, number};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// NATS with streams in memory or in files.
pub struct Nats {
    pub storage: &'static str,
}

impl Peer for Nats {
    fn name(&self) -> String {
        "NATS JetStream".to_owned()
    }

    fn settings(&self) -> String {
        format!("work queue, {}", self.storage)
    }

    fn class(&self) -> Class {
        if self.storage == "memory" {
            Class::Memory
        } else {
            Class::Written
        }
    }

    fn acks(&self) -> &'static str {
        "publish with its ack, pull, +ACK (which nobody confirms)"
    }

    fn version(&self) -> Option<String> {
        version_of("nats-server", "--version")
    }

    fn start(&self, directory: &Path, port: u16) -> io::Result<Server> {
        let mut command = Command::new("nats-server");
        command
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
            .arg(directory);
        Server::start(command, port)
    }

    fn prepare(&self, address: &str, queue: &str) -> io::Result<()> {
        let mut session = Session::open(address)?;
        let storage = self.storage;
        session.ask(
            &format!("$JS.API.STREAM.CREATE.{queue}"),
            &format!(
                r#"{{"name":"{queue}","subjects":["{queue}"],"retention":"workqueue","storage":"{storage}","num_replicas":1}}"#
            ),
        )?;
        session.ask(
            &format!("$JS.API.CONSUMER.DURABLE.CREATE.{queue}.w"),
            &format!(
                r#"{{"stream_name":"{queue}","config":{{"durable_name":"w","ack_policy":"explicit","deliver_policy":"all","max_ack_pending":65536,"max_waiting":1024}}}}"#
            ),
        )
    }

    fn producer(&self, address: &str, queue: &str) -> io::Result<Box<dyn Produce + Send>> {
        let session = Session::open(address)?;
        let queue = queue.to_owned();
        Ok(Box::new(Producer { session, queue }))
    }

    fn worker(&self, address: &str, queue: &str) -> io::Result<Box<dyn Work + Send>> {
        let session = Session::open(address)?;
        let queue = queue.to_owned();
        Ok(Box::new(Worker {
            session,
            queue,
            replies: Vec::new(),
        }))
    }
}

/// A connection with an inbox for what comes back.
struct Session {
    wire: Wire,
    inbox: String,
}

/// A message: where an answer to it goes, and whether it is an error or an end instead of a job.
struct Message<'a> {
    reply: Vec<u8>,
    is_status: bool,
    payload: &'a [u8],
}

impl Session {
    fn open(address: &str) -> io::Result<Self> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let inbox = format!("_INBOX.b{}", LAST.fetch_add(1, Ordering::Relaxed));
        let mut wire = Wire::connect(address)?;
        wire.line()?; // INFO
        let options = r#"{"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"lang":"bench","version":"0"}"#;
        let _ = write!(wire.out, "CONNECT {options}\r\nSUB {inbox} 1\r\nPING\r\n");
        wire.flush()?;
        while wire.line()? != b"PONG" {}
        Ok(Self { wire, inbox })
    }

    fn publish(&mut self, subject: &str, reply: bool, payload: &[u8]) {
        let (out, inbox) = (&mut self.wire.out, &self.inbox);
        let reply = if reply { inbox.as_str() } else { "" };
        let _ = write!(out, "PUB {subject} {reply} {}\r\n", payload.len());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }

    /// A request of the JetStream API.
    fn ask(&mut self, subject: &str, body: &str) -> io::Result<()> {
        self.publish(subject, true, body.as_bytes());
        self.wire.flush()?;
        let message = self.message()?;
        let text = String::from_utf8_lossy(message.payload).into_owned();
        if message.is_status || text.contains("\"error\"") {
            return Err(bad(text));
        }
        Ok(())
    }

    /// The next message.
    fn message(&mut self) -> io::Result<Message<'_>> {
        loop {
            let line = self.wire.line()?.to_vec();
            let words: Vec<&[u8]> = line
                .split(|byte| *byte == b' ')
                .filter(|word| !word.is_empty())
                .collect();
            match words.as_slice() {
                [b"MSG", _, _, rest @ .., len] => {
                    let reply = rest.first().map_or_else(Vec::new, |reply| reply.to_vec());
                    let payload = self.wire.block(number(len)?)?;
                    return Ok(Message {
                        reply,
                        is_status: false,
                        payload,
                    });
                }
                // Only statuses have headers here: nothing there, the pull is over.
                [b"HMSG", .., len] => {
                    let payload = self.wire.block(number(len)?)?;
                    return Ok(Message {
                        reply: Vec::new(),
                        is_status: true,
                        payload,
                    });
                }
                [b"PING"] => {
                    self.wire.out.extend_from_slice(b"PONG\r\n");
                    self.wire.flush()?;
                }
                [b"PONG"] | [b"+OK"] | [b"INFO", ..] => {}
                _ => return Err(bad(String::from_utf8_lossy(&line).into_owned())),
            }
        }
    }
}

struct Producer {
    session: Session,
    queue: String,
}

impl Produce for Producer {
    fn put(&mut self, payloads: &[Vec<u8>]) {
        payloads
            .iter()
            .for_each(|payload| self.session.publish(&self.queue, true, payload));
    }

    fn flush(&mut self) -> io::Result<()> {
        self.session.wire.flush()
    }

    fn confirm(&mut self, jobs: usize) -> io::Result<()> {
        for _ in 0..jobs {
            let message = self.session.message()?;
            if message.is_status || message.payload.windows(7).any(|window| window == b"\"error\"") {
                return Err(bad(String::from_utf8_lossy(message.payload).into_owned()));
            }
        }
        Ok(())
    }

    fn is_confirmed(&self, wait: Duration) -> bool {
        self.session.wire.is_readable(wait)
    }

    fn is_buffered(&self) -> bool {
        self.session.wire.is_buffered()
    }
}

struct Worker {
    session: Session,
    queue: String,
    /// Where the acks of what came last go.
    replies: Vec<Vec<u8>>,
}

impl Work for Worker {
    fn take(&mut self, jobs_max: usize, _: usize, told: &mut dyn FnMut(Event<'_>)) -> io::Result<()> {
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.w", self.queue);
        let pull = format!(r#"{{"batch":{jobs_max},"expires":200000000}}"#);
        self.session.publish(&subject, true, pull.as_bytes());
        self.session.wire.flush()?;
        // A pull ends with its last job, or with a status when the rest of it does not come in time.
        for _ in 0..jobs_max {
            if !self.session.wire.is_buffered() {
                self.ack(told)?;
            }
            let message = self.session.message()?;
            if message.is_status {
                break;
            }
            told(Event::Came(message.payload));
            self.replies.push(message.reply);
        }
        self.ack(told)
    }
}

impl Worker {
    /// Acks what has come. Nobody confirms that.
    fn ack(&mut self, told: &mut dyn FnMut(Event<'_>)) -> io::Result<()> {
        let acked = self.replies.len();
        for reply in self.replies.drain(..) {
            let out = &mut self.session.wire.out;
            out.extend_from_slice(b"PUB ");
            out.extend_from_slice(&reply);
            out.extend_from_slice(b" 4\r\n+ACK\r\n");
        }
        self.session.wire.flush()?;
        told(Event::Acked(acked));
        Ok(())
    }
}
