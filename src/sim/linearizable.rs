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

use margay_log::rng::Rng;

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
    let mut search = Search::new(model, history);
    let must: usize = history.iter().filter(|operation| operation.replied.is_some()).count();
    let mut answered = 0;
    let mut from = search.first();
    loop {
        if answered == must {
            return Verdict::Linearizable;
        }
        if steps == 0 {
            return Verdict::Unknown;
        }
        steps -= 1;
        match search.next(model, from) {
            Some((place, state)) => {
                answered += usize::from(search.operation(place).replied.is_some());
                search.take(place, state);
                from = search.first();
            }
            None => {
                let Some(place) = search.untake() else { return Verdict::Violation };
                answered -= usize::from(search.operation(place).replied.is_some());
                from = search.after[place];
            }
        }
    }
}

/// Places are those of the operations in order of their invocation, from 1; place 0 is before the
/// first and behind the last of them.
struct Search<'h, M: Model> {
    history: &'h [Operation<M::Op, M::Reply>],
    order: Vec<usize>,
    /// The next and the previous place whose operation has no instant yet (Knuth's links).
    after: Vec<usize>,
    before: Vec<usize>,
    /// A random number for each place.
    names: Vec<u128>,
    /// The names of all operations that have an instant, combined: it stands for the set of them.
    done: u128,
    /// (operations done, state) that led nowhere, or are being tried.
    seen: BTreeSet<(u128, M::State)>,
    path: Vec<(usize, M::State)>,
    state: M::State,
}

impl<'h, M: Model> Search<'h, M> {
    fn new(model: &M, history: &'h [Operation<M::Op, M::Reply>]) -> Self {
        let mut order: Vec<usize> = (0..history.len()).collect();
        order.sort_by_key(|&at| (history[at].invoked, at));
        let places = history.len() + 1;
        let mut rng = Rng::new(0);
        let mut name = |_| u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
        Search {
            history,
            order,
            after: (0..places).map(|place| (place + 1) % places).collect(),
            before: (0..places).map(|place| (place + places - 1) % places).collect(),
            names: (0..places).map(&mut name).collect(),
            done: 0,
            seen: BTreeSet::new(),
            path: Vec::new(),
            state: model.init(),
        }
    }

    fn operation(&self, place: usize) -> &'h Operation<M::Op, M::Reply> {
        &self.history[self.order[place - 1]]
    }

    /// The first place whose operation has no instant yet.
    fn first(&self) -> usize {
        self.after[0]
    }

    /// The next operation, from place `from` on, that may come now and leads somewhere new.
    fn next(&mut self, model: &M, from: usize) -> Option<(usize, M::State)> {
        let horizon = self.horizon();
        let mut place = from;
        while place != 0 {
            let operation = self.operation(place);
            if operation.invoked > horizon {
                return None;
            }
            let (state, reply) = model.step(&self.state, &operation.op);
            let fits = operation.replied.as_ref().is_none_or(|(_, seen)| *seen == reply);
            if fits && self.seen.insert((self.done ^ self.names[place], state.clone())) {
                return Some((place, state));
            }
            place = self.after[place];
        }
        None
    }

    /// The first outstanding reply: whatever was invoked after it cannot come before it.
    fn horizon(&self) -> u64 {
        let (mut horizon, mut place) = (u64::MAX, self.first());
        while place != 0 {
            let operation = self.operation(place);
            if operation.invoked > horizon {
                break; // Its reply, and those behind it, are later still.
            }
            if let Some((time, _)) = &operation.replied {
                horizon = horizon.min(*time);
            }
            place = self.after[place];
        }
        horizon
    }

    fn take(&mut self, place: usize, state: M::State) {
        let (before, after) = (self.before[place], self.after[place]);
        (self.after[before], self.before[after]) = (after, before);
        self.done ^= self.names[place];
        self.path.push((place, std::mem::replace(&mut self.state, state)));
    }

    /// Takes the last step back.
    fn untake(&mut self) -> Option<usize> {
        let (place, state) = self.path.pop()?;
        let (before, after) = (self.before[place], self.after[place]);
        (self.after[before], self.before[after]) = (place, place);
        self.done ^= self.names[place];
        self.state = state;
        Some(place)
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
