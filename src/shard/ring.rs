//! The shard's io_uring: what is pushed is never lost, and memory in flight belongs to it.
//!
//! One ring per shard, for sockets and log. Every socket operation has a slot that owns its buffers
//! until the final completion, whatever has become of the connection in the meantime. Disk
//! operations are the log driver's: it owns their buffers, and its completions pass through.
//!
//! `user_data`: the upper 16 bits say whose completion it is ([`TAG_OPERATION`], or a driver's tag
//! from [`TAG_DRIVER`] on), the lower 48 are the owner's.
//!
//! Nothing here knows what a connection is.
#![allow(unsafe_code)]

mod operations;
mod pool;

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use margay_log::buffer::Buffer;

use super::outbox::Outbox;
use super::sys::RawAddress;
use crate::config;
use pool::Pool;
pub(crate) use pool::Pooled;

/// Completions of [`Ring`]'s own operations.
const TAG_OPERATION: u64 = 1 << 48;
/// Nobody waits for these.
const TAG_IGNORED: u64 = 2 << 48;
/// The first tag of a log driver; group slot `n` has `TAG_DRIVER + n`.
pub(crate) const TAG_DRIVER: u16 = 0x1000;

/// Buffer group of the pool.
const POOL_GROUP: u16 = 0;
/// Pieces that one send gathers, at most.
const GATHER_MAX: usize = 64;
/// One send is cut here, in bytes, so that a slow receiver shows its progress.
const SEND_MAX: usize = 1 << 20;

/// The end of an operation, or one of many results of a repeating one.
pub(crate) struct Completion {
    /// What the operation was pushed with; for a driver its `user_data`.
    pub(crate) token: u64,
    /// Bytes, a descriptor, or a negative error number.
    pub(crate) result: i32,
    /// More completions of this operation will follow.
    pub(crate) more: bool,
    /// Memory that comes back.
    pub(crate) memory: Memory,
}

/// What an operation owned, or received into.
pub(crate) enum Memory {
    /// Nothing.
    None,
    /// Received bytes.
    Pooled(Pooled),
    /// Received into from an offset on.
    Buffer(Buffer),
    /// Sent, all of it or up to an error.
    Sending(Box<Sending>),
}

/// An outbox on its way out.
#[derive(Default)]
pub(crate) struct Sending {
    pub(crate) outbox: Outbox,
    /// Bytes of it that the socket has taken.
    pub(crate) sent: usize,
    pieces: Vec<libc::iovec>,
    header: Option<libc::msghdr>,
}

/// What a slot keeps alive while the kernel may use it.
enum Held {
    Free,
    Nothing,
    Buffer(Buffer),
    Sending(Box<Sending>),
    Address { _address: Box<RawAddress> },
}

struct Slot {
    token: u64,
    held: Held,
}

/// An operation under way, for cancelling it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OperationId(u32);

/// See the module's text.
pub(crate) struct Ring {
    ring: IoUring,
    /// What did not fit into the submission queue, in order.
    backlog: VecDeque<squeue::Entry>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Operations of slots and drivers whose final completion has not come.
    in_flight: usize,
    pool: Rc<Pool>,
}

