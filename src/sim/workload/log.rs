//! A log that all clients append to, read, follow and now and then trim: one order of records that
//! everybody sees, at positions without gaps, in which what was acknowledged stays where it was
//! said to be.

use std::collections::BTreeMap;

use super::{Actor, Journal, Workload};
use crate::machine::{Code, Level};
use crate::resource::log::{Appended, Follow, Log, LogPage, Record};
use crate::sim::Failure;
use crate::sim::client::Desk;

/// Records that nobody trims: followers are told where they are cut off, and rarely are.
const KEPT: u64 = 200;

/// See the module's text.
pub(in crate::sim) struct Appending {
    log: Log<Desk>,
    follow: Follow<Desk>,
    /// Where the log ended when it was last looked at.
    next: u64,
}

/// An append that was acknowledged.
struct Acked {
    position: u64,
    invoked: u64,
    replied: u64,
}

/// What all clients saw.
#[derive(Default)]
pub(in crate::sim) struct Seen {
    /// The record at each position that anybody knows of.
    known: BTreeMap<u64, u64>,
    acked: Vec<Acked>,
    /// Records in known order of their values: where each is.
    places: BTreeMap<u64, u64>,
    wrong: Vec<String>,
}

impl Seen {
    fn know(&mut self, position: u64, record: u64) {
        let known = *self.known.entry(position).or_insert(record);
        if known != record {
            self.wrong.push(format!("position {position} holds {known:#x} and {record:#x}"));
        }
        let place = *self.places.entry(record).or_insert(position);
        if place != position {
            self.wrong.push(format!("{record:#x} is at {place} and at {position}"));
        }
    }
}

impl Journal for Seen {
    fn judge(&mut self) -> Result<u64, Failure> {
        // One append that was over before another began is before it.
        self.acked.sort_by_key(|acked| acked.position);
        let mut latest = 0;
        for acked in &self.acked {
            if acked.replied < latest {
                let wrong = format!("position {} was acknowledged before", acked.position);
                self.wrong.push(wrong);
            }
            latest = latest.max(acked.invoked);
        }
        match self.wrong.first() {
            None => Ok(0),
            Some(wrong) => Err(Failure::new("a log has one order", wrong.clone())),
        }
    }
}

impl Workload for Appending {
    type Journal = Seen;

    async fn open(actor: &mut Actor<Seen>) -> Appending {
        let log = actor.open(|desk| Log::open(desk, "log")).await;
        let follow = log.follow(Some(0));
        Appending { log, follow, next: 1 }
    }

    async fn act(&mut self, actor: &mut Actor<Seen>) {
        match actor.rng.below(12) {
            0..=4 => self.append(actor).await,
            5..=6 => self.append_at(actor).await,
            7..=9 => self.read(actor).await,
            10 => {
                let trimmed = self.log.trim(self.next.saturating_sub(KEPT)).await;
                actor.outcome(trimmed);
            }
            _ => {
                let status = self.log.status().await;
                if let Some(Some((_, status))) = actor.outcome(status) {
                    self.next = status.next;
                }
            }
        }
        self.take(actor);
        actor.pause(15_000).await;
    }

    /// Everything acknowledged is there, and whoever follows hears it.
    async fn look(&mut self, actor: &mut Actor<Seen>) {
        let status = loop {
            if let Ok(status) = self.log.status().await {
                break status;
            }
        };
        let mut next = status.first;
        while next < status.next {
            match self.log.read(next, 0).await {
                Ok(page) => next = self.note_page(actor, next, &page, status.next),
                // Others may be trimming still.
                Err(failure) if failure.code == Code::TRIMMED => return,
                Err(_) => {}
            }
        }
        while self.follow.position() < status.next {
            self.take(actor);
            actor.pause(10_000).await;
        }
    }
}

impl Appending {
    async fn append(&mut self, actor: &mut Actor<Seen>) {
        let records: Vec<u64> = (0..=actor.rng.below(3)).map(|_| actor.fresh()).collect();
        let bytes: Vec<[u8; 8]> = records.iter().map(|record| record.to_le_bytes()).collect();
        let invoked = actor.now();
        let appended = self.log.append_all(&bytes).await;
        if let Some(Some((replied, positions))) = actor.outcome(appended) {
            self.note_acked(actor, positions.start, &records, (invoked, replied));
        }
    }

