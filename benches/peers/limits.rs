//! What the machine can do at most: loopback, disk, memory.

use rustix::fs::fdatasync;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// The limits of one round.
#[derive(Clone, Copy)]
pub struct Limits {
    pub loopback_bytes_per_s: f64,
    pub ping_pong_us: f64,
    pub sync_us: f64,
    pub disk_bytes_per_s: f64,
    pub memcpy_bytes_per_s: f64,
}

const CHUNK: usize = 256 * 1024;

pub fn measure(directory: &Path, time: Duration) -> io::Result<Limits> {
    let (sync_us, disk_bytes_per_s) = disk(directory)?;
    Ok(Limits {
        loopback_bytes_per_s: loopback(time)?,
        ping_pong_us: ping_pong(time)?,
        sync_us,
        disk_bytes_per_s,
        memcpy_bytes_per_s: memcpy(time),
    })
}

fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    let (other, _) = listener.accept()?;
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    Ok((one, other))
}

fn loopback(time: Duration) -> io::Result<f64> {
    let (mut one, mut other) = pair()?;
    let reader = std::thread::spawn(move || {
        let (mut chunk, mut bytes) = (vec![0; CHUNK], 0);
        while let Ok(count @ 1..) = other.read(&mut chunk) {
            bytes += count;
        }
        bytes
    });
    let (start, chunk) = (Instant::now(), vec![1; CHUNK]);
    while start.elapsed() < time {
        one.write_all(&chunk)?;
    }
    drop(one);
    let bytes = reader.join().unwrap_or(0);
    Ok(bytes as f64 / start.elapsed().as_secs_f64())
}

fn ping_pong(time: Duration) -> io::Result<f64> {
    let (mut one, mut other) = pair()?;
    let echo = std::thread::spawn(move || {
        let mut byte = [0; 64];
        while other.read_exact(&mut byte).is_ok() && other.write_all(&byte).is_ok() {}
    });
    let (start, mut byte, mut rounds) = (Instant::now(), [1; 64], 0);
    while start.elapsed() < time {
        one.write_all(&byte)?;
        one.read_exact(&mut byte)?;
        rounds += 1;
    }
    let micros = start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
    drop(one);
    let _ = echo.join();
    Ok(micros)
}

/// Microseconds of a sync of one dirty page, and bytes a second of a long write with a sync at its end.
fn disk(directory: &Path) -> io::Result<(f64, f64)> {
    const SYNCS: u32 = 64;
    const LONG: usize = 128;
    const MIB: usize = 1 << 20;
    let path = directory.join("limits");
    let mut file = File::create(&path)?;
    let chunk = vec![7; MIB];
    (0..LONG).try_for_each(|_| file.write_all(&chunk))?;
    let start = Instant::now();
    fdatasync(&file)?;
    file.seek(SeekFrom::Start(0))?;
    (0..LONG).try_for_each(|_| file.write_all(&chunk))?;
    fdatasync(&file)?;
    let long = start.elapsed();
    let start = Instant::now();
    for sync in 0..SYNCS {
        file.seek(SeekFrom::Start(u64::from(sync) * 4096))?;
        file.write_all(&chunk[..4096])?;
        fdatasync(&file)?;
    }
    let short = start.elapsed();
    std::fs::remove_file(path)?;
    let bytes = (2 * LONG * MIB) as f64;
    Ok((
        short.as_secs_f64() * 1e6 / f64::from(SYNCS),
        bytes / long.as_secs_f64(),
    ))
}

fn memcpy(time: Duration) -> f64 {
    let (from, mut to) = (vec![3_u8; 64 << 20], vec![0_u8; 64 << 20]);
    to.copy_from_slice(&from);
    let (start, mut bytes) = (Instant::now(), 0);
    while start.elapsed() < time {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
        bytes += from.len();
    }
    bytes as f64 / start.elapsed().as_secs_f64()
}
