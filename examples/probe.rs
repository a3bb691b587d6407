use ackring::log::*;
use std::time::*;
fn main() {
    let size: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let dir = std::env::args().nth(2);
    let t = Instant::now();
    let config = LogConfig {
        directory: dir.map(|d| d.into()),
        log_bytes_max: 4 << 30,
        ..LogConfig::default()
    };
    let (log, _) = Log::open(config, 1, &mut |_| ()).unwrap();
    println!("open {:?}", t.elapsed());
    if std::env::args().nth(3).is_some() {
        log.set_recycles_unsynced(true);
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            let t = Instant::now();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                if log.step(1000 + t.elapsed().as_millis() as u64, 16) == 0 {
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
        });
        let body = vec![7u8; size];
        for r in 0..10 {
            let t = Instant::now();
            let n = (1usize << 30) / size.max(64) / 2;
            let mut full = 0;
            for _ in 0..n {
                loop {
                    match log.claim(size, Room::Enqueue) {
                        Ok(mut c) => {
                            c.put(&body);
                            c.commit(1, 0, 1, 0);
                            break;
                        }
                        Err(LogError::Full { .. }) => {
                            full += 1;
                            std::thread::yield_now()
                        }
                        Err(e) => panic!("{e}"),
                    }
                }
            }
            let e = t.elapsed();
            println!(
                "{r}: {:.1} ns {:.2} GB/s in use {} spare {} full {full}",
                e.as_nanos() as f64 / n as f64,
                (n * size) as f64 / e.as_nanos() as f64,
                log.segments_in_use(),
                log.spare_segments()
            );
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
