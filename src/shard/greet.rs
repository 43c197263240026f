//! Who comes in: accepting, the hello, and refusals in words that the stranger understands.
//!
//! Whoever accepts reads exactly the hello, with nothing else in flight, and answers errors itself.
//! A right hello goes with its descriptor to the shard that owns the group.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use margay_log::id::{GroupId, Micros};

use super::Shard;
use super::conn::{Greeting, NEVER, State};
use super::inbound::Arrived;
use super::limits::Refusal;
use super::mesh::Handover;
use super::net::ACCEPT;
use super::secure::bar;
use super::sys;
use crate::config;
use crate::machine::Code;
use crate::wire::client::{RefusedOf, Response};
use crate::wire::forming::Forming;
use crate::wire::{self, Hello, HelloKind};

/// Refused connections that are told so at the same time; beyond that they are just closed.
const REFUSED_MAX: usize = 256;

/// The socket a shard accepts from.
pub(crate) struct Door {
    pub(crate) listener: Option<OwnedFd>,
    /// Given up for a moment where descriptors run out, to accept, tell and close.
    reserve: Option<OwnedFd>,
    accepting: bool,
    pub(crate) paused_until: Option<Micros>,
}

impl Door {
    pub(crate) fn new(listener: OwnedFd) -> Door {
        let reserve = sys::eventfd().ok();
        Door { listener: Some(listener), reserve, accepting: false, paused_until: None }
    }
}

impl Shard {
    /// Accepts, if it should and does not.
    pub(super) fn open_door(&mut self) {
        let paused = self.door.paused_until.is_some_and(|until| until > self.net.now);
        let Some(listener) = &self.door.listener else { return };
        if !paused && !self.door.accepting {
            self.door.paused_until = None;
            self.door.accepting = true;
            self.ring.accept(listener, ACCEPT);
        }
    }

    /// Accepts no more.
    pub(super) fn close_door(&mut self) {
        if let Some(listener) = self.door.listener.take() {
            self.ring.cancel(&listener);
            self.closed_door = Some(listener);
        }
    }

