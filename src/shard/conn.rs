//! One connection: what it is, what it is owed, and when patience with it ends.
//!
//! ```text
//! accepted ─► Hello ─► Client ───┐
//!               │  └─► PeerIn ───┤
//!               └────────────────┼─► Closing ─► Dead ─► (slot free)
//! dialled ─► Dialing ─► Greeting ─► PeerOut ───────┘
//! ```
//! In `Closing` the last words go out and what still arrives is thrown away; in `Dead` the socket
//! is shut down and only the ring's last completions are awaited. Any state may go to `Dead` at
//! once.

use std::os::fd::OwnedFd;

use margay_log::id::{Micros, NodeId};

use super::limits::Permit;
use super::outbox::Outbox;
use super::reader::{Intake, Reader};
use super::ring::Sending;
use super::sys;
use crate::config;
use crate::replica::ConnId;
use crate::tls::{Role, Secure};
use crate::wire::HELLO_BYTES;

/// "No deadline".
pub(crate) const NEVER: Micros = Micros(u64::MAX);

/// What a connection is for at the moment.
pub(crate) enum State {
    /// Accepted; has not said hello.
    Hello(Greeting),
    /// Requests for the group in `slot`.
    Client { slot: u32 },
    /// Messages of a peer to the group in `slot`.
    PeerIn { slot: u32, from: NodeId },
    /// Connecting to a peer.
    Dialing { link: u32 },
    /// Connected to a peer; its hello has not come.
    Greeting { link: u32, greeting: Greeting },
    /// Our messages to a peer.
    PeerOut { link: u32 },
    /// Sends its last words, then waits for the other side to have read them.
    Closing {
        /// The other side knows that nothing follows.
        told: bool,
        /// It was never taken: one of a bounded number of such.
        refused: bool,
    },
    /// Waits for the ring to be done with it.
    Dead,
}

/// The first bytes of a connection.
#[derive(Default)]
pub(crate) struct Greeting {
    bytes: [[u8; 32]; 2],
    have: usize,
}

impl Greeting {
    /// Adds what has arrived, up to its own end; returns the rest.
    pub(crate) fn extend<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let (ours, rest) = piece.split_at(piece.len().min(self.missing() as usize));
        let end = self.have + ours.len();
        self.bytes.as_flattened_mut()[self.have..end].copy_from_slice(ours);
        self.have = end;
        rest
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes.as_flattened()[..self.have]
    }

    pub(crate) fn missing(&self) -> u32 {
        (HELLO_BYTES - self.have) as u32
    }
}

/// See the module's text.
pub(crate) struct Conn {
    pub(crate) fd: OwnedFd,
    pub(crate) state: State,
    pub(crate) id: ConnId,
    pub(crate) permit: Option<Permit>,
    /// What stands between the socket and what is said, if it is encrypted.
    pub(crate) secure: Option<Box<Secure>>,
    /// A piece of its handshake waits to be looked at.
    pub(crate) shakes: bool,
    /// What was said behind the hello, before anybody could listen.
    pub(crate) early: Vec<u8>,
    pub(crate) reader: Reader,
    pub(crate) intake: Option<Intake>,
    /// Being filled; sent at the end of the turn if nothing is under way.
    pub(crate) out: Outbox,
    /// The other half of the double buffer, while the ring does not have it.
    pub(crate) spare: Option<Box<Sending>>,
    pub(crate) sending: bool,
    /// Bytes under way in the ring.
    pub(crate) sending_bytes: usize,
    /// A receive is in the ring.
    pub(crate) receiving: bool,
    /// Operations in the ring: receive, send, connect.
    pub(crate) operations: u8,
    /// Listed for sending at the end of the turn.
    pub(crate) dirty: bool,
    /// Listed for receiving again at the end of the turn.
    pub(crate) listed: bool,
    /// The state must have changed by then.
    pub(crate) state_until: Micros,
    /// The frame that has begun must be complete by then.
    pub(crate) frame_until: Micros,
    /// What is being sent must be gone by then.
    pub(crate) send_until: Micros,
    /// The earliest entry of this connection in the heap of deadlines.
    pub(crate) scheduled: Micros,
}

impl Conn {
    /// Who is at the other end, for the log.
    pub(crate) fn from(&self) -> String {
        sys::peer_address(&self.fd)
            .map_or_else(|_| "nobody".to_owned(), |address| address.to_string())
    }

    pub(crate) fn new(fd: OwnedFd, id: ConnId, state: State, state_until: Micros) -> Conn {
        Conn {
            fd,
            state,
            id,
            permit: None,
            secure: None,
            shakes: false,
            early: Vec::new(),
            reader: Reader::default(),
            intake: None,
            out: Outbox::default(),
            spare: None,
            sending: false,
            sending_bytes: 0,
            receiving: false,
            operations: 0,
            dirty: false,
            listed: false,
            state_until,
            frame_until: NEVER,
            send_until: NEVER,
            scheduled: NEVER,
        }
    }

    /// When something must have happened.
    pub(crate) fn deadline(&self) -> Micros {
        self.state_until.min(self.frame_until).min(self.send_until)
    }

    /// Frames are taken from it.
    pub(crate) fn is_serving(&self) -> bool {
        matches!(self.state, State::Client { .. } | State::PeerIn { .. })
    }

    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, State::Dead)
    }

    /// There is something to send.
    pub(crate) fn has_output(&self) -> bool {
        !self.out.is_empty() || self.secure.as_ref().is_some_and(|secure| secure.has_output())
    }

    /// Everything it is owed has left.
    pub(crate) fn is_drained(&self) -> bool {
        !self.has_output() && !self.sending
    }

    /// What the other side may do; `None` if nobody asks.
    pub(crate) fn role(&self) -> Option<Role> {
        self.secure.as_ref()?.role()
    }

    /// Bytes that wait to leave.
    pub(crate) fn owed(&self) -> usize {
        self.out.len() + self.sending_bytes
    }

    /// Something arrived: an idle client is not idle, an unfinished frame has its time.
    pub(crate) fn heard(&mut self, now: Micros) {
        if matches!(self.state, State::Client { .. }) {
            self.state_until = now.after(config::IDLE_TIME);
        }
        if !self.reader.is_inside() && self.intake.is_none() {
            self.frame_until = NEVER;
        } else if self.frame_until == NEVER {
            self.frame_until = now.after(config::FRAME_TIME);
        }
    }
}
