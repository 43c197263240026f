//! What a leader knows of one peer, and how much it may send.
//!
//! ```text
//!              holds all before `next`
//!     ┌─────────┐ ────────────────────────────────► ┌───────────┐
//!     │  Probe  │                                   │ Replicate │ ◄─┐ sent: next advances at once,
//!     └─────────┘ ◄──────────────────────────────── └───────────┘ ──┘ acknowledged: window opens
//!          │       rejected, or connection broken        ▲
//!          │ lacks what is behind our snapshot           │ holds the snapshot
//!          └───────────────► ┌──────────┐ ───────────────┘
//!                            │ Snapshot │
//!                            └──────────┘
//! ```
//!
//! In `Probe` only empty appends go out, one per heartbeat or reply: they find where the logs part
//! and cost nothing when the guess was wrong. `match_index` rises by acknowledgements alone, never
//! by a hint (CCF #5325), and falls only where the peer refuses what it had acknowledged: its disk
//! has lost it. `next` is a guess, but never at or below `match_index`
//! (etcd-raft #149).

use std::collections::VecDeque;

use margay_log::id::{Index, Micros, NodeId};

use super::message::{PeerStatus, Round};

/// Sends that are remembered one by one; later ones are counted with the newest. Bounds memory, not
/// what may be in flight: bytes do that.
const SENDS_MAX: usize = 256;

/// How the leader sends to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Looking for the end of the common log.
    Probe,
    /// Streaming behind it.
    Replicate,
    /// The peer needs entries that are no longer in the log. Bringing it a snapshot is the
    /// replica's business; here it gets heartbeats until it holds ours.
    Snapshot,
}

/// A peer as its leader sees it. The leader makes one per member when it is elected.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// The peer.
    pub(super) id: NodeId,
    /// How to send.
    pub(super) state: State,
    /// The peer's log is durable and equal to ours up to here.
    pub(super) match_index: Index,
    /// The first entry not sent yet.
    pub(super) next: Index,
    /// The peer has been told that all up to here is committed, unless that was lost.
    pub(super) commit_told: Index,
    /// The highest round it has answered.
    pub(super) round: Round,
    /// When it last answered; when the leader began, before it has.
    pub(super) heard: Micros,
    /// When it last answered this leader, if it has.
    pub(super) answered: Option<Micros>,
    /// When something was last sent to it.
    pub(super) sent: Micros,
    /// An empty append is owed now: a probe, or a round to confirm.
    pub(super) urgent: bool,
    /// A `Replicate` awaits its `Sent`.
    pub(super) asked: bool,
    /// The batches it needs next are not in memory; a `Readable` will come.
    pub(super) paused: bool,
    /// The round of catching up: reached when it holds all up to here, which was the end of the
    /// log then (thesis §4.2.1).
    goal: (Index, Micros),
    /// How long the last one took.
    last_round: Option<Micros>,
    /// What is sent and not acknowledged.
    window: Window,
}

impl Progress {
    /// A peer of a new leader whose log ends before `next`.
    pub(super) fn new(id: NodeId, next: Index, now: Micros) -> Progress {
        Progress {
            id,
            state: State::Probe,
            match_index: Index::ZERO,
            next,
            commit_told: Index::ZERO,
            round: Round(0),
            heard: now,
            answered: None,
            sent: now,
            urgent: true,
            asked: false,
            paused: false,
            goal: (next.prev(), now),
            last_round: None,
            window: Window::default(),
        }
    }

    /// For those outside the core.
    pub(super) fn status(&self) -> PeerStatus {
        PeerStatus {
            id: self.id,
            matched: self.match_index,
            heard: self.heard,
            replicating: self.state == State::Replicate,
        }
    }

    /// Takes in that the peer holds everything up to `matched`. Late and duplicated ones change
    /// nothing.
    pub(super) fn on_ack(&mut self, matched: Index) {
        self.match_index = self.match_index.max(matched);
        self.window.free(self.match_index);
        // A smaller `matched` leaves the search going: the peer will say so when its disk has
        // caught up.
        if self.state != State::Replicate && self.match_index >= self.next.prev() {
            self.state = State::Replicate;
            self.paused = false;
        }
        if self.match_index >= self.next {
            // It got there by a snapshot: what was to be fetched for it is not needed.
            self.paused = false;
            self.next = self.match_index.next();
        }
    }

    /// Ends a round of catching up, if the peer has come so far, and begins the next.
    pub(super) fn end_round(&mut self, last: Index, now: Micros) {
        let (goal, begun) = self.goal;
        if self.match_index >= goal {
            self.last_round = Some(now.since(begun));
            self.goal = (last, now);
        }
    }

    /// Whether it would not hold up the others: it took less than `limit` to get what there was
    /// when its last round began, and has not fallen behind since.
    pub(super) fn keeps_up(&self, now: Micros, limit: Micros) -> bool {
        let so_far = now.since(self.goal.1);
        self.last_round.is_some_and(|took| took < limit) && so_far < limit
    }

