//! Bad input from members: no message may panic a node.

use margay::raft::Raft;
use margay::raft::message::{
    Body, Config, Input, Message, Output, ReadId, Restored, RoleKind, Round,
};
use margay_log::id::{EntryId, Index, Micros, NodeId, Term, Ticket};

use super::cluster::mix;

/// One node among peers that say anything at all: nothing they say may break an assertion.
#[test]
fn no_message_can_panic_a_node() {
    for seed in 0..100 {
        Babble::new(seed).play();
    }
}

struct Babble {
    random: u64,
    now: Micros,
    raft: Raft,
    out: Vec<Output>,
    /// Asked for, and not durable yet.
    persisting: Option<Ticket>,
}

impl Babble {
    fn new(seed: u64) -> Babble {
        let voters = (1..=3).map(NodeId).collect();
        let mut restored = Restored::founding(voters);
        if seed % 4 == 1 {
            // Few terms are left.
            restored.term = Term(u64::MAX - 3);
        }
        if seed % 4 == 2 {
            restored.snapshot = EntryId::new(Term(3), Index(10));
            (restored.term, restored.last) = (Term(3), restored.snapshot);
        }
        let raft = Raft::new(Config::new(NodeId(1), seed), restored, Micros(0));
        Babble { random: mix(seed), now: Micros(0), raft, out: Vec::new(), persisting: None }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = mix(self.random);
        self.random % bound
    }

    /// Mostly a number near `around`, sometimes any.
    fn near(&mut self, around: u64) -> u64 {
        match self.below(40) {
            0 => u64::MAX,
            1 => 0,
            2 => self.random,
            _ => around.saturating_add(self.below(5)).saturating_sub(2),
        }
    }

    fn play(&mut self) {
        for _ in 0..2_000 {
            let input = match self.below(20) {
                0 => {
                    self.now = self.raft.deadline().map_or(self.now, |due| due.max(self.now));
                    Input::Tick
                }
                1 if self.raft.may_propose() => Input::Appended { entries: 2, configuration: None },
                2 => Input::Durable { index: self.raft.last().index },
                3 => Input::Read { id: ReadId(self.below(100)) },
                4 => Input::Unreachable { peer: NodeId(2) },
                5 => Input::Transfer { to: NodeId(self.below(5) as u32) },
                6 | 7 if self.persisting.is_some() => {
                    let ticket = self.persisting.take().expect("just seen");
                    Input::Persisted { ticket }
                }
                _ => Input::Message {
                    from: NodeId(self.below(5) as u32),
                    message: self.message(),
                    configuration: None,
                },
            };
            self.step(input);
        }
    }

    fn step(&mut self, input: Input) {
        self.now = self.now.after(Micros(self.below(10_000)));
        let mut out = std::mem::take(&mut self.out);
        self.raft.step(self.now, input, &mut out);
        let answers: Vec<Input> = out.drain(..).filter_map(|output| self.answer(output)).collect();
        self.out = out;
        answers.into_iter().for_each(|answer| self.step(answer));
    }

    fn answer(&mut self, output: Output) -> Option<Input> {
        match output {
            // At once or later: peers may talk meanwhile.
            Output::Persist { ticket, .. } if self.below(2) == 0 => {
                Some(Input::Persisted { ticket })
            }
            Output::Persist { ticket, .. } => {
                self.persisting = Some(ticket);
                None
            }
            Output::Replicate { to, .. } => {
                Some(Input::Sent { to, last: self.raft.last().index, bytes: 100 })
            }
            Output::RoleChanged { role: RoleKind::Leader, .. } => {
                Some(Input::Appended { entries: 1, configuration: None })
            }
            _ => None,
        }
    }

    fn message(&mut self) -> Message {
        let (term, last) = (self.raft.term().0, self.raft.last());
        let term = Term(if self.below(4) > 0 { term } else { self.near(term) });
        let round = Round(self.below(3));
        let body = match self.below(10) {
            0 => Body::PreVote { last: self.entry(last) },
            1 => Body::PreVoteReply { granted: true },
            2 => Body::Vote { last: self.entry(last), handed_over: self.below(2) == 0 },
            3 => Body::VoteReply { granted: true },
            4..7 => {
                let prev = self.entry(last);
                let batch = (self.below(3) > 0).then(|| self.entry(prev));
                Body::Append { prev, batch, commit: Index(self.near(last.index.0)), round }
            }
            7 => Body::AppendAck { matched: Index(self.near(last.index.0)), round },
            8 => {
                let hint = self.entry(last);
                Body::AppendReject { prev: Index(self.near(last.index.0)), hint, round }
            }
            _ => Body::TimeoutNow,
        };
        Message { term, body }
    }

    fn entry(&mut self, around: EntryId) -> EntryId {
        if self.below(2) == 0 {
            return around;
        }
        EntryId::new(Term(self.near(around.term.0)), Index(self.near(around.index.0)))
    }
}