impl Ring {
    /// A ring for the calling thread, and nobody else.
    pub(crate) fn new() -> io::Result<Ring> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(config::RING_COMPLETIONS)
            .build(config::RING_ENTRIES)?;
        let pool = Pool::new(config::POOL_BUFFERS, config::POOL_BUFFER_BYTES);
        // SAFETY: the entries live as long as `pool`, which `Drop` keeps while anything is in
        // flight.
        unsafe {
            let (entries, count) = (pool.entries(), pool.count());
            ring.submitter().register_buf_ring_with_flags(entries, count, POOL_GROUP, 0)?;
        }
        Ok(Ring {
            ring,
            backlog: VecDeque::new(),
            slots: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            pool,
        })
    }

    /// Operations whose final completion has not come.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Submits what was pushed and collects what has completed. With `wait` it sleeps until there
    /// is something, for that long at most: submitting, sleeping and waking up are one system call.
    ///
    /// Since Linux 6.13 an enter runs about twenty deferred works, so this repeats while more may
    /// be there: until fewer come, or the bounds of a turn are reached.
    pub(crate) fn reap(
        &mut self,
        out: &mut Vec<Completion>,
        wait: Option<Duration>,
    ) -> io::Result<usize> {
        let mut total = match wait {
            Some(limit) => {
                self.enter_and_wait(limit)?;
                self.collect(out)
            }
            None => 0,
        };
        if wait.is_some() && total < config::REAP_FEW {
            return Ok(total);
        }
        let begun = Instant::now();
        loop {
            if !self.has_news() {
                return Ok(total);
            }
            self.enter()?;
            let got = self.collect(out);
            total += got;
            let few = got < config::REAP_FEW && self.backlog.is_empty();
            if few || total >= config::REAP_MAX {
                return Ok(total);
            }
            if begun.elapsed() >= Duration::from_micros(config::REAP_MICROS) {
                return Ok(total);
            }
        }
    }

    /// Whether an enter would do anything, without a system call: something to submit or to
    /// collect.
    pub(crate) fn has_news(&mut self) -> bool {
        self.fill_queue();
        let queue = self.ring.submission();
        let news = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        news || !self.ring.completion().is_empty()
    }

    fn enter_and_wait(&mut self, limit: Duration) -> io::Result<()> {
        self.fill_queue();
        let time = types::Timespec::from(limit);
        let arguments = types::SubmitArgs::new().timespec(&time);
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Err(e) if !is_transient(&e) && e.raw_os_error() != Some(libc::ETIME) => Err(e),
            _ => Ok(()),
        }
    }

    fn enter(&mut self) -> io::Result<()> {
        const GETEVENTS: u32 = 1;
        let submit = self.ring.submission().len() as u32;
        // SAFETY: the queue holds `submit` entries whose memory lives in slots, drivers or this
        // struct.
        let result =
            unsafe { self.ring.submitter().enter::<libc::sigset_t>(submit, 0, GETEVENTS, None) };
        match result {
            Err(e) if !is_transient(&e) => Err(e),
            _ => Ok(()),
        }
    }

    fn collect(&mut self, out: &mut Vec<Completion>) -> usize {
        let before = out.len();
        for entry in self.ring.completion() {
            let (token, result, flags) = (entry.user_data(), entry.result(), entry.flags());
            let more = cqueue::more(flags);
            match token & (0xffff << 48) {
                TAG_OPERATION => {
                    let slot = &mut self.slots[(token & 0xffff_ffff) as usize];
                    let held = if more {
                        Held::Nothing
                    } else {
                        self.in_flight -= 1;
                        self.free.push((token & 0xffff_ffff) as u32);
                        std::mem::replace(&mut slot.held, Held::Free)
                    };
                    let memory = match (cqueue::buffer_select(flags), held) {
                        (Some(id), _) => {
                            // SAFETY: this completion hands the buffer over, and is seen once.
                            Memory::Pooled(unsafe { self.pool.take(id, result.max(0) as u32) })
                        }
                        (None, Held::Buffer(buffer)) => Memory::Buffer(buffer),
                        (None, Held::Sending(sending)) => Memory::Sending(sending),
                        (None, _) => Memory::None,
                    };
                    out.push(Completion { token: slot.token, result, more, memory });
                }
                TAG_IGNORED => {}
                _ => {
                    self.in_flight -= usize::from(!more);
                    out.push(Completion { token, result, more, memory: Memory::None });
                }
            }
        }
        out.len() - before
    }

    /// Moves what waits into the submission queue, as far as there is room.
    fn fill_queue(&mut self) {
        if self.backlog.is_empty() {
            return;
        }
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: as in `push`; the entry has waited in order since.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
    }

    /// # Safety
    /// The memory that `entry` names must live until its final completion.
    unsafe fn push(&mut self, entry: squeue::Entry) {
        // Nothing overtakes what waits.
        if !self.backlog.is_empty() {
            self.backlog.push_back(entry);
            return;
        }
        // SAFETY: the caller's promise.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            self.backlog.push_back(entry);
        }
    }

    /// Takes a slot, which keeps `held` alive until the operation's final completion.
    fn start(&mut self, token: u64, held: Held) -> (OperationId, u64) {
        let slot = Slot { token, held };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        self.in_flight += 1;
        (OperationId(id), TAG_OPERATION | u64::from(id))
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN))
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut left = 100;
        let mut ended = Vec::new();
        while self.in_flight > 0 && left > 0 {
            if left == 100 {
                let any = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
                // SAFETY: no memory is named.
                unsafe { self.push(any.user_data(TAG_IGNORED)) };
            }
            left -= 1;
            if self.enter_and_wait(Duration::from_millis(10)).is_err() {
                break;
            }
            self.collect(&mut ended);
        }
        if self.in_flight > 0 {
            // The kernel may still write there: leaking is the only safe thing left.
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(Rc::clone(&self.pool));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::sys;

    /// Where the queue has room again and something still waits for its turn, what comes then waits
    /// behind it: each is given to the kernel once, which may write to its memory once.
    #[test]
    fn more_operations_than_the_ring_has_places() {
        let mut ring = Ring::new().expect("a ring");
        let (no_socket, nowhere) = (sys::eventfd().expect("a descriptor"), ([127, 0, 0, 1], 1));
        let places = u64::from(config::RING_ENTRIES);
        let all = places + 20;
        for token in 0..all {
            ring.connect(&no_socket, nowhere.into(), token);
            if token == places + 10 {
                ring.enter().expect("what has a place goes");
                assert!(!ring.backlog.is_empty(), "the others wait");
            }
        }
        let (mut ended, begun) = (Vec::new(), Instant::now());
        while ended.len() < all as usize && begun.elapsed() < Duration::from_secs(60) {
            ring.reap(&mut ended, Some(Duration::from_millis(100))).expect("a sound ring");
        }
        let mut tokens: Vec<u64> = ended.iter().map(|end| end.token).collect();
        tokens.sort_unstable();
        assert!(tokens.iter().copied().eq(0..all), "each ends once: {} ends", tokens.len());
        assert_eq!(ring.in_flight(), 0);
    }
}
