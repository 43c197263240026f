//! Packs client frames into batches, replicates them, answers what two of three nodes hold.

use std::collections::VecDeque;
use std::io;
use std::net::{TcpListener, TcpStream};

use margay_log::buffer::Buffer;

use super::node_file::Space;
use super::{BATCH, HEADER, PAYLOAD_MAX, header, message, parse};
use crate::line::{self, Line};
use crate::ring::{Bytes, Completion, Handle, Ring};

/// Own writes under way at most: more of them only make batches smaller.
const DEPTH: usize = 4;
const FOLLOWERS: usize = 2;
/// Nodes that hold a batch when it is answered.
const QUORUM: usize = 2;

struct Batch {
    number: u64,
    /// Nodes whose disk has it.
    held: usize,
    /// Client and number of each frame in it.
    frames: Vec<(usize, u64)>,
}

struct Leader {
    ring: Ring,
    file: Handle,
    space: Space,
    clients: Vec<Line>,
    /// Clients that have not hung up.
    open: usize,
    followers: Vec<Line>,
    /// Sealed and not answered, oldest first.
    batches: VecDeque<Batch>,
    writes: usize,
    next: u64,
    block: Buffer,
    length: usize,
    frames: Vec<(usize, u64)>,
    pool: Vec<Buffer>,
}

/// Serves `connections` clients until the last one hangs up.
pub(crate) fn run(
    listener: &TcpListener,
    connections: usize,
    mut space: Space,
    followers: [u16; FOLLOWERS],
) -> io::Result<()> {
    let mut ring = Ring::new()?;
    let file = ring.file(space.take_file()?);
    let mut lines = Vec::new();
    for (n, port) in followers.into_iter().enumerate() {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        lines.push(Line::open(&mut ring, stream, n as u64, 64 << 10)?);
    }
    let mut clients = Vec::new();
    for n in 0..connections {
        let owner = (FOLLOWERS + n) as u64;
        clients.push(Line::open(&mut ring, listener.accept()?.0, owner, PAYLOAD_MAX + HEADER)?);
    }
    let mut leader = Leader {
        ring,
        file,
        space,
        clients,
        open: connections,
        followers: lines,
        batches: VecDeque::new(),
        writes: 0,
        next: 0,
        block: Buffer::zeroed(BATCH),
        length: 0,
        frames: Vec::new(),
        pool: Vec::new(),
    };
    let mut done = Vec::new();
    while leader.open > 0 {
        leader.ring.wait(None, &mut done)?;
        for completion in done.drain(..) {
            leader.on_completion(completion)?;
        }
        leader.answer();
        leader.seal();
        leader.followers.iter_mut().for_each(|line| line.flush(&mut leader.ring));
        leader.clients.iter_mut().for_each(|line| line.flush(&mut leader.ring));
    }
    Ok(())
}

impl Leader {
    fn on_completion(&mut self, completion: Completion) -> io::Result<()> {
        let (owner, kind) = line::untag(completion.tag);
        let n = owner as usize;
        match kind {
            line::WRITTEN => {
                completion.result?;
                if let Bytes::Block(block) = completion.bytes {
                    self.pool.push(block);
                }
                self.writes -= 1;
                self.on_held(owner);
            }
            line::SENT if n < FOLLOWERS => self.followers[n].on_sent(completion),
            line::SENT => self.clients[n - FOLLOWERS].on_sent(completion),
            _ if n < FOLLOWERS => {
                if !self.followers[n].on_received(completion) {
                    return Err(io::Error::other("a follower of the floor has ended early"));
                }
                self.on_acknowledged(n);
            }
            _ if self.clients[n - FOLLOWERS].on_received(completion) => self.take(n - FOLLOWERS),
            _ => self.open -= 1,
        }
        Ok(())
    }

    fn on_acknowledged(&mut self, follower: usize) {
        let count = self.followers[follower].bytes().len() / HEADER;
        for n in 0..count {
            if let Some((number, _)) = parse(&self.followers[follower].bytes()[n * HEADER..]) {
                self.on_held(number);
            }
        }
        self.followers[follower].consume(&mut self.ring, count * HEADER);
    }

    fn on_held(&mut self, number: u64) {
        // The third node's word comes after the answer: its batch may be gone.
        if let Some(batch) = self.batches.iter_mut().find(|batch| batch.number == number) {
            batch.held += 1;
        }
    }

    /// Moves a client's whole frames into the open batch, as far as there is room.
    fn take(&mut self, client: usize) {
        let bytes = self.clients[client].bytes();
        let mut used = 0;
        while let Some((length, number)) = message(&bytes[used..]) {
            let whole = HEADER + length;
            if self.length + whole > BATCH {
                break;
            }
            let room = &mut self.block[self.length..self.length + whole];
            room.copy_from_slice(&bytes[used..used + whole]);
            self.length += whole;
            self.frames.push((client, number));
            used += whole;
        }
        self.clients[client].consume(&mut self.ring, used);
    }

    /// Answers the batches that a quorum holds, in order.
    fn answer(&mut self) {
        while self.batches.front().is_some_and(|batch| batch.held >= QUORUM) {
            let Some(batch) = self.batches.pop_front() else { return };
            for (client, number) in batch.frames {
                self.clients[client].out.extend_from_slice(&header(number, 0));
            }
        }
    }

    /// Sends the open batch to the disk and to the followers.
    fn seal(&mut self) {
        if self.length == 0 || self.writes == DEPTH {
            return;
        }
        for line in &mut self.followers {
            line.out.extend_from_slice(&header(self.length as u64, self.next));
            line.out.extend_from_slice(&self.block[..self.length]);
        }
        let fresh = self.pool.pop().unwrap_or_else(|| Buffer::zeroed(BATCH));
        let block = std::mem::replace(&mut self.block, fresh);
        let (offset, blocks) = self.space.place(self.length);
        let tag = line::tag(self.next, line::WRITTEN);
        self.ring.write(self.file, block, blocks, offset, tag);
        let frames = std::mem::take(&mut self.frames);
        self.batches.push_back(Batch { number: self.next, held: 0, frames });
        self.writes += 1;
        self.next += 1;
        self.length = 0;
        // Frames that found no room.
        (0..self.clients.len()).for_each(|client| self.take(client));
    }
}
