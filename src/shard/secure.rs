//! Encryption on a shard's connections: what arrives is decrypted, handshakes take turns, and who
//! is at the other end may do what his certificate says.
//!
//! A handshake costs as much as tens of commands. After a fail-over all clients come at once, and a
//! shard that were busy with them would be silent for so long that another leader is elected. So
//! only a few pieces of handshakes are taken in a turn; a connection is not received from while one
//! of its own waits.

use super::Shard;
use super::conn::State;
use super::inbound::{Arrived, Stop};
use super::ring::Memory;
use crate::config;
use crate::machine::Code;
use crate::replica::{ConnId, Host};
use crate::tls::stream::HANDSHAKE;
use crate::tls::{Broken, Role};
use crate::wire::client::{RefusedOf, Request, Response};
use crate::wire::{self, HelloKind};
use margay_log::id::Micros;

/// Why who greets so is not heard by a node whose connections are encrypted: `shown` is what his
/// certificate allows, if his connection is encrypted at all.
pub(crate) fn bar(shown: Option<Option<Role>>, kind: HelloKind) -> Option<Code> {
    match (shown, kind) {
        (None, _) => Some(Code::TLS_REQUIRED),
        (Some(Some(Role::Node)), _) | (Some(Some(_)), HelloKind::Client) => None,
        _ => Some(Code::DENIED),
    }
}

impl Shard {
    /// Bytes, as they came from the socket.
    pub(super) fn on_arrival(&mut self, index: u32, bytes: usize, memory: Memory) {
        match memory {
            Memory::Pooled(piece) => self.on_cipher(index, &piece),
            Memory::Buffer(buffer) => self.on_bytes(index, Arrived::Intake(buffer, bytes)),
            Memory::None | Memory::Sending(_) => {}
        }
    }

    fn on_cipher(&mut self, index: u32, piece: &[u8]) {
        let Some(conn) = self.net.get(index) else { return };
        if matches!(conn.state, State::Closing { .. }) {
            // After an alert all that comes is another fault; the alert has yet to be read.
            return;
        }
        if let (State::Hello(greeting), Some(tls)) = (&conn.state, &self.node.tls)
            && conn.secure.is_none()
            && greeting.bytes().is_empty()
            && piece.first() == Some(&HANDSHAKE)
        {
            conn.secure = Some(Box::new(tls.accept()));
        }
        match &conn.secure {
            None => self.on_bytes(index, Arrived::Piece(piece)),
            Some(secure) if secure.is_handshaking() => {
                conn.shakes = true;
                // What goes to a peer does not wait behind all the clients.
                let is_peer = matches!(conn.state, State::Greeting { .. });
                let waiting = (conn.id, piece.to_vec());
                if is_peer {
                    self.shaking.push_front(waiting);
                } else {
                    self.shaking.push_back(waiting);
                }
            }
            Some(_) => self.decrypt(index, piece),
        }
    }

    /// Goes on with handshakes, some of them; the others have their turn in the next.
    pub(super) fn shake_hands(&mut self) {
        for _ in 0..config::SHAKES_PER_TURN {
            let Some((id, piece)) = self.shaking.pop_front() else { return };
            let Some((index, conn)) = self.net.find(id) else { continue };
            conn.shakes = false;
            if !conn.is_dead() {
                self.decrypt(index, &piece);
                self.net.thirst(index);
            }
        }
    }

    fn decrypt(&mut self, index: u32, piece: &[u8]) {
        let Some(secure) = self.net.get(index).and_then(|conn| conn.secure.as_mut()) else {
            return;
        };
        let mut plain = std::mem::take(&mut self.plain);
        let fed = secure.feed(piece, &mut plain);
        if secure.has_output() {
            self.net.mark(index);
        }
        if !plain.is_empty() {
            self.on_bytes(index, Arrived::Piece(&plain));
        }
        plain.clear();
        self.plain = plain;
        if let Err(broken) = fed {
            self.on_broken(index, &broken);
        }
    }

    /// What has arrived is not what the other side has encrypted, or it has shown no certificate
    /// that counts here. It is told so in its own protocol, if it can be.
    fn on_broken(&mut self, index: u32, broken: &Broken) {
        let Some(conn) = self.net.get(index) else { return };
        let from = conn.from();
        match conn.state {
            State::Greeting { link, .. } | State::PeerOut { link } => {
                self.net.links[link as usize].complain(broken.to_string());
            }
            State::Closing { .. } | State::Dialing { .. } | State::Dead => {
                return self.net.kill(&mut self.ring, index);
            }
            State::Hello(_) | State::Client { .. } | State::PeerIn { .. } => {
                self.node.counters(self.index).refused.add(1);
                if self.net.hush.may_speak(self.net.now) {
                    tracing::warn!(%from, "connection refused: {broken}");
                }
            }
        }
        self.net.close(index);
    }

    /// Whether a client may change who belongs to the cluster, and who leads.
    pub(super) fn may_operate(&mut self, id: ConnId) -> bool {
        let role = self.net.find(id).and_then(|(_, conn)| conn.role());
        self.node.tls.is_none() || role >= Some(Role::Operator)
    }

    /// A client asks for what only an operator may do: it is told, and the connection goes on.
    pub(super) fn refuse_operator(
        &mut self,
        slot: u32,
        id: ConnId,
        frame: &wire::Frame<'_>,
    ) -> Result<(), Stop> {
        let request = Request::decode(frame).map_err(Stop::from)?;
        let Request::Admin { id: asked, .. } = request else { return Ok(()) };
        let (_, mut view) = self.group(slot);
        if let Some(out) = view.client(id) {
            let (of, code) = (RefusedOf::Admin(asked), Code::DENIED);
            let text = "it takes an operator's certificate; this one is a client's";
            let refused = Response::Refused { of, code, retry: Micros(0), leader: "", text };
            refused.encode(out);
        }
        Ok(())
    }
}