    pub(super) fn on_accepted(&mut self, result: i32, more: bool) {
        if !more {
            self.door.accepting = false;
            if self.door.listener.is_none() {
                self.closed_door = None;
            }
        }
        if result >= 0 {
            self.welcome(sys::own(result));
        } else {
            match -result {
                libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
                    self.turn_away(io::Error::from_raw_os_error(-result));
                }
                // The stranger has left already, or this shard is closing.
                libc::ECONNABORTED | libc::EINTR | libc::EPROTO | libc::ECANCELED => {}
                // Nothing that trying again at once would help.
                _ => self.door.paused_until = Some(self.net.now.after(config::ACCEPT_PAUSE)),
            }
        }
        self.open_door();
    }

    fn welcome(&mut self, fd: OwnedFd) {
        // A connection that has broken already has no address; nothing is owed to it.
        let Ok(address) = sys::peer_address(&fd) else { return };
        if self.door.listener.is_none() {
            return;
        }
        match self.node.limits.admit(address.ip()) {
            Ok(permit) => {
                self.node.counters(self.index).accepted.add(1);
                let state = State::Hello(Greeting::default());
                let index = self.net.insert(fd, state, config::HELLO_TIME);
                if let Some(conn) = self.net.get(index) {
                    conn.permit = Some(permit);
                }
                self.net.thirst(index);
            }
            Err(refusal) => self.refuse_new(fd, address, refusal),
        }
    }

    fn refuse_new(&mut self, fd: OwnedFd, from: SocketAddr, refusal: Refusal) {
        self.node.counters(self.index).refused.add(1);
        if self.net.hush.may_speak(self.net.now) {
            tracing::warn!(%from, "connection refused: {refusal}");
        }
        // Without a handshake there are no words to somebody who expects one.
        if self.net.refused >= REFUSED_MAX || self.node.tls.is_some() {
            return;
        }
        self.net.refused += 1;
        let state = State::Closing { told: false, refused: true };
        let index = self.net.insert(fd, state, config::CLOSING_TIME);
        let words = self.last_words(Code::TOO_MANY_CONNECTIONS, &refusal.to_string());
        if let Some(conn) = self.net.get(index) {
            conn.out.push(&words, None);
        }
        self.net.mark(index);
    }

    /// Descriptors have run out: takes one connection on the reserve, tells it, and pauses.
    fn turn_away(&mut self, error: io::Error) {
        if self.net.hush.may_speak(self.net.now) {
            tracing::warn!("cannot accept connections: {error}; raise the limit of open files");
        }
        self.node.counters(self.index).refused.add(1);
        self.door.reserve = None;
        if let Some(Ok(fd)) = self.door.listener.as_ref().map(sys::accept_now)
            && self.node.tls.is_none()
        {
            let text = "this node has no descriptor left for your connection";
            sys::send_now(&fd, &self.last_words(Code::TOO_MANY_CONNECTIONS, text));
        }
        self.door.reserve = sys::eventfd().ok();
        self.door.paused_until = Some(self.net.now.after(config::ACCEPT_PAUSE));
    }

    /// A hello that says no, and a refusal in words for those who read on.
    fn last_words(&self, code: Code, text: &str) -> Vec<u8> {
        let mut out = self.node.hello(HelloKind::Client, GroupId(0), code).encode().to_vec();
        refusal(code, text).encode(&mut out);
        out
    }

    /// The hello of an accepted connection is complete.
    pub(super) fn on_hello(&mut self, index: u32, hello: Hello) {
        if let Some(permit) = self.net.get(index).and_then(|conn| conn.permit.as_mut()) {
            permit.said_hello();
        }
        let Some(conn) = self.net.get(index) else { return };
        let shown = conn.secure.as_ref().map(|secure| secure.role());
        if self.node.tls.is_some()
            && let Some(code) = bar(shown, hello.kind)
        {
            return self.turn_back(index, &hello, code);
        }
        if hello.kind == HelloKind::Forming {
            return self.on_late_founder(index);
        }
        if let Some(code) = self.node.refuses(&hello) {
            let text = match code {
                Code::NO_SUCH_GROUP => format!("groups 0 to {} are served", self.node.groups - 1),
                _ => format!("cluster {}: {}", self.node.cluster, code.text()),
            };
            // Who dials this node by mistake and is this node says so itself.
            if !self.node.is_own(&hello) && self.net.hush.may_speak(self.net.now) {
                let from = self.net.get(index).map(|conn| conn.from()).unwrap_or_default();
                let (node, group) = (hello.node, hello.group);
                tracing::warn!(%from, %node, %group, "hello refused: {code}");
            }
            return self.dismiss(index, hello.kind, code, &text);
        }
        let shard = hello.group.0 as usize % self.node.shards;
        let Some(conn) = self.net.take_out(index) else { return };
        let Some(permit) = conn.permit else { return };
        let handover =
            Handover { fd: conn.fd, hello, permit, secure: conn.secure, early: conn.early };
        if shard == self.index {
            self.adopt(handover);
        } else if let Err(Handover { fd, mut secure, .. }) = self.node.inboxes[shard].push(handover)
        {
            let mut words = self.last_words(Code::OVERLOADED, "too many new connections");
            if let Some(secure) = &mut secure {
                secure.put(&words);
                words.clear();
                secure.drain(&mut words);
            }
            sys::send_now(&fd, &words);
        }
    }

    /// A node or client is not heard for what it has not shown.
    fn turn_back(&mut self, index: u32, hello: &Hello, code: Code) {
        self.node.counters(self.index).refused.add(1);
        if self.net.hush.may_speak(self.net.now) {
            let from = self.net.get(index).map(|conn| conn.from()).unwrap_or_default();
            tracing::warn!(%from, node = %hello.node, "hello refused: {code}");
        }
        self.dismiss(index, hello.kind, code, code.text());
    }

    /// Takes over a connection of one of this shard's groups.
    pub(super) fn adopt(&mut self, mut handover: Handover) {
        let hello = handover.hello;
        let slot = hello.group.0 / self.node.shards as u32;
        let (state, patience) = match hello.kind {
            HelloKind::Client => (State::Client { slot }, config::IDLE_TIME),
            HelloKind::Peer => {
                let replica = &self.groups[slot as usize].replica;
                if let Some(code) = replica.refuses(hello.node, hello.incarnation) {
                    return self.turn_down(handover, code);
                }
                if let Ok(address) = sys::peer_address(&handover.fd) {
                    self.net.introduce(&self.node, slot, &hello, address.ip());
                }
                (State::PeerIn { slot, from: hello.node }, NEVER)
            }
            HelloKind::Forming => return,
        };
        if let State::PeerIn { from, .. } = state {
            self.replace_peer(slot, from);
        }
        let early = std::mem::take(&mut handover.early);
        let index = self.settle(handover, state, patience);
        let answer = self.node.hello(hello.kind, hello.group, Code::OK).encode();
        if let Some(conn) = self.net.get(index) {
            conn.out.push(&answer, None);
        }
        self.net.mark(index);
        self.net.thirst(index);
        if !early.is_empty() {
            self.on_bytes(index, Arrived::Piece(&early));
        }
    }

    /// A place for a connection that was handed over.
    fn settle(&mut self, handover: Handover, state: State, patience: Micros) -> u32 {
        let index = self.net.insert(handover.fd, state, patience);
        if let Some(conn) = self.net.get(index) {
            conn.permit = Some(handover.permit);
            conn.secure = handover.secure;
        }
        index
    }

    /// The group takes nothing from this node.
    fn turn_down(&mut self, handover: Handover, code: Code) {
        let hello = handover.hello;
        if self.net.hush.may_speak(self.net.now) {
            let (node, group) = (hello.node, hello.group);
            tracing::warn!(%node, %group, "hello refused: {code}");
        }
        let state = State::Hello(Greeting::default());
        let index = self.settle(handover, state, config::HELLO_TIME);
        self.dismiss(index, hello.kind, code, code.text());
    }

    /// A peer connects anew: what is left of its old connection is stale.
    fn replace_peer(&mut self, slot: u32, from: margay_log::id::NodeId) {
        for index in self.net.indexes() {
            let old = self.net.get(index).is_some_and(|conn| {
                matches!(conn.state, State::PeerIn { slot: s, from: f } if s == slot && f == from)
            });
            if old {
                self.net.kill(&mut self.ring, index);
            }
        }
    }

    /// Answers a founder that missed the founding.
    fn on_late_founder(&mut self, index: u32) {
        let mut out = self.node.hello(HelloKind::Forming, GroupId(0), Code::OK).encode().to_vec();
        Forming::Founded { record: &self.node.record }.encode(&mut out);
        if let Some(conn) = self.net.get(index) {
            conn.out.push(&out, None);
        }
        self.net.close(index);
    }

    /// The first bytes of a connection are not a hello.
    pub(super) fn on_bad_hello(&mut self, index: u32, error: wire::Error) {
        if self.net.hush.may_speak(self.net.now) {
            let from = self.net.get(index).map(|conn| conn.from()).unwrap_or_default();
            tracing::warn!(%from, "connection refused: {error}");
        }
        self.node.counters(self.index).refused.add(1);
        if let wire::Error::Foreign(foreign) = error {
            if let Some(conn) = self.net.get(index) {
                conn.out.push(foreign.answer(), None);
            }
            return self.net.close(index);
        }
        self.dismiss(index, HelloKind::Client, error.code(), &error.to_string());
    }

    /// Answers with a hello that says no, and words for a client.
    pub(super) fn dismiss(&mut self, index: u32, kind: HelloKind, code: Code, text: &str) {
        let mut out = self.node.hello(kind, GroupId(0), code).encode().to_vec();
        if kind == HelloKind::Client {
            refusal(code, text).encode(&mut out);
        }
        if let Some(conn) = self.net.get(index) {
            conn.out.push(&out, None);
        }
        self.net.close(index);
    }
}

/// "No", about a whole connection.
pub(super) fn refusal(code: Code, text: &str) -> Response<'_> {
    let (of, retry) = (RefusedOf::Connection, Micros(0));
    Response::Refused { of, code, retry, leader: "", text }
}
