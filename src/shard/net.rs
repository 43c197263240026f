//! The connections of a shard: the table, what is sent, and deadlines.
//!
//! A slot is used again only when the ring is done with the connection in it, so the index alone
//! names it in completions. What arrives is handled in `inbound`; who connects and is accepted in
//! `greet` and `links`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Shutdown;
use std::os::fd::OwnedFd;

use margay_log::id::{Micros, NodeId};

use super::conn::{Conn, NEVER, State};
use super::links::Link;
use super::node::Hush;
use super::ring::{Memory, Ring, Sending};
use super::sys;
use crate::config;
use crate::replica::ConnId;

/// What a completion is of: bits 32.. of a token; the connection is in the lower 32.
pub(crate) const ACCEPT: u64 = 1 << 32;
pub(crate) const RECEIVE: u64 = 2 << 32;
pub(crate) const SEND: u64 = 3 << 32;
pub(crate) const CONNECT: u64 = 4 << 32;
/// Somebody calls from another thread.
pub(crate) const WAKE: u64 = 5 << 32;

/// Somebody whom a replica may still count on has left.
pub(crate) enum Gone {
    /// A client.
    Client { slot: u32, conn: ConnId },
    /// The connection that carries this node's messages to a peer.
    Peer { slot: u32, peer: NodeId },
}

/// All connections of a shard.
pub(crate) struct Net {
    conns: Vec<Option<Conn>>,
    free: Vec<u32>,
    /// Counts connections; the upper half of a [`ConnId`].
    generation: u32,
    /// Connections with something to send.
    dirty: Vec<u32>,
    /// Connections to receive from again.
    thirsty: Vec<u32>,
    /// Connections over a bound: closed at the end of the turn, for this reason.
    pub(crate) doomed: Vec<(u32, &'static str)>,
    pub(crate) gone: Vec<Gone>,
    deadlines: BinaryHeap<Reverse<(Micros, u32)>>,
    pub(crate) links: Vec<Link>,
    /// The links of each slot, by their numbers.
    pub(crate) links_of: Vec<Vec<u32>>,
    /// When the next link is to be tried, or earlier.
    pub(crate) links_due: Micros,
    /// Memory of incomplete frames.
    pub(crate) partial_bytes: usize,
    /// Connections in `Closing` that were never counted.
    pub(crate) refused: usize,
    /// Bounds what is said about connections.
    pub(crate) hush: Hush,
    pub(crate) now: Micros,
}

impl Net {
    pub(crate) fn new(now: Micros) -> Net {
        Net {
            conns: Vec::new(),
            free: Vec::new(),
            generation: 0,
            dirty: Vec::new(),
            thirsty: Vec::new(),
            doomed: Vec::new(),
            gone: Vec::new(),
            deadlines: BinaryHeap::new(),
            links: Vec::new(),
            links_of: Vec::new(),
            links_due: Micros(0),
            hush: Hush::default(),
            partial_bytes: 0,
            refused: 0,
            now,
        }
    }

