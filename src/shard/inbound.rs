//! What arrives on connections: pieces to frames, frames to replicas, and whatever is wrong with
//! them.

use margay_log::buffer::Buffer;
use margay_log::id::{Micros, NodeId};

use super::conn::State;
use super::greet::refusal;
use super::reader::{Intake, Reader};
use super::ring::Completion;
use super::{Shard, Slot, View};
use crate::config;
use crate::machine::Code;
use crate::replica::{ConnId, Fault};
use crate::wire::client::{RefusedOf, Response};
use crate::wire::peer::PeerMessage;
use crate::wire::repair::RepairReply;
use crate::wire::{self, FRAME_MAX, Hello, HelloKind, Kind};

const _: () = assert!(config::OUT_BYTES_MAX >= 2 * FRAME_MAX, "a frame while another is sent");

/// Whom the frames of a connection are for.
#[derive(Clone, Copy)]
enum Role {
    Client { slot: u32, id: ConnId },
    Peer { slot: u32, from: NodeId },
}

/// What has come over a connection.
pub(super) enum Arrived<'a> {
    Piece(&'a [u8]),
    /// The memory into which a batch was received, and how many bytes came.
    Intake(Buffer, usize),
}

/// Why no more is taken from a connection.
pub(super) enum Stop {
    /// A replica has closed it.
    Closed,
    /// What arrived cannot be read or must not be said.
    Fault(Fault),
}

impl From<wire::Error> for Stop {
    fn from(error: wire::Error) -> Stop {
        Stop::Fault(Fault::Wire(error))
    }
}

impl Shard {
    /// A receive has brought something, or has ended.
    pub(super) fn on_received(&mut self, index: u32, completion: Completion) {
        let Completion { result, more, memory, .. } = completion;
        let Some(conn) = self.net.get(index) else { return };
        if !more {
            conn.receiving = false;
        }
        // The operation is counted off last: a slot must not be used again before that.
        if !conn.is_dead() {
            match result {
                1.. => self.on_arrival(index, result as usize, memory),
                0 => self.net.kill(&mut self.ring, index),
                _ if -result == libc::ENOBUFS || -result == libc::EINTR => {}
                _ => self.net.kill(&mut self.ring, index),
            }
        }
        if !more {
            self.net.operation_ended(index);
            self.net.thirst(index);
        }
    }

    /// What was said on a connection.
    pub(super) fn on_bytes(&mut self, index: u32, arrived: Arrived<'_>) {
        let Some(conn) = self.net.get(index) else { return };
        match (&mut conn.state, arrived) {
            (State::Hello(greeting), Arrived::Piece(piece)) => {
                let rest = greeting.extend(piece);
                conn.early.extend_from_slice(rest);
                match Hello::peek(greeting.bytes()) {
                    Ok(None) => {}
                    // Of its bytes behind the hello some may have come before.
                    Ok(Some(_)) if self.greeted.contains(&index) => {}
                    Ok(Some(_)) => self.greeted.push(index),
                    Err(error) => self.on_bad_hello(index, error),
                }
            }
            (State::Greeting { greeting, .. }, Arrived::Piece(piece)) => {
                greeting.extend(piece);
                match Hello::peek(greeting.bytes()) {
                    Ok(None) => {}
                    Ok(Some(_)) => match Hello::decode(greeting.bytes()) {
                        Ok(hello) => {
                            self.net.on_answer(&mut self.ring, &self.node, index, &hello);
                        }
                        Err(_) => self.net.kill(&mut self.ring, index),
                    },
                    Err(_) => self.net.kill(&mut self.ring, index),
                }
            }
            (State::Client { slot }, arrived) => {
                let role = Role::Client { slot: *slot, id: conn.id };
                self.on_piece(index, role, arrived);
            }
            (State::PeerIn { slot, from }, arrived) => {
                let role = Role::Peer { slot: *slot, from: *from };
                self.on_piece(index, role, arrived);
            }
            // Nobody answers on these connections; what a closing one still says is not heard.
            _ => {}
        }
    }

