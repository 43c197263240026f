//! Who watches at a node that has lost touch with its group.
//!
//! Whoever has a session asks its leader now and then, and leaves one that deposed itself. Who only
//! watches waits for what comes: from a node that is cut off nothing will, though it answers when
//! it is asked whether it is there. So a node that knows no leader for longer than an election
//! takes sends its watchers elsewhere. Where nobody knows one they go round, with as much time at
//! each node; what they have missed is told where they arrive.

use margay_log::id::Micros;

use super::{Host, Replica};
use crate::machine::StateMachine;

/// In longest election time-outs: an election ends within one or two, if it can.
const PATIENCE: u64 = 3;

impl<S: StateMachine> Replica<S> {
    /// Sends watchers away where no leader has been known for too long.
    pub(super) fn look_at_watchers(&mut self, now: Micros, host: &mut dyn Host) {
        if self.raft.leader().is_some() || !self.front.is_watched() {
            self.leaderless = None;
            return;
        }
        self.leaderless.get_or_insert(now);
        if self.watchers_deadline().is_some_and(|due| due <= now) {
            self.leaderless = None;
            self.front.send_watchers_elsewhere(host);
        }
    }

    /// When they are sent away, if no leader is heard of.
    pub(super) fn watchers_deadline(&self) -> Option<Micros> {
        let patience = Micros(self.config.raft.election_max.0 * PATIENCE);
        self.leaderless.map(|since| since.after(patience))
    }
}
