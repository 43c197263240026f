//! A ring with an interface that is safe to use: the only unsafe code of this crate.
//!
//! Memory safety rests on one rule: a buffer belongs to the ring from the call that names it until
//! its [`Completion`] hands it back. Files and sockets belong to the ring for good; [`Ring::close`]
//! ends a socket's pending transfers and closes it once they are done. Dropping a ring waits for
//! everything under way.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use margay_log::buffer::Buffer;

/// Submission entries; also bounds nothing else: a full queue is submitted and filled again.
const ENTRIES: u32 = 4096;
/// With DEFER_TASKRUN an enter runs about 20 task works: fewer completions than this mean there are
/// no more.
const TASK_WORKS: usize = 20;
/// Completions of one turn, so that a flood does not keep what it completes waiting.
const TURN: usize = 512;
/// IORING_ENTER_GETEVENTS.
const GETEVENTS: u32 = 1;

/// Has the page cache forget what it holds of a file, which must be clean. Where the system does
/// not go along, it is as if nothing was asked.
pub(crate) fn forget_cached(file: &File) {
    // SAFETY: the descriptor is open as long as `file` is borrowed; no memory is involved.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// A file or socket that belongs to a ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle(usize);

/// Of operations on what is closed already.
const GONE: Handle = Handle(usize::MAX);

/// Memory under way.
#[derive(Debug)]
pub enum Bytes {
    /// Of a socket transfer.
    Socket(Vec<u8>),
    /// Of a file write.
    Block(Buffer),
}

/// The end of an operation.
#[derive(Debug)]
pub struct Completion {
    /// What the operation was started with.
    pub tag: u64,
    /// Bytes transferred.
    pub result: io::Result<usize>,
    /// The memory, handed back.
    pub bytes: Bytes,
}

impl Completion {
    /// The buffer of a socket transfer; of a write, nothing.
    #[must_use]
    pub fn into_socket(self) -> Vec<u8> {
        match self.bytes {
            Bytes::Socket(bytes) => bytes,
            Bytes::Block(_) => Vec::new(),
        }
    }
}

enum Open {
    File(File),
    Socket(TcpStream),
}

struct Slot {
    open: Open,
    under_way: usize,
    closing: bool,
}

struct Operation {
    tag: u64,
    handle: Handle,
    bytes: Bytes,
}

/// One thread's ring.
pub struct Ring {
    ring: IoUring,
    slots: Vec<Option<Slot>>,
    operations: Vec<Option<Operation>>,
    free: Vec<usize>,
}

impl Ring {
    /// A ring for the calling thread.
    ///
    /// # Errors
    /// Where the kernel forbids io_uring or lacks DEFER_TASKRUN (before Linux 6.1).
    pub fn new() -> io::Result<Ring> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .build(ENTRIES)?;
        Ok(Ring { ring, slots: Vec::new(), operations: Vec::new(), free: Vec::new() })
    }

    /// Gives the ring a socket.
    pub fn socket(&mut self, stream: TcpStream) -> Handle {
        self.open(Open::Socket(stream))
    }

    /// Gives the ring a file.
    pub fn file(&mut self, file: File) -> Handle {
        self.open(Open::File(file))
    }

    fn open(&mut self, open: Open) -> Handle {
        let slot = Some(Slot { open, under_way: 0, closing: false });
        match self.slots.iter().position(Option::is_none) {
            Some(free) => {
                self.slots[free] = slot;
                Handle(free)
            }
            None => {
                self.slots.push(slot);
                Handle(self.slots.len() - 1)
            }
        }
    }

    /// Shuts a socket down: transfers under way end at once, and with the last one the socket is
    /// closed.
    pub fn close(&mut self, handle: Handle) {
        if let Some(slot) = &mut self.slots[handle.0] {
            slot.closing = true;
            if let Open::Socket(socket) = &slot.open {
                // Fails where the other side was faster; either way nothing is pending afterwards.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        self.release(handle);
    }

    fn release(&mut self, handle: Handle) {
        let idle = |slot: &Slot| slot.closing && slot.under_way == 0;
        if self.slots[handle.0].as_ref().is_some_and(idle) {
            self.slots[handle.0] = None;
        }
    }

    /// Receives into `buffer[from..]`.
    pub fn receive(&mut self, handle: Handle, mut buffer: Vec<u8>, from: usize, tag: u64) {
        let room = &mut buffer[from..];
        let (start, length) = (room.as_mut_ptr(), length_of(room));
        let fd = self.fd(handle);
        let entry = opcode::Recv::new(fd, start, length).build();
        self.start(entry, handle, Bytes::Socket(buffer), tag);
    }

    /// Sends all of `buffer`.
    pub fn send(&mut self, handle: Handle, buffer: Vec<u8>, tag: u64) {
        let (start, length) = (buffer.as_ptr(), length_of(&buffer));
        let fd = self.fd(handle);
        let entry = opcode::Send::new(fd, start, length).flags(libc::MSG_WAITALL).build();
        self.start(entry, handle, Bytes::Socket(buffer), tag);
    }

    /// Writes `block[..length]` at `offset`.
    pub fn write(&mut self, handle: Handle, block: Buffer, length: usize, offset: u64, tag: u64) {
        let part = &block[..length];
        let (start, length) = (part.as_ptr(), length_of(part));
        let fd = self.fd(handle);
        let entry = opcode::Write::new(fd, start, length).offset(offset).build();
        self.start(entry, handle, Bytes::Block(block), tag);
    }

    fn fd(&self, handle: Handle) -> types::Fd {
        let fd = |slot: &Slot| -> RawFd {
            match &slot.open {
                Open::File(file) => file.as_raw_fd(),
                Open::Socket(socket) => socket.as_raw_fd(),
            }
        };
        // A closed handle names no descriptor: the operation ends with EBADF.
        let open = self.slots[handle.0].as_ref().filter(|slot| !slot.closing);
        types::Fd(open.map_or(-1, fd))
    }

    /// `entry` must point into `bytes` only: both memory and descriptor are kept until it has
    /// ended.
    fn start(&mut self, entry: squeue::Entry, handle: Handle, bytes: Bytes, tag: u64) {
        let handle = match &mut self.slots[handle.0] {
            Some(slot) => {
                slot.under_way += 1;
                handle
            }
            None => GONE,
        };
        let operation = Some(Operation { tag, handle, bytes });
        let place = self.free.pop().unwrap_or(self.operations.len());
        if place == self.operations.len() {
            self.operations.push(operation);
        } else {
            self.operations[place] = operation;
        }
        let entry = entry.user_data(place as u64);
        // SAFETY: the memory `entry` points into is on the heap, owned by `operations[place]`, and
        // leaves it in `reap` only, after the kernel has completed this entry; `drop` waits for
        // that too.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.ring.submit().expect("a full submission queue of a working ring can be submitted");
        }
    }

    /// Submits what was started, waits for a completion (at most `patience`, for ever without), and
    /// appends all there are.
    ///
    /// # Errors
    /// Of the ring itself; those of operations are in their completions.
    pub fn wait(
        &mut self,
        patience: Option<Duration>,
        done: &mut Vec<Completion>,
    ) -> io::Result<()> {
        let entered = match patience {
            None => self.ring.submit_and_wait(1),
            Some(patience) => {
                let limit = types::Timespec::from(patience);
                let args = types::SubmitArgs::new().timespec(&limit);
                self.ring.submitter().submit_with_args(1, &args)
            }
        };
        match entered {
            Err(error) if !is_interruption(&error) => return Err(error),
            _ => {}
        }
        loop {
            let before = done.len();
            self.reap(done);
            if done.len() - before < TASK_WORKS || done.len() >= TURN {
                return Ok(());
            }
            // SAFETY: no argument is passed, so nothing is read through a pointer.
            unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 0, GETEVENTS, None)? };
        }
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        let mut closed = false;
        for entry in self.ring.completion() {
            let place = entry.user_data() as usize;
            let Some(operation) = self.operations[place].take() else { continue };
            self.free.push(place);
            if let Some(Some(slot)) = self.slots.get_mut(operation.handle.0) {
                slot.under_way -= 1;
                closed |= slot.closing;
            }
            let result = usize::try_from(entry.result())
                .map_err(|_| io::Error::from_raw_os_error(-entry.result()));
            done.push(Completion { tag: operation.tag, result, bytes: operation.bytes });
        }
        if closed {
            (0..self.slots.len()).for_each(|n| self.release(Handle(n)));
        }
    }

    fn is_idle(&self) -> bool {
        self.free.len() == self.operations.len()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        (0..self.slots.len()).for_each(|n| self.close(Handle(n)));
        let mut done = Vec::new();
        while !self.is_idle() {
            if self.wait(None, &mut done).is_err() {
                // The kernel may still write into these buffers: they are never freed.
                std::mem::forget(std::mem::take(&mut self.operations));
                return;
            }
            done.clear();
        }
    }
}

fn length_of(part: &[u8]) -> u32 {
    u32::try_from(part.len()).expect("transfers are far below 4 GiB")
}

/// A signal, the end of the patience, or a completion queue that must be reaped first.
fn is_interruption(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY))
}
