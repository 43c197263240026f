//! Proving a state machine of one's own: `cargo run --release --features sim --example
//! check_machine`.
//!
//! The machine is a bank. It is run on clusters that crash, lose messages and are cut apart, and
//! whatever its clients saw must be possible for the plain model at the end of this file. Spoil
//! something — forget to take the money from the sender — and see what it says.

use margay::machine::bytes::{self, Reader};
use margay::machine::{
    Code, Commit, Effects, Events, Frozen, LogTime, Notice, Query, ResourceId, RestoreError,
    Restoring, SessionId, StateMachine,
};
use margay::resource::Answer;
use margay::sim::linearizable::Model;
use margay::sim::{Request, Rng, Simulated, check};
use margay_log::id::Index;

/// From 128 on kinds are ours to give.
const BANK: u8 = 128;
const ACCOUNTS: usize = 4;
const EACH: u64 = 100;

#[derive(Clone, Debug)]
struct Bank {
    accounts: [u64; ACCOUNTS],
}

/// From, to, amount: three bytes.
fn transfer(payload: &[u8]) -> Result<(usize, usize, u64), Code> {
    let &[from, to, amount] = payload else { return Err(Code::BAD_PAYLOAD) };
    let known = usize::from(from) < ACCOUNTS && usize::from(to) < ACCOUNTS;
    let transfer = (usize::from(from), usize::from(to), u64::from(amount));
    if known { Ok(transfer) } else { Err(Code::BAD_PAYLOAD) }
}

impl StateMachine for Bank {
    type Frozen = Bank;
    type Restoring = Bank;

    fn check(kind: u8, _schema: u16, payload: &[u8]) -> Result<(), Code> {
        if kind == BANK { transfer(payload).map(|_| ()) } else { Err(Code::BAD_KIND) }
    }

    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        let (from, to, amount) = match transfer(commit.payload) {
            Ok(transfer) => transfer,
            Err(code) => return effects.refuse(code, ""),
        };
        let enough = self.accounts[from] >= amount;
        if enough {
            self.accounts[from] -= amount;
            self.accounts[to] += amount;
        }
        effects.reply.push(u8::from(enough));
    }

    fn query(&self, _: &Query<'_>, effects: &mut Effects) {
        self.accounts.iter().for_each(|account| bytes::put_u64(&mut effects.reply, *account));
    }

    // Nothing here belongs to a session, ends with time, or is told to watchers.
    fn session_ended(&mut self, _: SessionId, _: &Commit<'_>, _: usize, _: &mut Effects) -> usize {
        0
    }

    fn next_timer(&self) -> Option<LogTime> {
        None
    }

    fn fire(&mut self, _: Index, _: LogTime, _: usize, _: &mut Effects) -> usize {
        0
    }

    fn holdings(&self, _: SessionId, _: LogTime, _: &mut Vec<Notice>) {}

    fn events(&self, _: ResourceId, _: (Index, u32), _: &[u8]) -> Events {
        Events::Lagged { oldest: Index::ZERO }
    }

    fn freeze(&self) -> Bank {
        self.clone()
    }

    fn restore(_: Index) -> Bank {
        Bank::new()
    }
}

/// Four numbers are one chunk.
impl Frozen for Bank {
    fn next_chunk(&mut self, _max: usize, out: &mut Vec<u8>) -> bool {
        self.accounts.iter().for_each(|account| bytes::put_u64(out, *account));
        false
    }
}

impl Restoring for Bank {
    type State = Bank;

    fn feed(&mut self, chunk: &[u8]) -> Result<(), RestoreError> {
        let mut reader = Reader::new(chunk);
        for account in &mut self.accounts {
            let what = "an account";
            *account = reader.u64().map_err(|_| RestoreError::Damaged { what })?;
        }
        Ok(())
    }

    fn finish(self) -> Result<Bank, RestoreError> {
        Ok(self)
    }
}

/// What clients do.
#[derive(Clone, Debug)]
enum Op {
    Transfer { from: u8, to: u8, amount: u8 },
    Look,
}

/// What they are told.
#[derive(PartialEq, Debug)]
enum Told {
    Done(bool),
    Accounts([u64; ACCOUNTS]),
}

/// The bank without a log, sessions or bytes: whatever clients were told must be possible here.
#[derive(Default)]
struct Plain;

impl Model for Plain {
    type State = [u64; ACCOUNTS];
    type Op = Op;
    type Reply = Told;

    fn init(&self) -> [u64; ACCOUNTS] {
        [EACH; ACCOUNTS]
    }

    fn step(&self, state: &[u64; ACCOUNTS], op: &Op) -> ([u64; ACCOUNTS], Told) {
        let Op::Transfer { from, to, amount } = *op else {
            return (*state, Told::Accounts(*state));
        };
        let mut after = *state;
        let Some(rest) = state[usize::from(from)].checked_sub(u64::from(amount)) else {
            return (after, Told::Done(false));
        };
        after[usize::from(from)] = rest;
        after[usize::from(to)] += u64::from(amount);
        (after, Told::Done(true))
    }
}

impl Simulated for Bank {
    type Model = Plain;

    fn new() -> Bank {
        Bank { accounts: [EACH; ACCOUNTS] }
    }

    fn draw(rng: &mut Rng) -> Op {
        let mut account = || rng.below(ACCOUNTS as u64) as u8;
        let (from, to) = (account(), account());
        match rng.below(3) {
            0 => Op::Look,
            _ => Op::Transfer { from, to, amount: rng.below(60) as u8 },
        }
    }

    fn request(op: &Op) -> Request {
        let (is_command, payload) = match *op {
            Op::Transfer { from, to, amount } => (true, vec![from, to, amount]),
            Op::Look => (false, Vec::new()),
        };
        Request { is_command, kind: BANK, schema: 1, payload }
    }

    fn reply(op: &Op, answer: &Answer) -> Told {
        match op {
            Op::Transfer { .. } => Told::Done(answer.payload == [1]),
            Op::Look => {
                let mut reader = Reader::new(&answer.payload);
                Told::Accounts([0; ACCOUNTS].map(|_| reader.u64().unwrap_or(u64::MAX)))
            }
        }
    }

    fn look() -> Vec<Op> {
        vec![Op::Look]
    }

    fn invariant(&self) -> Result<(), String> {
        let sum: u64 = self.accounts.iter().sum();
        let all = EACH * ACCOUNTS as u64;
        if sum == all { Ok(()) } else { Err(format!("{sum} in all accounts, not {all}")) }
    }
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let summary = check::<Bank>(1..=10)?;
    println!("{} operations on 10 clusters: the bank holds", summary.operations);
    Ok(())
}
