//! Receives batches, writes them, acknowledges them in order.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;

use margay_log::buffer::Buffer;

use super::node_file::Space;
use super::{BATCH, HEADER, header, message};
use crate::line::{self, Line};
use crate::ring::{Bytes, Handle, Ring};

struct Follower {
    ring: Ring,
    file: Handle,
    space: Space,
    /// Batches being written, in order: number, and whether its write has ended.
    writing: VecDeque<(u64, bool)>,
    pool: Vec<Buffer>,
}

/// Serves one leader until it hangs up.
pub(crate) fn run(listener: &TcpListener, mut space: Space) -> io::Result<()> {
    let (stream, _) = listener.accept()?;
    let mut ring = Ring::new()?;
    let file = ring.file(space.take_file()?);
    let mut leader = Line::open(&mut ring, stream, 0, 4 << 20)?;
    let mut follower = Follower { ring, file, space, writing: VecDeque::new(), pool: Vec::new() };
    let mut done = Vec::new();
    loop {
        follower.ring.wait(None, &mut done)?;
        for completion in done.drain(..) {
            match line::untag(completion.tag) {
                (_, line::RECEIVED) => {
                    if !leader.on_received(completion) {
                        return Ok(());
                    }
                    let used = follower.accept(leader.bytes());
                    leader.consume(&mut follower.ring, used);
                }
                (_, line::SENT) => leader.on_sent(completion),
                (number, _) => {
                    completion.result?;
                    if let Bytes::Block(block) = completion.bytes {
                        follower.pool.push(block);
                    }
                    follower.on_written(number, &mut leader.out);
                }
            }
        }
        leader.flush(&mut follower.ring);
    }
}

impl Follower {
    /// Starts a write for each whole batch in `bytes`; answers how many bytes they were.
    fn accept(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        while let Some((length, number)) = message(&bytes[used..]) {
            let body = used + HEADER;
            let mut block = self.pool.pop().unwrap_or_else(|| Buffer::zeroed(BATCH));
            block[..length].copy_from_slice(&bytes[body..body + length]);
            let (offset, blocks) = self.space.place(length);
            self.ring.write(self.file, block, blocks, offset, line::tag(number, line::WRITTEN));
            self.writing.push_back((number, false));
            used = body + length;
        }
        used
    }

    /// Acknowledges the written batches before which all are.
    fn on_written(&mut self, number: u64, out: &mut Vec<u8>) {
        for entry in self.writing.iter_mut().filter(|entry| entry.0 == number) {
            entry.1 = true;
        }
        while let Some(&(number, true)) = self.writing.front() {
            self.writing.pop_front();
            out.extend_from_slice(&header(number, 0));
        }
    }
}
