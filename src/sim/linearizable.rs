//! Is a history linearizable? The search of Wing and Gong with Lowe's memory of what was seen.
//!
//! A history is a set of operations with the times of their invocation and of their reply. It is
//! linearizable if every operation can be given one instant between the two so that a plain
//! sequential model, run in that order, gives the replies that were seen (Herlihy and Wing 1990).
//! An operation whose reply was lost may take effect at any time after its invocation, or never.
//!
//! The search is exponential in the number of operations that overlap: callers split histories by
//! key, which is sound because linearizability is local, and bound the number of steps.

use std::collections::BTreeSet;

/// The sequential specification.
pub trait Model {
    /// The state; small, cheap to clone.
    type State: Clone + Ord;
    /// An operation with its arguments.
    type Op;
    /// A reply.
    type Reply: PartialEq;

    /// The state before the first operation.
    fn init(&self) -> Self::State;

    /// What `op` does and answers in `state`.
    fn step(&self, state: &Self::State, op: &Self::Op) -> (Self::State, Self::Reply);
}

/// One operation of a history. Times are on one clock; equal times count as concurrent.
#[derive(Clone, Debug)]
pub struct Operation<O, R> {
    /// When it was invoked.
    pub invoked: u64,
    /// When its reply came, and which; `None` if none ever did.
    pub replied: Option<(u64, R)>,
    /// What was asked.
    pub op: O,
}

/// The verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Violation,
    /// The search was given up after its bound of steps.
    Unknown,
}

/// Searches for an order; `steps` bounds the work.
pub fn check<M: Model>(
    model: &M,
    history: &[Operation<M::Op, M::Reply>],
    mut steps: u64,
) -> Verdict {
    let mut order: Vec<usize> = (0..history.len()).collect();
    order.sort_by_key(|&at| (history[at].invoked, at));
    let mut search = Search {
        done: vec![0; history.len().div_ceil(64).max(1)],
        seen: BTreeSet::new(),
        path: Vec::new(),
        state: model.init(),
    };
    let must: usize = history.iter().filter(|operation| operation.replied.is_some()).count();
    let mut answered = 0;
    let mut from = 0;
    loop {
        if answered == must {
            return Verdict::Linearizable;
        }
        if steps == 0 {
            return Verdict::Unknown;
        }
        steps -= 1;
        match search.next(model, history, &order, from) {
            Some((place, state)) => {
                let at = order[place];
                search.done[at / 64] |= 1 << (at % 64);
                answered += usize::from(history[at].replied.is_some());
                let before = std::mem::replace(&mut search.state, state);
                search.path.push((place, before));
                from = 0;
            }
            None => {
                let Some((place, before)) = search.path.pop() else { return Verdict::Violation };
                let at = order[place];
                search.done[at / 64] &= !(1 << (at % 64));
                answered -= usize::from(history[at].replied.is_some());
                search.state = before;
                from = place + 1;
            }
        }
    }
}

struct Search<S> {
    /// One bit per operation that has its instant.
    done: Vec<u64>,
    /// (operations done, state) that led nowhere, or are being tried.
    seen: BTreeSet<(Vec<u64>, S)>,
    path: Vec<(usize, S)>,
    state: S,
}

impl<S: Clone + Ord> Search<S> {
    /// The next operation, from place `from` of the order on, that may come now and leads somewhere
    /// new.
    fn next<M: Model<State = S>>(
        &mut self,
        model: &M,
        history: &[Operation<M::Op, M::Reply>],
        order: &[usize],
        from: usize,
    ) -> Option<(usize, S)> {
        let pending = |at: usize| self.done[at / 64] & (1 << (at % 64)) == 0;
        // Whatever was invoked after the first outstanding reply cannot come before it.
        let horizon = order
            .iter()
            .filter(|&&at| pending(at))
            .filter_map(|&at| history[at].replied.as_ref().map(|&(time, _)| time))
            .min()
            .unwrap_or(u64::MAX);
        for (place, &at) in order.iter().enumerate().skip(from) {
            let operation = &history[at];
            if operation.invoked > horizon {
                return None;
            }
            if !pending(at) {
                continue;
            }
            let (state, reply) = model.step(&self.state, &operation.op);
            if operation.replied.as_ref().is_some_and(|(_, seen)| *seen != reply) {
                continue;
            }
            let mut done = self.done.clone();
            done[at / 64] |= 1 << (at % 64);
            if self.seen.insert((done, state.clone())) {
                return Some((place, state));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Register;

    #[derive(Clone, Debug)]
    enum Op {
        Read,
        Write(u64),
    }

    impl Model for Register {
        type State = u64;
        type Op = Op;
        type Reply = u64;

        fn init(&self) -> u64 {
            0
        }

        fn step(&self, state: &u64, op: &Op) -> (u64, u64) {
            match *op {
                Op::Read => (*state, *state),
                Op::Write(value) => (value, value),
            }
        }
    }

    fn seen(invoked: u64, replied: u64, op: Op, reply: u64) -> Operation<Op, u64> {
        Operation { invoked, replied: Some((replied, reply)), op }
    }

    fn lost(invoked: u64, op: Op) -> Operation<Op, u64> {
        Operation { invoked, replied: None, op }
    }

    #[test]
    fn a_read_sees_the_write_before_it() {
        let good = [seen(0, 1, Op::Write(7), 7), seen(2, 3, Op::Read, 7)];
        assert_eq!(check(&Register, &good, 1_000), Verdict::Linearizable);
        let stale = [seen(0, 1, Op::Write(7), 7), seen(2, 3, Op::Read, 0)];
        assert_eq!(check(&Register, &stale, 1_000), Verdict::Violation);
    }

    #[test]
    fn overlapping_operations_may_come_in_either_order() {
        let either = [
            seen(0, 10, Op::Write(1), 1),
            seen(0, 10, Op::Write(2), 2),
            seen(11, 12, Op::Read, 1),
            seen(13, 14, Op::Read, 1),
        ];
        assert_eq!(check(&Register, &either, 1_000), Verdict::Linearizable);
        let back = [
            seen(0, 10, Op::Write(1), 1),
            seen(0, 10, Op::Write(2), 2),
            seen(11, 12, Op::Read, 1),
            seen(13, 14, Op::Read, 2),
        ];
        assert_eq!(check(&Register, &back, 1_000), Verdict::Violation);
    }

    #[test]
    fn a_lost_reply_may_take_effect_late_or_never() {
        let late = [lost(0, Op::Write(5)), seen(1, 2, Op::Read, 0), seen(8, 9, Op::Read, 5)];
        assert_eq!(check(&Register, &late, 1_000), Verdict::Linearizable);
        let never = [lost(0, Op::Write(5)), seen(1, 2, Op::Read, 0)];
        assert_eq!(check(&Register, &never, 1_000), Verdict::Linearizable);
        let undone = [lost(0, Op::Write(5)), seen(1, 2, Op::Read, 5), seen(3, 4, Op::Read, 0)];
        assert_eq!(check(&Register, &undone, 1_000), Verdict::Violation);
    }

    #[test]
    fn the_bound_is_kept() {
        let many: Vec<_> = (0..20).map(|n| lost(0, Op::Write(n))).collect();
        let mut many = many;
        many.push(seen(1, 2, Op::Read, 99));
        assert_eq!(check(&Register, &many, 50), Verdict::Unknown);
    }
}
