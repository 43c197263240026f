//! An election whose candidates bring data of a type.

use super::Data;
use crate::machine::{Filter, Level, SessionId};
use crate::resource::election::{Candidate, ElectionEvent, Leader, Leadership, read_event};
use crate::resource::{Delivery, Election, Failure, Reply, Submit, Watch};
use margay_log::id::Index;
use std::marker::PhantomData;
use std::time::Duration;

/// An election whose candidates bring data of a type.
pub struct ElectionOf<D, S> {
    election: Election<S>,
    is: PhantomData<fn() -> D>,
}

/// Who leads; see [`Leader`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaderOf<D> {
    /// The term: a fencing token.
    pub term: u64,
    /// Names the candidate.
    pub candidate: u64,
    /// Its session.
    pub session: SessionId,
    /// What it has brought.
    pub data: D,
    /// How many wait for their turn.
    pub waiting: u32,
}

/// Who waits for its turn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CandidateOf<D> {
    /// Names the candidate.
    pub candidate: u64,
    /// Its session.
    pub session: SessionId,
    /// What it has brought.
    pub data: D,
}

/// What happened in an [`ElectionOf`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ElectionEventOf<D> {
    /// Somebody leads.
    Elected {
        /// The term: a fencing token.
        term: u64,
        /// Names the candidate.
        candidate: u64,
        /// What it has brought.
        data: D,
    },
    /// Nobody leads.
    Vacant,
    /// The election was deleted.
    Deleted,
    /// Events were missed: ask who leads, then go on.
    Lagged {
        /// Index of the oldest event still kept.
        oldest: Index,
    },
}

impl<D: Data, S: Submit> ElectionOf<D, S> {
    /// The same election, with data of a type.
    pub fn new(election: Election<S>) -> ElectionOf<D, S> {
        ElectionOf { election, is: PhantomData }
    }

    /// The election in bytes, for all else it can do.
    #[must_use]
    pub fn bytes(&self) -> &Election<S> {
        &self.election
    }

    /// See [`Election::with_level`].
    #[must_use]
    pub fn with_level(self, level: Level) -> ElectionOf<D, S> {
        ElectionOf::new(self.election.with_level(level))
    }

    /// See [`Election::campaign`].
    pub fn campaign(&self, data: &D) -> Reply<Leadership<S>> {
        self.election.campaign(&data.to_bytes())
    }

    /// See [`Election::campaign_within`].
    pub fn campaign_within(&self, data: &D, wait: Duration) -> Reply<Option<Leadership<S>>> {
        self.election.campaign_within(&data.to_bytes(), wait)
    }

    /// Who leads, if anybody does.
    pub fn leader(&self) -> Reply<Option<LeaderOf<D>>> {
        self.election.leader().and_then(|leader| leader.map(read_leader).transpose())
    }

    /// See [`Election::is_leader`].
    pub fn is_leader(&self, term: u64) -> Reply<bool> {
        self.election.is_leader(term)
    }

    /// See [`Election::candidates`].
    pub fn candidates(&self) -> Reply<Vec<CandidateOf<D>>> {
        let candidates = self.election.candidates();
        candidates.and_then(|all| all.into_iter().map(read_candidate).collect())
    }

    /// See [`Election::anoint`].
    pub fn anoint(&self, candidate: u64) -> Reply<()> {
        self.election.anoint(candidate)
    }

    /// See [`Election::promote`].
    pub fn promote(&self, candidate: u64) -> Reply<()> {
        self.election.promote(candidate)
    }

    /// See [`Election::evict`].
    pub fn evict(&self, candidate: u64) -> Reply<()> {
        self.election.evict(candidate)
    }

    /// See [`Election::watch`]. A leader whose data is none of the type is a failure, and the next
    /// event comes all the same.
    #[must_use]
    pub fn watch(&self, after: Option<(Index, u32)>) -> Watch<ElectionEventOf<D>> {
        Watch::new(self.election.handle().subscribe(after, Filter::All), read_typed)
    }
}

fn read_leader<D: Data>(leader: Leader) -> Result<LeaderOf<D>, Failure> {
    let Leader { term, candidate, session, data, waiting } = leader;
    Ok(LeaderOf { term, candidate, session, data: D::from_bytes(&data)?, waiting })
}

fn read_candidate<D: Data>(waits: Candidate) -> Result<CandidateOf<D>, Failure> {
    let Candidate { candidate, session, data } = waits;
    Ok(CandidateOf { candidate, session, data: D::from_bytes(&data)? })
}

fn read_typed<D: Data>(delivery: Delivery) -> Result<ElectionEventOf<D>, Failure> {
    Ok(match read_event(delivery)? {
        ElectionEvent::Elected { term, candidate, data } => {
            ElectionEventOf::Elected { term, candidate, data: D::from_bytes(&data)? }
        }
        ElectionEvent::Vacant => ElectionEventOf::Vacant,
        ElectionEvent::Deleted => ElectionEventOf::Deleted,
        ElectionEvent::Lagged { oldest } => ElectionEventOf::Lagged { oldest },
    })
}

impl<D, S: Clone> Clone for ElectionOf<D, S> {
    fn clone(&self) -> Self {
        ElectionOf { election: self.election.clone(), is: PhantomData }
    }
}