    /// Hellos that are complete. Deferred until their receives are counted off: they may change
    /// shards.
    pub(super) fn on_greeted(&mut self) {
        for index in std::mem::take(&mut self.greeted) {
            let Some(conn) = self.net.get(index) else { continue };
            let State::Hello(greeting) = &conn.state else { continue };
            if greeting.missing() > 0 {
                // Somebody else by now.
                continue;
            }
            if conn.operations > 0 {
                // The last piece of a handshake, or its completion, is on its way.
                self.greeted.push(index);
                continue;
            }
            match Hello::decode(greeting.bytes()) {
                Ok(hello) => self.on_hello(index, hello),
                Err(error) => self.on_bad_hello(index, error),
            }
        }
    }

    fn on_piece(&mut self, index: u32, role: Role, arrived: Arrived<'_>) {
        let Some(conn) = self.net.get(index) else { return };
        let mut reader = std::mem::take(&mut conn.reader);
        let mut intake = conn.intake.take();
        let held = reader.held();
        let result = match arrived {
            Arrived::Piece(piece) => self.take_piece(index, role, &mut reader, &mut intake, piece),
            Arrived::Intake(buffer, bytes) => match &mut intake {
                Some(arriving) => {
                    arriving.received(buffer, bytes);
                    self.take_piece(index, role, &mut reader, &mut intake, &[])
                }
                None => Ok(()),
            },
        };
        let now = self.net.now;
        let Some(conn) = self.net.get(index).filter(|conn| conn.is_serving()) else {
            self.net.partial_bytes -= held;
            return;
        };
        // What was held until now is counted under the reader that is put back.
        let holds = reader.held();
        conn.reader = reader;
        conn.intake = intake;
        conn.heard(now);
        self.net.schedule(index);
        self.net.partial_bytes = self.net.partial_bytes - held + holds;
        match result {
            Err(Stop::Fault(fault)) => self.on_fault(index, role, &fault),
            _ if self.net.partial_bytes > config::PARTIAL_BYTES_MAX && holds > 0 => {
                self.say_no(index, Code::OVERLOADED, "too many incomplete frames on this node");
            }
            _ => {}
        }
    }

    /// Everything in `piece`, frame by frame; batches go to their place.
    fn take_piece(
        &mut self,
        index: u32,
        role: Role,
        reader: &mut Reader,
        intake: &mut Option<Intake>,
        piece: &[u8],
    ) -> Result<(), Stop> {
        let mut rest = piece;
        loop {
            if let Some(arriving) = intake {
                arriving.fill(&mut rest);
                if !arriving.is_complete() {
                    return Ok(());
                }
                if let (Some(done), Role::Peer { slot, from }) = (intake.take(), role) {
                    let frame = wire::decode(&done.frame)?;
                    let (replica, mut view) = self.group(slot);
                    let now = view.net.now;
                    replica
                        .on_peer(now, from, &frame, done.buffer, &mut view)
                        .map_err(Stop::Fault)?;
                    self.touch(slot);
                }
            }
            let Some(bytes) = reader.next(&mut rest)? else { return Ok(()) };
            self.frames += 1;
            match wire::decode(bytes) {
                Ok(frame) => self.on_frame(role, bytes, &frame, intake)?,
                Err(error @ wire::Error::Kind(kind)) => self.on_unknown(index, kind, &error),
                Err(error) => return Err(error.into()),
            }
            if !self.net.get(index).is_some_and(|conn| conn.is_serving()) {
                return Err(Stop::Closed);
            }
        }
    }

    fn on_frame(
        &mut self,
        role: Role,
        bytes: &[u8],
        frame: &wire::Frame<'_>,
        intake: &mut Option<Intake>,
    ) -> Result<(), Stop> {
        match role {
            Role::Client { slot, id } => {
                if frame.kind == Kind::Admin && !self.may_operate(id) {
                    return self.refuse_operator(slot, id, frame);
                }
                let (replica, mut view) = self.group(slot);
                let now = view.net.now;
                let result = replica.on_client(now, id, frame, &mut view);
                self.touch(slot);
                result.map_err(Stop::Fault)
            }
            Role::Peer { slot, from } => {
                let length = match frame.kind {
                    Kind::Append => PeerMessage::decode(frame)?.batch_length,
                    Kind::RepairReply => RepairReply::decode(frame)?.batch_length,
                    _ => 0,
                };
                if length > 0 {
                    *intake = Some(Intake::new(bytes, length as usize));
                    return Ok(());
                }
                let (replica, mut view) = self.group(slot);
                let now = view.net.now;
                let result = replica.on_peer(now, from, frame, None, &mut view);
                self.touch(slot);
                result.map_err(Stop::Fault)
            }
        }
    }

