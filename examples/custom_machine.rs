//! Groups that run a state machine of one's own instead of margay's resources:
//! `cargo run --example custom_machine`.
//!
//! This one counts words. It gets replication, sessions with exactly-once commands, linearizable
//! queries and snapshots, and decides alone what an operation means.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay::machine::bytes::{self, Reader};
use margay::machine::{
    Code, Commit, Effects, Events, Frozen, Level, LogTime, Notice, Query, ResourceId, RestoreError,
    Restoring, SessionId, StateMachine,
};
use margay::resource::Submit;
use margay::server::{LocalCluster, MakeGroup, Seed, replica};
use margay_log::id::{GroupId, Index, Micros};

/// From 128 on kinds are ours to give.
const WORDS: u8 = 128;

#[derive(Clone, Debug, Default)]
struct Words {
    counts: BTreeMap<String, u64>,
}

fn text(payload: &[u8]) -> Result<&str, Code> {
    std::str::from_utf8(payload).map_err(|_| Code::BAD_PAYLOAD)
}

impl StateMachine for Words {
    type Frozen = FrozenWords;
    type Restoring = RestoringWords;

    fn check(kind: u8, _schema: u16, payload: &[u8]) -> Result<(), Code> {
        if kind == WORDS { text(payload).map(|_| ()) } else { Err(Code::BAD_KIND) }
    }

    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        match text(commit.payload) {
            Ok(text) => text
                .split_whitespace()
                .for_each(|word| *self.counts.entry(word.to_owned()).or_default() += 1),
            Err(code) => effects.refuse(code, ""),
        }
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        let count = text(query.payload).ok().and_then(|word| self.counts.get(word));
        bytes::put_u64(&mut effects.reply, count.copied().unwrap_or(0));
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

    fn freeze(&self) -> FrozenWords {
        FrozenWords { words: self.clone(), after: None }
    }

    fn restore(_: Index) -> RestoringWords {
        RestoringWords::default()
    }
}

/// The state as it was, written out in slices.
struct FrozenWords {
    words: Words,
    after: Option<String>,
}

impl Frozen for FrozenWords {
    fn next_chunk(&mut self, max: usize, out: &mut Vec<u8>) -> bool {
        let (begin, after) = (out.len(), self.after.take());
        let mut rest = self.words.counts.iter().filter(|(word, _)| Some(*word) > after.as_ref());
        for (word, count) in &mut rest {
            bytes::put_bytes(out, word.as_bytes());
            bytes::put_u64(out, *count);
            if out.len() - begin >= max {
                self.after = Some(word.clone());
                return rest.next().is_some();
            }
        }
        false
    }
}

/// A state coming back.
#[derive(Default)]
struct RestoringWords {
    words: Words,
}

impl Restoring for RestoringWords {
    type State = Words;

    fn feed(&mut self, chunk: &[u8]) -> Result<(), RestoreError> {
        let damaged = |_| RestoreError::Damaged { what: "a word" };
        let mut reader = Reader::new(chunk);
        while !reader.is_empty() {
            let word = text(reader.bytes().map_err(damaged)?).map_err(damaged)?.to_owned();
            self.words.counts.insert(word, reader.u64().map_err(damaged)?);
        }
        Ok(())
    }

    fn finish(self) -> Result<Words, RestoreError> {
        Ok(self.words)
    }
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let make: MakeGroup = Arc::new(|seed: Seed, now: Micros| {
        Ok(Box::new(replica(seed, Words::default(), now)?) as Box<dyn margay::server::Group>)
    });
    let cluster = LocalCluster::builder(3).groups(1).machine(make).start()?;
    let client = cluster.client()?;
    let words = client.group(GroupId(0));
    let all = ResourceId(0);
    words.command(WORDS, 1, all, b"a cat is a cat".to_vec()).wait()?.ok()?;

    let answer = words.query(Level::Linearizable, WORDS, 1, all, b"cat".to_vec()).wait()?.ok()?;
    println!("'cat' was said {} times", Reader::new(&answer.payload).u64()?);

    client.close()?;
    cluster.stop()?;
    Ok(())
}
