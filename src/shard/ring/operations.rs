//! The operations a shard starts: each names its token and hands its memory to the slot.
#![allow(unsafe_code)]

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{opcode, squeue, types};
use margay_log::buffer::Buffer;

use super::{
    GATHER_MAX, Held, OperationId, POOL_GROUP, Ring, SEND_MAX, Sending, TAG_DRIVER, TAG_IGNORED,
};
use crate::shard::sys::RawAddress;

impl Ring {
    /// Accepts until an error or a cancel: one completion per connection, its result the
    /// descriptor.
    pub(crate) fn accept(&mut self, listener: &OwnedFd, token: u64) -> OperationId {
        let (id, user_data) = self.start(token, Held::Nothing);
        let fd = types::Fd(listener.as_raw_fd());
        let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: no memory is named.
        unsafe { self.push(entry.user_data(user_data)) };
        id
    }

    /// Receives until the end, an error, or no free buffer: one completion per piece.
    pub(crate) fn receive(&mut self, fd: &OwnedFd, token: u64) -> OperationId {
        let (id, user_data) = self.start(token, Held::Nothing);
        let entry = opcode::RecvMulti::new(types::Fd(fd.as_raw_fd()), POOL_GROUP).build();
        // SAFETY: the kernel takes its memory from the pool.
        unsafe { self.push(entry.user_data(user_data)) };
        id
    }

    /// Receives once, at most `limit` bytes, into a buffer of the pool.
    pub(crate) fn receive_once(&mut self, fd: &OwnedFd, limit: u32, token: u64) -> OperationId {
        let (id, user_data) = self.start(token, Held::Nothing);
        let fd = types::Fd(fd.as_raw_fd());
        let entry = opcode::Recv::new(fd, std::ptr::null_mut(), limit).buf_group(POOL_GROUP);
        let entry = entry.build().flags(squeue::Flags::BUFFER_SELECT);
        // SAFETY: as above.
        unsafe { self.push(entry.user_data(user_data)) };
        id
    }

    /// Receives into `buffer[from..to]`, and is done when that is full.
    pub(crate) fn receive_into(
        &mut self,
        fd: &OwnedFd,
        mut buffer: Buffer,
        from: usize,
        to: usize,
        token: u64,
    ) -> OperationId {
        let room = &mut buffer[from..to];
        let (start, length) = (room.as_mut_ptr(), room.len() as u32);
        // Moving the `Buffer` into the slot moves its handle, not the memory.
        let (id, user_data) = self.start(token, Held::Buffer(buffer));
        let entry = opcode::Recv::new(types::Fd(fd.as_raw_fd()), start, length);
        let entry = entry.flags(libc::MSG_WAITALL).build();
        // SAFETY: the slot owns the buffer until the final completion.
        unsafe { self.push(entry.user_data(user_data)) };
        id
    }

    /// Sends what of `sending` is not sent yet, or the next mebibyte of it. The result counts the
    /// bytes.
    pub(crate) fn send(
        &mut self,
        fd: &OwnedFd,
        mut sending: Box<Sending>,
        token: u64,
    ) -> OperationId {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let fd = types::Fd(fd.as_raw_fd());
        let entry = if sending.outbox.is_plain() {
            let bytes = sending.outbox.pieces(sending.sent).next().unwrap_or_default();
            let length = bytes.len().min(SEND_MAX) as u32;
            opcode::Send::new(fd, bytes.as_ptr(), length).flags(flags).build()
        } else {
            let header = sending.gather();
            opcode::SendMsg::new(fd, header).flags(flags as u32).build()
        };
        let (id, user_data) = self.start(token, Held::Sending(sending));
        // SAFETY: bytes, pieces and header live in the box or behind its `Arc`s, and nobody changes
        // them while the slot holds it.
        unsafe { self.push(entry.user_data(user_data)) };
        id
    }

    /// Connects a socket.
    pub(crate) fn connect(&mut self, fd: &OwnedFd, to: SocketAddr, token: u64) -> OperationId {
        let address = Box::new(RawAddress::new(to));
        let fd = types::Fd(fd.as_raw_fd());
        let entry = opcode::Connect::new(fd, address.as_ptr(), address.length()).build();
        let (id, user_data) = self.start(token, Held::Address { _address: address });
        // SAFETY: the slot owns the address until the final completion.
        unsafe { self.push(entry.user_data(user_data)) };
        id
    }

    /// Cancels everything on a descriptor; each operation still completes once. Entries go to the
    /// kernel in the order they were pushed in, so one that waits in the backlog cannot hit what
    /// has the same number later: that is pushed behind it.
    pub(crate) fn cancel(&mut self, fd: &OwnedFd) {
        let which = types::CancelBuilder::fd(types::Fd(fd.as_raw_fd())).all();
        let entry = opcode::AsyncCancel2::new(which).build().user_data(TAG_IGNORED);
        // SAFETY: no memory is named.
        unsafe { self.push(entry) };
    }

    /// Completes whenever `fd` can be read, again and again.
    pub(crate) fn watch(&mut self, fd: &OwnedFd, token: u64) {
        let (_, user_data) = self.start(token, Held::Nothing);
        let fd = types::Fd(fd.as_raw_fd());
        let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
        // SAFETY: no memory is named.
        unsafe { self.push(entry.user_data(user_data)) };
    }

    /// Pushes what a log's driver wants started: entries made by it, with its tag, naming its own
    /// memory.
    pub(crate) fn drive(&mut self, entries: &mut Vec<squeue::Entry>) {
        for entry in entries.drain(..) {
            let tag = entry.get_user_data() >> 48;
            assert!(tag >= u64::from(TAG_DRIVER), "a driver's entries carry its tag");
            self.in_flight += 1;
            // SAFETY: `margay_log::disk::driver::Driver` owns the memory of its entries until it is
            // told of their completion, and a shard keeps its drivers until nothing is in flight.
            unsafe { self.push(entry) };
        }
    }
}

impl Sending {
    /// The message header for the next pieces, at most [`SEND_MAX`] bytes or one piece.
    fn gather(&mut self) -> *const libc::msghdr {
        let mut room = SEND_MAX;
        self.pieces.clear();
        for piece in self.outbox.pieces(self.sent).take(GATHER_MAX) {
            let length = piece.len().min(room);
            let start = piece.as_ptr().cast_mut().cast();
            self.pieces.push(libc::iovec { iov_base: start, iov_len: length });
            room -= length;
            if room == 0 {
                break;
            }
        }
        // SAFETY: all zeros is an empty message header.
        let header = self.header.insert(unsafe { std::mem::zeroed() });
        header.msg_iov = self.pieces.as_mut_ptr();
        header.msg_iovlen = self.pieces.len();
        header
    }

    /// Notes what the socket has taken. `true`: all of it.
    pub(crate) fn advance(&mut self, bytes: usize) -> bool {
        self.sent += bytes;
        assert!(self.sent <= self.outbox.len(), "a socket takes no more than it is given");
        self.sent == self.outbox.len()
    }

    /// Ready for the next turn.
    pub(crate) fn clear(&mut self) {
        self.outbox.clear();
        self.sent = 0;
    }
}
