//! Following a log: what is there, then what comes, without a gap between the two.
//!
//! Pages are read until one ends with the log; from what that answer has seen on, events bring the
//! rest. Where events were missed, pages are read again. Positions have no gaps, so nothing can be
//! left out unnoticed.

use super::handle::{read_page, read_status};
use super::{APPENDED, Log, Record};
use crate::machine::bytes::Reader;
use crate::machine::{Code, EventPayload, Filter, LogTime};
use crate::resource::registry::DELETED;
use crate::resource::{Answer, Delivery, Failure, Reply, Submit, Subscription, reply};
use futures_core::Stream;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// The records of a log in order, each once, also over new connections, leaders and sessions: a
/// stream, or [`Follow::next`], or [`Follow::wait_next`] for threads. It waits for records to come,
/// and for a leader, as long as it takes.
///
/// It ends with a failure: [`Code::TRIMMED`] where the next record is not kept any more,
/// [`Code::NO_SUCH_RESOURCE`] where the log was deleted. Nothing is left out silently:
/// [`Follow::position`] says where to go on.
pub struct Follow<S> {
    log: Log<S>,
    /// The position of the record after those in `ready`.
    next: u64,
    /// Records that have come and were not taken.
    ready: VecDeque<Record>,
    stage: Stage,
}

enum Stage {
    /// Asked where the log ends.
    Ending(Reply<Answer>),
    /// Asked for the page at `next`.
    Reading(Reply<Answer>),
    /// Hears of what is appended.
    Live(Subscription),
    /// Has told its end, or is about to.
    Over(Option<Failure>),
}

impl<S> fmt::Debug for Follow<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Ending(_) | Stage::Reading(_) => "reading",
            Stage::Live(_) => "live",
            Stage::Over(_) => "over",
        };
        let mut shown = f.debug_struct("Follow");
        shown.field("position", &self.position()).field("stage", &stage).finish_non_exhaustive()
    }
}

impl<S> Follow<S> {
    /// The position of the record that comes next; 0 while that is not known yet.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.ready.front().map_or(self.next, |record| record.position)
    }
}

impl<S: Submit> Follow<S> {
    pub(super) fn new(log: Log<S>, from: Option<u64>) -> Follow<S> {
        let stage = match from {
            Some(from) => Stage::Reading(log.ask(from, 0)),
            None => Stage::Ending(log.ask_status()),
        };
        Follow { log, next: from.unwrap_or(0), ready: VecDeque::new(), stage }
    }

    /// The next record.
    ///
    /// # Errors
    /// The reason why there will be none.
    #[expect(clippy::should_implement_trait, reason = "a stream has this method, too")]
    pub fn next(&mut self) -> impl Future<Output = Result<Record, Failure>> {
        std::future::poll_fn(|context| self.poll_record(context))
    }

    /// Blocks the thread until the next record.
    ///
    /// # Errors
    /// The reason why there will be none.
    pub fn wait_next(&mut self) -> Result<Record, Failure> {
        reply::wait(self.next())
    }

    /// A record that is there already, without waiting for anything.
    pub fn try_next(&mut self) -> Option<Result<Record, Failure>> {
        match self.poll_record(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(next) => Some(next),
            Poll::Pending => None,
        }
    }

    fn poll_record(&mut self, context: &mut Context<'_>) -> Poll<Result<Record, Failure>> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Poll::Ready(Ok(record));
            }
            let went_on = match &mut self.stage {
                Stage::Ending(reply) | Stage::Reading(reply) => {
                    let Poll::Ready(answer) = Pin::new(reply).poll(context) else {
                        return Poll::Pending;
                    };
                    self.on_answer(answer)
                }
                Stage::Live(events) => match events.poll_next(context) {
                    Poll::Ready(Ok(delivery)) => self.on_delivery(delivery),
                    Poll::Ready(Err(failure)) if is_passing(failure.code) => {
                        self.read_on();
                        Ok(())
                    }
                    Poll::Ready(Err(failure)) => Err(failure),
                    Poll::Pending => return Poll::Pending,
                },
                Stage::Over(failure) => {
                    let over = || Failure::new(Code::CLIENT_CLOSED, "following has ended");
                    return Poll::Ready(Err(failure.take().unwrap_or_else(over)));
                }
            };
            if let Err(failure) = went_on {
                self.stage = Stage::Over(Some(failure));
            }
        }
    }

    fn on_answer(&mut self, answer: Result<Answer, Failure>) -> Result<(), Failure> {
        let is_ending = matches!(self.stage, Stage::Ending(_));
        let answer = match answer {
            Ok(answer) => answer,
            // It has been asked for as long as an operation may take.
            Err(failure) if is_passing(failure.code) => {
                match is_ending {
                    true => self.stage = Stage::Ending(self.log.ask_status()),
                    false => self.read_on(),
                }
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        let mut ends_here = is_ending;
        if is_ending {
            self.next = read_status(&answer)?.next;
        } else {
            let page = read_page(&answer)?;
            ends_here = page.go_on().is_none();
            if let Some(last) = page.records.last() {
                self.next = last.position + 1;
            } else if self.next == 0 {
                self.next = page.next;
            }
            self.ready.extend(page.records);
        }
        match ends_here {
            true => {
                let after = Some((answer.index, u32::MAX));
                self.stage = Stage::Live(self.log.handle().subscribe(after, Filter::All));
            }
            false => self.read_on(),
        }
        Ok(())
    }

    fn read_on(&mut self) {
        self.stage = Stage::Reading(self.log.ask(self.next, 0));
    }

    fn on_delivery(&mut self, delivery: Delivery) -> Result<(), Failure> {
        let record = match delivery {
            Delivery::Event { kind: APPENDED, payload, .. } => read_event(&payload)?,
            Delivery::Event { kind: DELETED, .. } => {
                return Err(Failure::from(Code::NO_SUCH_RESOURCE));
            }
            Delivery::Event { .. } => return Ok(()),
            Delivery::Lagged { .. } => {
                self.read_on();
                return Ok(());
            }
        };
        match record.position {
            position if position == self.next => {
                self.next += 1;
                self.ready.push_back(record);
            }
            position if position > self.next => self.read_on(),
            _ => {}
        }
        Ok(())
    }
}

/// Whether a failure says nothing about the log, only that nobody answered in time, or that the
/// session is another now. A client that is closed says so.
fn is_passing(code: Code) -> bool {
    const PASSING: [Code; 6] = [
        Code::TIMEOUT,
        Code::NO_LEADER,
        Code::NOT_LEADER,
        Code::NOT_READY,
        Code::LEADER_CHANGED,
        Code::SESSION_EXPIRED,
    ];
    PASSING.contains(&code)
}

fn read_event(payload: &[u8]) -> Result<Record, Failure> {
    let payload = EventPayload::decode(payload)?;
    let (Some(key), Some(bytes)) = (payload.key, payload.new) else {
        return Err(Failure::from(Code::BAD_PAYLOAD));
    };
    let mut reader = Reader::new(&key);
    let position = u64::from_be_bytes(reader.array()?);
    let time = LogTime(u64::from_be_bytes(reader.array()?));
    Ok(Record { position, time, bytes })
}

impl<S> Unpin for Follow<S> {}

/// After a failure it is over.
impl<S: Submit> Stream for Follow<S> {
    type Item = Result<Record, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if matches!(self.stage, Stage::Over(None)) && self.ready.is_empty() {
            return Poll::Ready(None);
        }
        self.poll_record(context).map(Some)
    }
}
