//! What nodes say to each other about one group: the core's messages, in one frame each.
//!
//! A batch that travels with an append is not part of the frame: its sealed bytes follow the frame
//! verbatim, so that they are received straight into their aligned place. They check themselves.

use margay_log::id::{Chain, EntryId, Index, Term};

use super::fields::{Block, Fields};
use super::{Error, Frame, Kind, encode};
use crate::raft::message::{Body, Message, Round};

/// Largest batch that may follow a frame, in bytes: whatever a log may seal.
pub const BATCH_LENGTH_MAX: u32 = margay_log::format::LENGTH_MAX;

/// Smallest: a batch header and one entry header.
pub(super) const BATCH_LENGTH_MIN: u32 = 64 + 48;

/// A vote is granted; one is asked for because the leader hands over; an append is followed by a
/// batch.
const FLAG: u8 = 1;

/// A message of the core with what the wire adds to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerMessage {
    /// What is said.
    pub message: Message,
    /// In `Append`, the sender's chain at `prev`; in `AppendAck`, the one at `matched`. Not sent
    /// with others.
    pub chain: Chain,
    /// Bytes of the sealed batch that follow the frame; 0 without one.
    pub batch_length: u32,
}

impl PeerMessage {
    /// Appends the frame to `out`; the batch goes behind it.
    ///
    /// # Panics
    /// When `batch_length` and the message do not agree on whether a batch follows.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let term = self.message.term.0;
        let batch_follows = matches!(self.message.body, Body::Append { batch: Some(_), .. });
        assert_eq!(batch_follows, self.batch_length > 0, "batch of {} bytes", self.batch_length);
        match &self.message.body {
            Body::PreVote { last } => encode(out, Kind::PreVote, 0, term, 0, &[&entry(*last)]),
            Body::Vote { last, handed_over } => {
                encode(out, Kind::Vote, u8::from(*handed_over), term, 0, &[&entry(*last)]);
            }
            Body::PreVoteReply { granted } => {
                encode(out, Kind::PreVoteReply, u8::from(*granted), term, 0, &[]);
            }
            Body::VoteReply { granted } => {
                encode(out, Kind::VoteReply, u8::from(*granted), term, 0, &[]);
            }
            Body::Append { prev, batch, commit, round } => {
                let last = batch.unwrap_or(EntryId::ZERO);
                let block = Block::<48>::new().put(entry(*prev)).put(entry(last)).u64(round.0);
                let block = block.u32(self.batch_length).u32(self.chain.0).done();
                encode(out, Kind::Append, u8::from(batch.is_some()), term, commit.0, &[&block]);
            }
            Body::AppendAck { matched, round } => {
                let block = Block::<16>::new().u64(round.0).u32(self.chain.0).done();
                encode(out, Kind::AppendAck, 0, term, matched.0, &[&block]);
            }
            Body::AppendReject { prev, hint, round } => {
                let block = Block::<32>::new().put(entry(*hint)).u64(round.0).done();
                encode(out, Kind::AppendReject, 0, term, prev.0, &[&block]);
            }
            Body::TimeoutNow => encode(out, Kind::TimeoutNow, 0, term, 0, &[]),
        }
    }

    /// Reads a message from a frame.
    ///
    /// # Errors
    /// When the frame is not a message a node of this version can send.
    pub fn decode(frame: &Frame<'_>) -> Result<PeerMessage, Error> {
        let Frame { kind, flags, a, b, body } = *frame;
        let mut fields = Fields::new(kind, body);
        let flagged = match kind {
            Kind::PreVoteReply | Kind::Vote | Kind::VoteReply | Kind::Append => FLAG,
            _ => 0,
        };
        let numbered = matches!(kind, Kind::Append | Kind::AppendAck | Kind::AppendReject);
        if flags & !flagged != 0 || (!numbered && b != 0) {
            return Err(fields.error("unknown flags"));
        }
        let (mut chain, mut batch_length) = (Chain(0), 0);
        let body = match kind {
            Kind::PreVote => Body::PreVote { last: take_entry(&mut fields)? },
            Kind::Vote => Body::Vote { last: take_entry(&mut fields)?, handed_over: flags == FLAG },
            Kind::PreVoteReply => Body::PreVoteReply { granted: flags == FLAG },
            Kind::VoteReply => Body::VoteReply { granted: flags == FLAG },
            Kind::Append => {
                let (prev, last) = (take_entry(&mut fields)?, take_entry(&mut fields)?);
                let round = Round(fields.u64()?);
                (batch_length, chain) = (fields.u32()?, Chain(fields.u32()?));
                let batch = (flags == FLAG).then_some(last);
                check_batch(&fields, prev, last, batch.is_some(), batch_length)?;
                Body::Append { prev, batch, commit: Index(b), round }
            }
            Kind::AppendAck => {
                let round = Round(fields.u64()?);
                chain = Chain(fields.u32()?);
                fields.zeros::<4>()?;
                Body::AppendAck { matched: Index(b), round }
            }
            Kind::AppendReject => {
                let hint = take_entry(&mut fields)?;
                let round = Round(fields.u64()?);
                fields.zeros::<8>()?;
                Body::AppendReject { prev: Index(b), hint, round }
            }
            Kind::TimeoutNow => Body::TimeoutNow,
            _ => return Err(fields.error("not a peer message")),
        };
        fields.end()?;
        Ok(PeerMessage { message: Message { term: Term(a), body }, chain, batch_length })
    }
}

/// The three places that speak of a batch must agree, before a buffer of that length is taken for
/// it.
fn check_batch(
    fields: &Fields<'_>,
    prev: EntryId,
    last: EntryId,
    follows: bool,
    length: u32,
) -> Result<(), Error> {
    if !follows {
        let nothing = last == EntryId::ZERO && length == 0;
        return if nothing { Ok(()) } else { Err(fields.error("a batch without its flag")) };
    }
    if !(BATCH_LENGTH_MIN..=BATCH_LENGTH_MAX).contains(&length) || !length.is_multiple_of(16) {
        return Err(fields.error("impossible batch length"));
    }
    if last.index <= prev.index {
        Err(fields.error("a batch that ends before it begins"))
    } else {
        Ok(())
    }
}

fn entry(id: EntryId) -> [u8; 16] {
    Block::<16>::new().u64(id.term.0).u64(id.index.0).done()
}

fn take_entry(fields: &mut Fields<'_>) -> Result<EntryId, Error> {
    Ok(EntryId::new(Term(fields.u64()?), Index(fields.u64()?)))
}
