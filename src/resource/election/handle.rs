//! The election as applications use it.

use super::{
    AnointV1, CampaignV1, CancelV1, CandidatesV1, ELECTED, EvictV1, LeaderV1, PromoteV1, VACANT,
};
use crate::machine::bytes::Reader;
use crate::machine::{Code, EventPayload, Filter, Level, ResourceId, SessionId, kind};
use crate::resource::claims::handle::{Held, Ways, acquire, milliseconds, or_timeout};
use crate::resource::handle::Handle;
use crate::resource::registry::DELETED;
use crate::resource::{Delivery, Failure, Reply, Submit, Watch};
use margay_log::id::Index;
use std::sync::Arc;
use std::time::Duration;

/// An election.
///
/// Candidates stand in a row; the first leads.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// let scheduler = client.election("scheduler").wait()?;
/// let lead = scheduler.campaign(b"10.0.0.7:9000").wait()?;
/// println!("leads in term {}: a fencing token", lead.term());
/// lead.resign().wait()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Election<S> {
    handle: Handle<S>,
}

/// Who leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leader {
    /// The term: a fencing token.
    pub term: u64,
    /// Names the candidate.
    pub candidate: u64,
    /// Its session.
    pub session: SessionId,
    /// What it has brought.
    pub data: Vec<u8>,
    /// How many wait for their turn.
    pub waiting: u32,
}

/// Who waits for its turn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Names the candidate.
    pub candidate: u64,
    /// Its session.
    pub session: SessionId,
    /// What it has brought.
    pub data: Vec<u8>,
}

/// What happened in an election.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ElectionEvent {
    /// Somebody leads.
    Elected {
        /// The term: a fencing token.
        term: u64,
        /// Names the candidate.
        candidate: u64,
        /// What it has brought.
        data: Vec<u8>,
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

impl<S: Submit> Election<S> {
    /// Opens an election by name; it is created where there is none.
    pub fn open(submit: S, name: &str) -> Reply<Election<S>> {
        Handle::open(submit, name, kind::ELECTION).and_then(|handle| Ok(Election { handle }))
    }

    /// The election `id`.
    pub fn new(submit: S, id: ResourceId) -> Election<S> {
        Election { handle: Handle::new(submit, id) }
    }

    /// The same, with queries at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Election<S> {
        Election { handle: self.handle.with_level(level) }
    }

    /// The way to it, for transactions and operations of one's own.
    #[must_use]
    pub fn handle(&self) -> &Handle<S> {
        &self.handle
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ResourceId {
        self.handle.id()
    }

    /// Enters as a candidate and waits to lead, however long that takes. `data`, at most 4 KiB, is
    /// what others see. Fails with [`Code::WAIT_LOST`] where the candidate was evicted. Dropping
    /// the reply withdraws.
    pub fn campaign(&self, data: &[u8]) -> Reply<Leadership<S>> {
        self.ask(data, None).and_then(or_timeout)
    }

    /// The same; `None` where its turn does not come within `wait`, in log time. Parts of a
    /// millisecond count as one.
    pub fn campaign_within(&self, data: &[u8], wait: Duration) -> Reply<Option<Leadership<S>>> {
        self.ask(data, Some(milliseconds(wait)))
    }

    /// Who leads, if anybody does.
    pub fn leader(&self) -> Reply<Option<Leader>> {
        self.handle.query(&LeaderV1 {}).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let leads = reader.u8()? != 0;
            let (session, term) = (SessionId(reader.u64()?), reader.u64()?);
            let (candidate, waiting) = (reader.u64()?, reader.u32()?);
            let data = reader.rest().to_vec();
            Ok(leads.then_some(Leader { term, candidate, session, data, waiting }))
        })
    }

    /// Whether the leader of this term still leads.
    pub fn is_leader(&self, term: u64) -> Reply<bool> {
        self.leader().and_then(move |leader| Ok(leader.is_some_and(|leader| leader.term == term)))
    }

    /// Who waits, in order of their turns: the first 1,000 at most.
    pub fn candidates(&self) -> Reply<Vec<Candidate>> {
        self.handle.query(&CandidatesV1 { limit: 0 }).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let mut candidates = Vec::new();
            for _ in 0..reader.u32()? {
                let (candidate, session) = (reader.u64()?, SessionId(reader.u64()?));
                let data = reader.bytes()?.to_vec();
                candidates.push(Candidate { candidate, session, data });
            }
            Ok(candidates)
        })
    }

    /// Makes a candidate the leader, at once. Who led until now is out and may enter again. Fails
    /// with [`Code::NO_SUCH_CANDIDATE`] where there is no such candidate; so do the next two.
    pub fn anoint(&self, candidate: u64) -> Reply<()> {
        self.handle.command(&AnointV1 { candidate }).and_then(|_| Ok(()))
    }

    /// Puts a candidate that waits in front of the others.
    pub fn promote(&self, candidate: u64) -> Reply<()> {
        self.handle.command(&PromoteV1 { candidate }).and_then(|_| Ok(()))
    }

    /// Takes a candidate out, also the one that leads: then the next one leads.
    pub fn evict(&self, candidate: u64) -> Reply<()> {
        self.handle.command(&EvictV1 { candidate }).and_then(|_| Ok(()))
    }

    /// Who leads from now on, or after an event seen before. To begin with who leads now, ask
    /// [`Election::leader`], and watch after its term, `Some((Index(term), u32::MAX))`: a term is
    /// the index of the event that told it, so that no leader is told twice and none left out.
    #[must_use]
    pub fn watch(&self, after: Option<(Index, u32)>) -> Watch<ElectionEvent> {
        Watch::new(self.handle.subscribe(after, Filter::All), read_event)
    }

    fn ask(&self, data: &[u8], wait_ms: Option<u64>) -> Reply<Option<Leadership<S>>> {
        let (request, data) = (self.handle.submit().unique(), data.to_vec());
        let asked = self.handle.command(&CampaignV1 { request, data, wait_ms });
        let held = acquire(&self.handle, request, 1, asked, ways());
        held.and_then(|held| Ok(held.map(|held| Leadership { held })))
    }
}

