//! A connection to a peer: a buffer to write from, a buffer to read in.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Bytes that one read may bring.
const READ_BYTES: usize = 256 * 1024;
/// A peer that says nothing for so long has failed.
const SILENCE: Duration = Duration::from_secs(20);

pub struct Wire {
    stream: TcpStream,
    /// What the next flush sends.
    pub out: Vec<u8>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

pub fn bad(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

impl Wire {
    pub fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        Ok(Self {
            stream,
            out: Vec::new(),
            buffer: vec![0; READ_BYTES],
            start: 0,
            end: 0,
        })
    }

    pub fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }

    /// Whether something was read and not looked at.
    pub fn is_buffered(&self) -> bool {
        self.end > self.start
    }

    /// Whether something is there to be read, after waiting for it.
    pub fn is_readable(&self, wait: Duration) -> bool {
        if self.is_buffered() {
            return true;
        }
        let timeout = Timespec {
            tv_sec: wait.as_secs() as _,
            tv_nsec: wait.subsec_nanos() as _,
        };
        poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&timeout)).is_ok_and(|ready| ready > 0)
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < READ_BYTES / 4 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.buffer.len() - self.end < READ_BYTES / 4 {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        match self.stream.read(&mut self.buffer[self.end..])? {
            0 => Err(bad("the peer closed the connection")),
            count => {
                self.end += count;
                Ok(())
            }
        }
    }

    /// The next line, without its end.
    pub fn line(&mut self) -> io::Result<&[u8]> {
        let mut seen = 0;
        loop {
            let bytes = &self.buffer[self.start..self.end];
            if let Some(at) = bytes[seen..].windows(2).position(|pair| pair == b"\r\n") {
                let from = self.start;
                self.start += seen + at + 2;
                return Ok(&self.buffer[from..from + seen + at]);
            }
            seen = bytes.len().saturating_sub(1);
            self.fill()?;
        }
    }

    /// The next bytes, and passes over the line end behind them.
    pub fn block(&mut self, len: usize) -> io::Result<&[u8]> {
        while self.end - self.start < len + 2 {
            self.fill()?;
        }
        let from = self.start;
        self.start += len + 2;
        Ok(&self.buffer[from..from + len])
    }
}

/// The number that these digits are.
pub fn number(digits: &[u8]) -> io::Result<usize> {
    let text = std::str::from_utf8(digits).map_err(|_| bad("no number"))?;
    text.parse().map_err(|_| bad(format!("no number: {text}")))
}