    /// At the place where the log ended when it was last looked at.
    async fn append_at(&mut self, actor: &mut Actor<Seen>) {
        let (record, expected, invoked) = (actor.fresh(), self.next, actor.now());
        let appended = self.log.append_at(expected, &[record.to_le_bytes()]).await;
        match actor.outcome(appended) {
            Some(Some((replied, Appended::Done(positions)))) => {
                if positions != (expected..expected + 1) {
                    let wrong = format!("expected {expected}, appended at {positions:?}");
                    actor.note(|seen| seen.wrong.push(wrong));
                }
                self.note_acked(actor, positions.start, &[record], (invoked, replied));
            }
            Some(Some((_, Appended::Conflict { next }))) => {
                if next == expected {
                    let wrong = format!("a conflict at {next}, which was expected");
                    actor.note(|seen| seen.wrong.push(wrong));
                }
                self.next = next;
            }
            _ => {}
        }
    }

    /// From somewhere near the end, at any level.
    async fn read(&mut self, actor: &mut Actor<Seen>) {
        let from = self.next.saturating_sub(actor.rng.below(8)).max(1);
        let level = [Level::Linearizable, Level::Lease, Level::Sequential];
        let level = level[actor.rng.below(3) as usize];
        let acked = match level {
            Level::Sequential => 0,
            _ => self.acked_end(actor),
        };
        let read = self.log.clone().with_level(level).read(from, 5).await;
        if let Some(Some((_, page))) = actor.outcome(read) {
            if page.next < acked {
                let wrong = format!("a read saw {} records, {acked} were acknowledged", page.next);
                actor.note(|seen| seen.wrong.push(wrong));
            }
            self.note_page(actor, from, &page, page.next);
            self.next = self.next.max(page.next);
        }
    }

    /// The end of everything that was acknowledged so far.
    fn acked_end(&self, actor: &Actor<Seen>) -> u64 {
        let mut end = 0;
        actor.note(|seen| {
            end = seen.acked.iter().map(|acked| acked.position + 1).max().unwrap_or(0);
        });
        end
    }

    fn note_acked(
        &mut self,
        actor: &Actor<Seen>,
        first: u64,
        records: &[u64],
        (invoked, replied): (u64, u64),
    ) {
        self.next = self.next.max(first + records.len() as u64);
        actor.note(|seen| {
            for (position, record) in (first..).zip(records) {
                seen.know(position, *record);
                seen.acked.push(Acked { position, invoked, replied });
            }
        });
    }

    /// Notes what a page holds; returns where to go on.
    fn note_page(&self, actor: &Actor<Seen>, from: u64, page: &LogPage, end: u64) -> u64 {
        actor.note(|seen| {
            if page.records.is_empty() && from < end {
                seen.wrong.push(format!("a page at {from} is empty, the log ends at {end}"));
            }
            for (position, record) in (from..).zip(&page.records) {
                if record.position != position {
                    let found = record.position;
                    seen.wrong.push(format!("{found} is on a page where {position} belongs"));
                }
                seen.know(position, number(record));
            }
        });
        from + page.records.len() as u64
    }

    /// Takes what has come to the follower.
    fn take(&mut self, actor: &mut Actor<Seen>) {
        loop {
            let expected = self.follow.position();
            match self.follow.try_next() {
                Some(Ok(record)) => actor.note(|seen| {
                    if expected > 0 && record.position != expected {
                        let (found, wrong) = (record.position, "came where this was to come");
                        seen.wrong.push(format!("{found} {wrong}: {expected}"));
                    }
                    seen.know(record.position, number(&record));
                }),
                Some(Err(failure)) => {
                    // This client may have left.
                    if ![Code::TRIMMED, Code::CLIENT_CLOSED].contains(&failure.code) {
                        actor.note(|seen| seen.wrong.push(format!("following: {failure}")));
                    }
                    self.follow = self.log.follow(Some(0));
                    return;
                }
                None => return,
            }
        }
    }
}

fn number(record: &Record) -> u64 {
    record.bytes[..].try_into().map_or(0, u64::from_le_bytes)
}
