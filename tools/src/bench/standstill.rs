//! When the machine itself stood still, as a virtual one does whenever its host has other plans.
//!
//! On each CPU a thread that comes before all others sleeps for a millisecond again and again. When
//! it is late, nobody's code ran on that CPU: what others measured meanwhile is not their doing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::sys;

const NAP: Duration = Duration::from_millis(1);
/// Less is what a scheduler and a timer may cost.
const LATE: Duration = Duration::from_millis(1);

/// One CPU, and when it ran nobody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Still {
    pub(super) cpu: usize,
    pub(super) from: Instant,
    pub(super) to: Instant,
}

/// The threads that watch for it.
pub(super) struct Standstill {
    seen: Arc<Mutex<Vec<Still>>>,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Standstill {
    /// Watches the first CPUs, as many as this process may use.
    ///
    /// # Errors
    /// Threads of this process may not come before others: that takes CAP_SYS_NICE.
    pub(super) fn watch() -> std::io::Result<Standstill> {
        let (seen, ended) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let mut watching = Standstill { seen, ended, threads: Vec::new() };
        for cpu in 0..thread::available_parallelism()?.get() {
            let (seen, ended) = (Arc::clone(&watching.seen), Arc::clone(&watching.ended));
            let (ready, is_ready): (Sender<_>, Receiver<_>) = channel();
            let thread = thread::Builder::new().name(format!("margay-still-{cpu}"));
            watching.threads.push(thread.spawn(move || {
                let begun = sys::run_first_on(cpu);
                let begins = begun.is_ok();
                // Whoever waits for it has gone, then: nothing is lost.
                let _ = ready.send(begun);
                if begins {
                    watch_one(cpu, &seen, &ended);
                }
            })?);
            is_ready.recv().expect("the thread says how it begins")?;
        }
        Ok(watching)
    }

    /// What was seen.
    pub(super) fn end(self) -> Vec<Still> {
        self.seen.lock().expect("nobody panics with it").clone()
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has nothing to say but what it has seen.
            let _ = thread.join();
        }
    }
}

fn watch_one(cpu: usize, seen: &Mutex<Vec<Still>>, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        let due = Instant::now() + NAP;
        thread::sleep(NAP);
        let to = Instant::now();
        if to.saturating_duration_since(due) >= LATE {
            seen.lock().expect("nobody panics with it").push(Still { cpu, from: due, to });
        }
    }
}

/// How long one CPU stood still between `from` and `to`: that on which it was longest.
pub(super) fn within(all: &[Still], from: Instant, to: Instant) -> Duration {
    let on = |cpu: usize| -> Duration {
        let of_cpu = all.iter().filter(|still| still.cpu == cpu);
        of_cpu.map(|still| still.to.min(to).saturating_duration_since(still.from.max(from))).sum()
    };
    let cpus = all.iter().map(|still| still.cpu).max().map_or(0, |last| last + 1);
    (0..cpus).map(on).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_counts_once_and_per_cpu() {
        let begin = Instant::now();
        let at = |millis: u64| begin + Duration::from_millis(millis);
        let still = |cpu, from, to| Still { cpu, from: at(from), to: at(to) };
        let all = [still(0, 10, 20), still(1, 12, 18), still(1, 30, 36), still(0, 50, 51)];
        let millis = |from, to| within(&all, at(from), at(to)).as_millis();
        assert_eq!(millis(0, 100), 12, "on the second, in two pieces");
        assert_eq!(millis(0, 25), 10);
        assert_eq!(millis(15, 25), 5);
        assert_eq!(millis(21, 29), 0);
        assert_eq!(within(&[], at(0), at(9)), Duration::ZERO);
    }
}