    /// A slot for a new connection.
    pub(crate) fn insert(&mut self, fd: OwnedFd, state: State, patience: Micros) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            (self.conns.len() - 1) as u32
        });
        self.generation = self.generation.wrapping_add(1);
        let id = ConnId(u64::from(self.generation) << 32 | u64::from(index));
        let until = if patience == NEVER { NEVER } else { self.now.after(patience) };
        assert!(self.conns[index as usize].is_none(), "a slot is used by one connection at a time");
        self.conns[index as usize] = Some(Conn::new(fd, id, state, until));
        self.schedule(index);
        index
    }

    pub(crate) fn get(&mut self, index: u32) -> Option<&mut Conn> {
        self.conns.get_mut(index as usize)?.as_mut()
    }

    /// The connection that a replica names, if it still is that one.
    pub(crate) fn find(&mut self, id: ConnId) -> Option<(u32, &mut Conn)> {
        let index = id.0 as u32;
        self.get(index).filter(|conn| conn.id == id).map(|conn| (index, conn))
    }

    /// All slots that are in use.
    pub(crate) fn indexes(&self) -> Vec<u32> {
        (0..self.conns.len() as u32).filter(|i| self.conns[*i as usize].is_some()).collect()
    }

    /// Has what is owed sent at the end of the turn.
    pub(crate) fn mark(&mut self, index: u32) {
        let Some(conn) = self.get(index) else { return };
        if !conn.dirty {
            conn.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Receives from the connection again at the end of the turn.
    pub(crate) fn thirst(&mut self, index: u32) {
        let Some(conn) = self.get(index) else { return };
        if !conn.listed {
            conn.listed = true;
            self.thirsty.push(index);
        }
    }

    /// Makes sure that the heap knows the connection's deadline or an earlier one.
    pub(crate) fn schedule(&mut self, index: u32) {
        let Some(conn) = self.get(index) else { return };
        let deadline = conn.deadline();
        if deadline < conn.scheduled {
            conn.scheduled = deadline;
            self.deadlines.push(Reverse((deadline, index)));
        }
    }

    /// The earliest time at which a deadline might have passed.
    pub(crate) fn deadline(&self) -> Option<Micros> {
        self.deadlines.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// The next connection whose deadline has passed.
    pub(crate) fn next_expired(&mut self) -> Option<u32> {
        while let Some(Reverse((deadline, index))) = self.deadlines.peek().copied() {
            if deadline > self.now {
                return None;
            }
            self.deadlines.pop();
            let now = self.now;
            let Some(conn) = self.get(index) else { continue };
            // An entry of an earlier connection in the slot at worst looks once too often.
            conn.scheduled = NEVER;
            if conn.deadline() <= now {
                return Some(index);
            }
            self.schedule(index);
        }
        None
    }

    /// Lets the last words leave, then closes. Nothing more is taken from the connection.
    pub(crate) fn close(&mut self, index: u32) {
        let now = self.now;
        let Some(conn) = self.get(index) else { return };
        if matches!(conn.state, State::Closing { .. } | State::Dead) {
            return;
        }
        let before =
            std::mem::replace(&mut conn.state, State::Closing { told: false, refused: false });
        conn.state_until = now.after(config::SEND_TIME);
        conn.frame_until = NEVER;
        self.leave(index, before);
        self.mark(index);
        self.schedule(index);
    }

    /// Ends the connection at once. Its memory stays until the ring is done with it.
    pub(crate) fn kill(&mut self, ring: &mut Ring, index: u32) {
        let Some(conn) = self.get(index) else { return };
        if conn.is_dead() {
            return;
        }
        let before = std::mem::replace(&mut conn.state, State::Dead);
        (conn.state_until, conn.frame_until, conn.send_until) = (NEVER, NEVER, NEVER);
        sys::shutdown(&conn.fd, Shutdown::Both);
        if conn.operations > 0 {
            ring.cancel(&conn.fd);
        }
        conn.out.clear();
        conn.intake = None;
        let reader = std::mem::take(&mut conn.reader);
        self.partial_bytes -= reader.held();
        self.leave(index, before);
        self.release(index);
    }

    /// Tells whoever counted on it.
    fn leave(&mut self, index: u32, before: State) {
        let Some(conn) = self.conns[index as usize].as_ref() else { return };
        match before {
            State::Client { slot } => self.gone.push(Gone::Client { slot, conn: conn.id }),
            State::Dialing { link } | State::Greeting { link, .. } | State::PeerOut { link } => {
                let was_up = matches!(before, State::PeerOut { .. });
                self.link_broke(link);
                let link = &self.links[link as usize];
                if was_up {
                    self.gone.push(Gone::Peer { slot: link.slot, peer: link.to });
                }
            }
            State::Closing { refused: true, .. } => self.refused -= 1,
            _ => {}
        }
    }

    /// Frees the slot of a dead connection once the ring is done with it.
    fn release(&mut self, index: u32) {
        if self.get(index).is_some_and(|conn| conn.is_dead() && conn.operations == 0) {
            self.conns[index as usize] = None;
            self.free.push(index);
        }
    }

    /// An operation of the connection has ended for good.
    pub(crate) fn operation_ended(&mut self, index: u32) {
        if let Some(conn) = self.get(index) {
            conn.operations -= 1;
        }
        self.release(index);
    }

    /// Takes a connection out to give it to another shard. Nothing of it may be in the ring.
    pub(crate) fn take_out(&mut self, index: u32) -> Option<Conn> {
        assert!(self.get(index).is_some_and(|conn| conn.operations == 0));
        self.free.push(index);
        self.conns[index as usize].take()
    }

    /// The end of a turn: receives again, and one send for every connection that is owed something.
    pub(crate) fn flush(&mut self, ring: &mut Ring) {
        for (index, reason) in std::mem::take(&mut self.doomed) {
            // One that was owed too much may have been named for every message since.
            let Some(from) = self.get(index).filter(|c| !c.is_dead()).map(|c| c.from()) else {
                continue;
            };
            if self.hush.may_speak(self.now) {
                tracing::warn!(%from, "connection closed: {reason}");
            }
            self.kill(ring, index);
        }
        let mut thirsty = std::mem::take(&mut self.thirsty);
        for index in thirsty.drain(..) {
            self.receive(ring, index);
        }
        self.thirsty = thirsty;
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            self.send(ring, index);
        }
        self.dirty = dirty;
    }

    /// Whether `flush` or the shard has something to do without anything new arriving.
    pub(crate) fn is_restless(&self) -> bool {
        !(self.gone.is_empty()
            && self.doomed.is_empty()
            && self.dirty.is_empty()
            && self.thirsty.is_empty())
    }

    fn receive(&mut self, ring: &mut Ring, index: u32) {
        let Some(conn) = self.get(index) else { return };
        conn.listed = false;
        if conn.receiving || conn.shakes || conn.is_dead() {
            return;
        }
        let token = RECEIVE | u64::from(index);
        match &mut conn.state {
            // Nothing of it may be in the ring when it goes to another shard.
            State::Hello(greeting) if greeting.missing() == 0 => return,
            State::Hello(_) | State::Greeting { .. } if conn.secure.is_some() => {
                ring.receive_once(&conn.fd, config::SHAKE_BYTES, token);
            }
            State::PeerIn { .. } if conn.secure.is_some() => {
                ring.receive_once(&conn.fd, config::POOL_BUFFER_BYTES, token);
            }
            State::Hello(greeting) | State::Greeting { greeting, .. } => {
                ring.receive_once(&conn.fd, greeting.missing(), token);
            }
            State::Client { .. } | State::PeerOut { .. } => {
                ring.receive(&conn.fd, token);
            }
            State::PeerIn { .. } => match conn.intake.as_mut() {
                Some(intake) => {
                    let missing = intake.missing();
                    let buffer = intake.buffer.take().expect("nothing is being received");
                    ring.receive_into(&conn.fd, buffer, missing.start, missing.end, token);
                }
                None => {
                    ring.receive_once(&conn.fd, config::POOL_BUFFER_BYTES, token);
                }
            },
            State::Closing { .. } => {
                ring.receive_once(&conn.fd, config::POOL_BUFFER_BYTES, token);
            }
            State::Dialing { .. } | State::Dead => return,
        }
        conn.receiving = true;
        conn.operations += 1;
    }

    fn send(&mut self, ring: &mut Ring, index: u32) {
        let now = self.now;
        let Some(conn) = self.get(index) else { return };
        conn.dirty = false;
        if conn.sending || conn.is_dead() || matches!(conn.state, State::Dialing { .. }) {
            return;
        }
        if !conn.has_output() {
            self.say_last(index);
            return;
        }
        let mut sending = conn.spare.take().unwrap_or_default();
        match &mut conn.secure {
            Some(secure) => {
                conn.out.pieces(0).for_each(|piece| secure.put(piece));
                conn.out.clear();
                secure.drain(sending.outbox.bytes_mut());
                if sending.outbox.is_empty() {
                    // Said when the handshake is over.
                    conn.spare = Some(sending);
                    return;
                }
            }
            None => std::mem::swap(&mut sending.outbox, &mut conn.out),
        }
        conn.sending_bytes = sending.outbox.len();
        self.start_send(ring, index, sending, now);
    }

    fn start_send(&mut self, ring: &mut Ring, index: u32, sending: Box<Sending>, now: Micros) {
        let Some(conn) = self.get(index) else { return };
        ring.send(&conn.fd, sending, SEND | u64::from(index));
        conn.sending = true;
        conn.operations += 1;
        conn.send_until = now.after(config::SEND_TIME);
        self.schedule(index);
    }

    /// A send has ended, wholly, in part or badly.
    pub(crate) fn on_sent(&mut self, ring: &mut Ring, index: u32, result: i32, memory: Memory) {
        let now = self.now;
        let Memory::Sending(mut sending) = memory else { unreachable!("a send returns its box") };
        let Some(conn) = self.get(index) else { return };
        conn.sending = false;
        conn.send_until = NEVER;
        if conn.is_dead() {
            return self.operation_ended(index);
        }
        if result <= 0 {
            self.kill(ring, index);
            return self.operation_ended(index);
        }
        conn.operations -= 1;
        if sending.advance(result as usize) {
            sending.clear();
            conn.spare = Some(sending);
            conn.sending_bytes = 0;
            let more = conn.has_output() || matches!(conn.state, State::Closing { .. });
            if more {
                self.mark(index);
            }
        } else {
            conn.sending_bytes -= result as usize;
            self.start_send(ring, index, sending, now);
        }
    }

    /// A closing connection has sent everything: says that nothing follows, and waits for it to be
    /// read.
    fn say_last(&mut self, index: u32) {
        let now = self.now;
        let Some(conn) = self.get(index) else { return };
        if let State::Closing { told: told @ false, .. } = &mut conn.state {
            *told = true;
            conn.state_until = now.after(config::CLOSING_TIME);
            sys::shutdown(&conn.fd, Shutdown::Write);
            self.schedule(index);
            self.thirst(index);
        }
    }
}