    /// Whether a refusal of an append behind `prev` says nothing new: it answers something older
    /// than the present guess.
    pub(super) fn ignore_reject(&self, prev: Index) -> bool {
        match self.state {
            State::Probe => prev != self.next.prev(),
            State::Replicate => prev >= self.next || prev <= self.match_index,
            State::Snapshot => true,
        }
    }

    /// The peer holds nothing behind `last`. Where it had acknowledged more, its disk has lost
    /// that; or the message is a late one, which costs a search: too small a `match_index` commits
    /// nothing.
    pub(super) fn lost(&mut self, last: Index) {
        self.match_index = self.match_index.min(last);
    }

    /// Searches on from `last`, which the peer may hold: at once where that moves the guess back,
    /// else with the next heartbeat. So a search sends no more than there are guesses, however
    /// often it is refused.
    pub(super) fn become_probe(&mut self, last: Index) {
        let next = last.max(self.match_index).next();
        self.urgent |= next < self.next;
        self.restart(State::Probe, next);
    }

    /// The peer lacks what is behind `base`.
    pub(super) fn become_snapshot(&mut self, base: Index) {
        self.restart(State::Snapshot, base.max(self.match_index).next());
        self.urgent = true;
    }

    /// The connection broke. The guess stays: it may all have arrived.
    pub(super) fn on_unreachable(&mut self) {
        if self.state == State::Replicate {
            self.restart(State::Probe, self.next);
        }
    }

    fn restart(&mut self, state: State, next: Index) {
        self.state = state;
        self.next = next;
        self.paused = false;
        self.commit_told = Index::ZERO;
        self.window.clear();
    }

    /// Takes in that batches up to `last` are on their way; or, where that is nothing new, that
    /// they must be fetched first. Whether anything was sent.
    pub(super) fn on_sent(&mut self, last: Index, bytes: u64) -> bool {
        self.asked = false;
        if self.state != State::Replicate {
            return false;
        }
        if last >= self.next {
            self.window.push(last, bytes);
            self.next = last.next();
            return true;
        }
        self.paused = true;
        false
    }

    /// Bytes that may be sent now, beyond one batch; `None` if there is nothing to send, or not
    /// now.
    pub(super) fn budget(&self, last: Index, window_bytes: u64) -> Option<u64> {
        let ready = self.state == State::Replicate && !self.paused && !self.asked;
        let left = window_bytes.saturating_sub(self.window.bytes);
        (ready && self.next <= last && left > 0).then_some(left)
    }

    /// Whether the peer holds everything up to `last`, so that only news of the commit index is
    /// left to tell.
    pub(super) fn is_level(&self, last: Index) -> bool {
        self.state == State::Replicate && self.match_index >= last
    }

    /// Notes that an append was sent that ends at `last` and carries `commit`. A peer trusts a
    /// commit index only as far as that append reaches.
    pub(super) fn told(&mut self, commit: Index, last: Index, now: Micros) {
        self.sent = now;
        self.urgent = false;
        self.commit_told = self.commit_told.max(commit.min(last));
    }
}

/// What is sent and not acknowledged.
#[derive(Clone, Debug, Default)]
struct Window {
    /// (end, size) of each send, in order.
    sends: VecDeque<(Index, u64)>,
    /// Their sum.
    bytes: u64,
}

impl Window {
    fn push(&mut self, last: Index, bytes: u64) {
        self.bytes += bytes;
        let full = self.sends.len() >= SENDS_MAX;
        match self.sends.back_mut() {
            Some(newest) if full => *newest = (last, newest.1 + bytes),
            _ => self.sends.push_back((last, bytes)),
        }
    }

    fn free(&mut self, matched: Index) {
        while let Some((last, bytes)) = self.sends.front().copied()
            && last <= matched
        {
            self.sends.pop_front();
            self.bytes -= bytes;
        }
    }

    fn clear(&mut self) {
        self.sends.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_remembers_a_bounded_number_of_sends() {
        let mut window = Window::default();
        for i in 1..=SENDS_MAX as u64 + 10 {
            window.push(Index(i), 1);
        }
        assert_eq!((window.sends.len(), window.bytes), (SENDS_MAX, SENDS_MAX as u64 + 10));
        window.free(Index(SENDS_MAX as u64 + 9));
        assert_eq!((window.sends.len(), window.bytes), (1, 11));
        window.free(Index(SENDS_MAX as u64 + 10));
        assert_eq!((window.sends.len(), window.bytes), (0, 0));
    }

    #[test]
    fn only_a_guess_that_moves_back_is_tried_at_once() {
        let mut peer = Progress::new(NodeId(2), Index(10), Micros(0));
        let is_tried = |peer: &mut Progress, last| {
            peer.told(Index::ZERO, Index::ZERO, Micros(0));
            peer.become_probe(Index(last));
            peer.urgent
        };
        let tried = [5, 5, 7, 3].map(|last| is_tried(&mut peer, last));
        assert_eq!(tried, [true, false, false, true]);
        // What is owed anyhow, for a round that is to be confirmed, is owed still.
        peer.become_probe(Index(3));
        assert!(peer.urgent);
    }
}
