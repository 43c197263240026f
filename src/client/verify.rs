//! Compares the logs of a group's replicas while they serve: whether their chains are the same, and
//! if not, where they part.
//!
//! Equal chains at an index mean equal logs up to there, so one number per replica is enough, and
//! the first difference is found by halving.

use std::time::Duration;

use margay_log::id::{BatchEnd, GroupId, Index};

use super::ask::exchange;
use super::error::Error;
use super::net::from_now;
use crate::tls::Tls;
use crate::wire::repair::{ChainQuery, ChainReply};
use crate::wire::{self, Kind};

/// What a comparison came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Comparison {
    /// Up to here all that were compared have the same log, as far as they still hold it.
    pub index: Index,
    /// Which of those asked were compared.
    pub compared: Vec<usize>,
    /// Who has another log than most, and the last index up to which it has the same.
    pub different: Vec<(usize, Index)>,
    /// Who holds nothing that others hold too: it is being brought a snapshot.
    pub apart: Vec<usize>,
    /// Batches that each of those asked knows it cannot read.
    pub unreadable: Vec<u32>,
}

/// Asks a node for the last batch end up to `index` that is committed and durable there.
///
/// # Errors
/// It does not answer, or something else.
pub fn chain(
    endpoint: &str,
    tls: Option<&Tls>,
    group: GroupId,
    index: Index,
    timeout: Duration,
) -> Result<ChainReply, Error> {
    let failed = |reason| Error::Node { endpoint: endpoint.to_owned(), reason };
    let mut question = Vec::new();
    ChainQuery { id: 1, index }.encode(&mut question);
    let answer = exchange(endpoint, tls, group, &question, from_now(timeout)).map_err(failed)?;
    let frame = wire::decode(&answer.frame).map_err(|error| failed(error.to_string()))?;
    if frame.kind != Kind::ChainReply {
        return Err(failed("something else was answered".to_owned()));
    }
    ChainReply::decode(&frame).map_err(|error| failed(error.to_string()))
}

/// Compares the logs of `replicas` nodes, which `ask` answers for by number.
///
/// # Errors
/// Those of `ask`.
pub fn compare<E>(
    replicas: usize,
    mut ask: impl FnMut(usize, Index) -> Result<ChainReply, E>,
) -> Result<Comparison, E> {
    let mut first = Vec::new();
    for replica in 0..replicas {
        first.push(ask(replica, Index(u64::MAX))?);
    }
    // Who ends before somebody else begins cannot be compared with that one.
    let begin = first.iter().map(|reply| reply.start).max().unwrap_or_default();
    let (compared, apart) = (0..replicas).partition(|&at| first[at].end.id.index >= begin);
    let mut comparison = Comparison {
        index: Index::ZERO,
        compared,
        different: Vec::new(),
        apart,
        unreadable: first.iter().map(|reply| reply.damaged).collect(),
    };
    let ends = comparison.compared.iter().map(|&at| first[at].end.id.index);
    let Some(goal) = ends.min() else { return Ok(comparison) };
    let mut found = Vec::new();
    for &at in &comparison.compared {
        found.push((at, ask(at, goal)?.end));
    }
    let (reference, end) = most_common(&found);
    comparison.index = end.id.index;
    for (at, _) in found.iter().filter(|(_, other)| *other != end) {
        let last = last_common(begin, goal, |index| {
            Ok(ask(*at, index)?.end == ask(reference, index)?.end)
        })?;
        comparison.different.push((*at, last));
        comparison.index = comparison.index.min(last);
    }
    Ok(comparison)
}

/// The end that most have, the first of them where several are as common.
fn most_common(found: &[(usize, BatchEnd)]) -> (usize, BatchEnd) {
    let count = |end: &BatchEnd| found.iter().filter(|(_, other)| other == end).count();
    let best = found.iter().rev().max_by_key(|(_, end)| count(end));
    *best.expect("somebody is compared")
}

/// The last index in `from..to` up to which two logs are the same; zero where not even that.
fn last_common<E>(
    from: Index,
    to: Index,
    mut same: impl FnMut(Index) -> Result<bool, E>,
) -> Result<Index, E> {
    let (mut low, mut high) = (from.0, to.0);
    if !same(from)? {
        return Ok(Index::ZERO);
    }
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if same(Index(middle))? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(Index(low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use margay_log::id::{Chain, EntryId, Term};

    /// A log of batches of three entries that begins behind `start`; from `parts` on its chains are
    /// its own.
    fn reply(start: u64, last: u64, parts: u64, own: u32, index: Index) -> ChainReply {
        let index = index.0.min(last).max(start) / 3 * 3;
        let chain = if index > parts { index as u32 ^ own } else { index as u32 };
        let end = BatchEnd { id: EntryId::new(Term(1), Index(index)), chain: Chain(chain) };
        ChainReply { id: 1, end, start: Index(start), damaged: 0 }
    }

    fn compared(logs: &[(u64, u64, u64)]) -> Comparison {
        let ask = |at: usize, index| {
            let (start, last, parts) = logs[at];
            Ok::<_, ()>(reply(start, last, parts, 0x8000_0000 | at as u32, index))
        };
        compare(logs.len(), ask).expect("all answer")
    }

    #[test]
    fn equal_logs_are_equal_up_to_the_shortest() {
        let same = compared(&[(0, 300, 999), (30, 240, 999), (0, 270, 999)]);
        assert_eq!((same.index, same.different, same.apart), (Index(240), vec![], vec![]));
    }

    #[test]
    fn the_first_difference_is_named() {
        let parted = compared(&[(0, 300, 999), (0, 300, 120), (0, 270, 999)]);
        assert_eq!(parted.different, [(1, Index(122))], "the batch that ends at 123 differs");
        assert_eq!(parted.index, Index(122));
        let early = compared(&[(0, 300, 999), (90, 300, 0), (0, 270, 999)]);
        assert_eq!(early.different, [(1, Index::ZERO)]);
    }

    #[test]
    fn who_is_far_behind_is_not_compared() {
        let apart = compared(&[(120, 300, 999), (0, 90, 999), (120, 270, 999)]);
        assert_eq!((apart.compared, apart.apart), (vec![0, 2], vec![1]));
    }
}