fn ways<S: Submit>() -> Ways<S> {
    Ways {
        cancel: |handle, request| handle.command(&CancelV1 { request }),
        release: |handle, grant| {
            let resigned = handle.command(&CancelV1 { request: grant.request });
            resigned.and_then(|answer| match answer.payload[..] {
                [2] => Ok(answer),
                _ => Err(Failure::new(Code::NOT_HOLDER, "this candidate did not lead any more")),
            })
        },
    }
}

pub(in super::super) fn read_event(delivery: Delivery) -> Result<ElectionEvent, Failure> {
    let (index, kind, payload) = match delivery {
        Delivery::Lagged { oldest } => return Ok(ElectionEvent::Lagged { oldest }),
        Delivery::Event { index, kind, payload, .. } => (index, kind, payload),
    };
    match (kind, EventPayload::decode(&payload)?.new) {
        (ELECTED, Some(value)) => {
            let mut reader = Reader::new(&value);
            let (term, candidate) = (index.0, reader.u64()?);
            Ok(ElectionEvent::Elected { term, candidate, data: reader.rest().to_vec() })
        }
        (VACANT, _) => Ok(ElectionEvent::Vacant),
        (DELETED, _) => Ok(ElectionEvent::Deleted),
        _ => Err(Failure::from(Code::BAD_PAYLOAD)),
    }
}

/// Being the leader. Dropping it resigns and does not wait for it: use [`Leadership::resign`] to
/// know.
///
/// It says nothing about the present: the session may have expired and somebody else lead. Give
/// [`Leadership::term`] to whatever the leader writes to, and stop when [`Leadership::lost`] tells.
#[must_use = "dropping it resigns"]
pub struct Leadership<S: Submit> {
    held: Arc<Held<S>>,
}

impl<S: Submit> Leadership<S> {
    /// The term: rises strictly, a fencing token.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.held.grant().token
    }

    /// Names the candidate.
    #[must_use]
    pub fn candidate(&self) -> u64 {
        self.held.grant().waiter.0
    }

    /// Resolves when somebody else may lead: evicted, replaced, resigned, or the session was not
    /// heard of for so long that it may have expired. Fails where the client was closed.
    pub fn lost(&self) -> Reply<()> {
        self.held.lost()
    }

    /// Resigns. Fails with [`Code::NOT_HOLDER`] where it did not lead any more.
    pub fn resign(self) -> Reply<()> {
        self.held.release()
    }
}
