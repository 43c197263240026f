//! One connection on a ring: a receive buffer that is armed whenever it is not being read, and two
//! send buffers, one under way and one being filled.

use std::io;
use std::net::TcpStream;

use crate::ring::{Completion, Handle, Ring};

/// In the low bits of a tag; what it belongs to stands above them.
pub(crate) const RECEIVED: u64 = 0;
/// See [`RECEIVED`].
pub(crate) const SENT: u64 = 1;
/// See [`RECEIVED`].
pub(crate) const WRITTEN: u64 = 2;
const KINDS: u64 = 4;

/// The tag of an operation of `kind` that belongs to `owner`.
pub(crate) fn tag(owner: u64, kind: u64) -> u64 {
    owner * KINDS + kind
}

/// The owner and the kind in a tag.
pub(crate) fn untag(tag: u64) -> (u64, u64) {
    (tag / KINDS, tag % KINDS)
}

/// See the module.
pub(crate) struct Line {
    handle: Handle,
    owner: u64,
    /// Empty while the ring has it.
    received: Vec<u8>,
    have: usize,
    /// To be sent at the next flush.
    pub(crate) out: Vec<u8>,
    spare: Vec<u8>,
    sending: bool,
}

impl Line {
    /// Takes the socket and arms the first receive. Completions carry tags of `owner`.
    pub(crate) fn open(
        ring: &mut Ring,
        stream: TcpStream,
        owner: u64,
        capacity: usize,
    ) -> io::Result<Line> {
        stream.set_nodelay(true)?;
        let handle = ring.socket(stream);
        ring.receive(handle, vec![0; capacity], 0, tag(owner, RECEIVED));
        let (received, out, spare) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Line { handle, owner, received, have: 0, out, spare, sending: false })
    }

    /// A receive has ended. `false`: the other side has closed, and nothing more will be received.
    pub(crate) fn on_received(&mut self, completion: Completion) -> bool {
        let length = completion.result.as_ref().map_or(0, |length| *length);
        if length > 0 {
            self.received = completion.into_socket();
            self.have += length;
        }
        length > 0
    }

    /// What has been received and not consumed; nothing while the ring has the buffer.
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.received.is_empty() { &[] } else { &self.received[..self.have] }
    }

    /// The first `used` of [`Line::bytes`] are done with. Arms the next receive, unless the buffer
    /// is full: whoever leaves that much behind reads and consumes again.
    pub(crate) fn consume(&mut self, ring: &mut Ring, used: usize) {
        if self.received.is_empty() {
            return;
        }
        self.received.copy_within(used..self.have, 0);
        self.have -= used;
        if self.have < self.received.len() {
            let buffer = std::mem::take(&mut self.received);
            ring.receive(self.handle, buffer, self.have, tag(self.owner, RECEIVED));
        }
    }

    /// A send has ended.
    pub(crate) fn on_sent(&mut self, completion: Completion) {
        self.sending = false;
        self.spare = completion.into_socket();
        self.spare.clear();
    }

    /// Sends what is in `out`, unless a send is under way: then it waits for the next flush.
    pub(crate) fn flush(&mut self, ring: &mut Ring) {
        if !self.sending && !self.out.is_empty() {
            let buffer = std::mem::replace(&mut self.out, std::mem::take(&mut self.spare));
            ring.send(self.handle, buffer, tag(self.owner, SENT));
            self.sending = true;
        }
    }

    /// Whether a send is under way.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending
    }

    /// Closes the socket.
    pub(crate) fn close(&mut self, ring: &mut Ring) {
        ring.close(self.handle);
    }
}
