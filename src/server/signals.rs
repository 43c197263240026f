//! SIGINT and SIGTERM: the first asks for an orderly stop, another ends the process at once. One
//! that follows on the heels of the first is the same wish: it is sent twice where a terminal or
//! `timeout` sends it to a process and to its group.
//!
//! SIGXFSZ is ignored: a limit on the size of files is an error of the write that meets it, to be
//! told like any other, and no reason to end without a word.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::shard::sys;

/// So long after the first another signal is not one more.
const HEELS: Duration = Duration::from_millis(300);

/// Watches for signals from its making until it is dropped. Made before any other thread, so that
/// all of them leave the signals to it.
pub(super) struct SignalWatch {
    /// Set by the first signal.
    pub(super) stop: Arc<AtomicBool>,
    /// Can be read once a signal has arrived.
    arrived: Arc<OwnedFd>,
    quit: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    /// Restores the mask of the thread that made this.
    _mask: sys::SignalMask,
}

impl SignalWatch {
    pub(super) fn begin() -> Result<SignalWatch, Error> {
        let error = |e| Error::Shard(format!("signals cannot be watched: {e}"));
        sys::outlive_file_size_limit().map_err(error)?;
        let (mask, signals) = sys::block_signals().map_err(error)?;
        let stop = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(sys::eventfd().map_err(error)?);
        let quit = Arc::new(sys::eventfd().map_err(error)?);
        let theirs = (Arc::clone(&stop), Arc::clone(&arrived), Arc::clone(&quit));
        let thread = std::thread::Builder::new()
            .name("margay-signals".to_owned())
            .spawn(move || watch(&signals, &theirs.0, &theirs.1, &theirs.2))
            .map_err(error)?;
        Ok(SignalWatch { stop, arrived, quit, thread: Some(thread), _mask: mask })
    }

    /// Can be read once a signal has arrived.
    pub(super) fn arrived(&self) -> &OwnedFd {
        &self.arrived
    }
}

fn watch(signals: &sys::Signals, stop: &AtomicBool, arrived: &OwnedFd, quit: &OwnedFd) {
    const FOREVER: i32 = -1;
    let mut first: Option<Instant> = None;
    loop {
        let ready = sys::wait_readable(&[signals.as_fd(), quit.as_fd()], FOREVER);
        if ready.get(1) == Some(&true) {
            return;
        }
        while signals.take() {
            stop.store(true, Ordering::SeqCst);
            if first.get_or_insert_with(Instant::now).elapsed() > HEELS {
                // Nobody is asked: the first signal asked already. Whether anybody reads this does
                // not matter; `eprintln!` would panic, and the process stay.
                let _ = writeln!(io::stderr(), "margay: second signal, ending at once");
                sys::exit_now(130);
            }
            sys::eventfd_signal(arrived.as_fd());
        }
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        sys::eventfd_signal(self.quit.as_fd());
        if let Some(thread) = self.thread.take() {
            // It does not panic; and if it did, there is nothing to do about it here.
            let _ = thread.join();
        }
    }
}