    /// A message of a later version: said, and the connection goes on.
    fn on_unknown(&mut self, index: u32, kind: u8, error: &wire::Error) {
        let Some(conn) = self.net.get(index) else { return };
        if matches!(conn.state, State::Client { .. }) && conn.owed() < config::OUT_BYTES_MAX {
            let (of, code, text) = (RefusedOf::Frame(kind), error.code(), &error.to_string());
            let refused = Response::Refused { of, code, retry: Micros(0), leader: "", text };
            refused.encode(conn.out.bytes_mut());
            self.net.mark(index);
        }
    }

    fn on_fault(&mut self, index: u32, role: Role, fault: &Fault) {
        self.node.counters(self.index).faults.add(1);
        if self.net.hush.may_speak(self.net.now) {
            let from = self.net.get(index).map(|conn| conn.from()).unwrap_or_default();
            match role {
                Role::Client { slot, .. } => {
                    let group = self.groups[slot as usize].group;
                    tracing::warn!(%from, %group, "client connection closed: {fault}");
                }
                Role::Peer { slot, from: peer } => {
                    let group = self.groups[slot as usize].group;
                    tracing::warn!(%from, %group, %peer, "peer connection closed: {fault}");
                }
            }
        }
        match (role, fault) {
            (Role::Peer { .. }, _) => self.net.kill(&mut self.ring, index),
            (Role::Client { .. }, Fault::Wire(error)) => {
                self.say_no(index, error.code(), &error.to_string());
            }
            (Role::Client { .. }, _) => self.say_no(index, Code::BAD_FRAME, &fault.to_string()),
        }
    }

    /// The last words to a client.
    fn say_no(&mut self, index: u32, code: Code, text: &str) {
        if let Some(conn) = self.net.get(index) {
            refusal(code, text).encode(conn.out.bytes_mut());
        }
        self.net.close(index);
    }

    /// Patience with a connection has ended.
    pub(super) fn on_expired(&mut self, index: u32) {
        let now = self.net.now;
        let Some(conn) = self.net.get(index) else { return };
        if conn.send_until <= now {
            let from = conn.from();
            if self.net.hush.may_speak(now) {
                tracing::warn!(%from, "connection closed: the other side does not read");
            }
            return self.net.kill(&mut self.ring, index);
        }
        match &conn.state {
            State::Hello(greeting) if greeting.bytes().is_empty() => {
                self.net.kill(&mut self.ring, index);
            }
            State::Hello(_) if conn.secure.as_ref().is_some_and(|s| s.is_handshaking()) => {
                self.net.kill(&mut self.ring, index);
            }
            State::Hello(_) => {
                let (kind, code) = (HelloKind::Client, Code::BAD_FRAME);
                self.dismiss(index, kind, code, "a hello must be complete within 5 s");
            }
            State::Client { .. } if conn.frame_until <= now => {
                self.say_no(index, Code::BAD_FRAME, "a frame must be complete within 30 s");
            }
            State::Client { .. } => {
                self.say_no(index, Code::TIMEOUT, "nothing heard for 5 minutes")
            }
            State::PeerIn { .. }
            | State::PeerOut { .. }
            | State::Dialing { .. }
            | State::Greeting { .. }
            | State::Closing { .. }
            | State::Dead => self.net.kill(&mut self.ring, index),
        }
    }

    /// The replica in a slot, and its host.
    pub(super) fn group(&mut self, slot: u32) -> (&mut dyn super::Group, View<'_>) {
        let Slot { group, replica, disk, .. } = &mut self.groups[slot as usize];
        let (node, net, ring) = (&self.node, &mut self.net, &mut self.ring);
        let (group, waste, pace) = (*group, &node.waste, self.pace);
        (replica.as_mut(), View { node, net, ring, disk, group, waste, slot, pace })
    }
}
