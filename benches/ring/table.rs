//! The queues in turns: medians of millions of handles a second, and what the ring makes of the better of crossbeam's two,
//! round by round.

use crate::queues::{CROSSBEAM, KINDS};
use crate::{BATCHES, RUN, THREADS, hand_over};

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints a line for each batch and number of threads.
pub fn print(rounds: usize) {
    println!(
        "millions of handles a second, medians of {rounds} rounds in turns; and the ring against crossbeam's better one"
    );
    let names: String = KINDS.iter().map(|kind| format!("{:>22}", kind.name)).collect();
    println!("{:<12}{names}{:>10}", "", "ratio");
    for batch in BATCHES {
        for threads in THREADS {
            let mut all: Vec<_> = KINDS.iter().map(|kind| (kind.open)(threads)).collect();
            let mut rates = vec![Vec::new(); KINDS.len()];
            for _ in 0..rounds {
                for (ends, rates) in all.iter_mut().zip(&mut rates) {
                    if let Some(ends) = ends {
                        rates.push(RUN as f64 / hand_over(ends, batch).as_secs_f64() / 1e6);
                    }
                }
            }
            let ratio = |round: usize| {
                rates[0][round]
                    / CROSSBEAM
                        .map(|at| rates[at][round])
                        .into_iter()
                        .fold(0.0, f64::max)
            };
            let ratio = median((0..rounds).map(ratio).collect());
            let cells: String = rates
                .iter()
                .map(|rates| match rates.is_empty() {
                    true => format!("{:>22}", "-"),
                    false => format!("{:>22.1}", median(rates.clone())),
                })
                .collect();
            println!("{batch:>4}  {threads}+{threads}  {cells}{ratio:>10.2}");
        }
    }
}
