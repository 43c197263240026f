//! What replicas ask each other to find and mend damage: a batch that one of them has lost, and the
//! chain of a log up to an index, which anybody may ask for.

use margay_log::id::{BatchEnd, Chain, EntryId, Index, Term};

use super::fields::{Block, Fields};
use super::peer::{BATCH_LENGTH_MAX, BATCH_LENGTH_MIN};
use super::{Error, Frame, Kind, encode};

/// Who has this batch? Or, without a first index: who has a snapshot up to `end` or further?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RepairRequest {
    /// The sender's term.
    pub term: Term,
    /// The first index of the batch; zero for a snapshot.
    pub first: Index,
    /// Its end, and the chain there.
    pub end: BatchEnd,
}

/// Here it is: the sealed batch follows the frame, verbatim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RepairReply {
    /// The sender's term.
    pub term: Term,
    /// The first index of the batch.
    pub first: Index,
    /// Bytes of the batch.
    pub batch_length: u32,
}

/// What is the chain of your log at the last batch end up to `index`?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainQuery {
    /// Names the question in its answer.
    pub id: u64,
    /// Not beyond this index, nor beyond what is committed and durable.
    pub index: Index,
}

/// The end of a batch of this log, and what it begins behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainReply {
    /// The question.
    pub id: u64,
    /// The batch end found; what the log begins behind, where that is beyond the index asked for.
    pub end: BatchEnd,
    /// What the log begins behind.
    pub start: Index,
    /// Batches that this node knows it cannot read.
    pub damaged: u32,
}

fn take_end(fields: &mut Fields<'_>) -> Result<BatchEnd, Error> {
    let (term, index) = (Term(fields.u64()?), Index(fields.u64()?));
    Ok(BatchEnd { id: EntryId::new(term, index), chain: Chain(fields.u32()?) })
}

impl RepairRequest {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let BatchEnd { id, chain } = self.end;
        let block = Block::<32>::new().u64(id.term.0).u64(id.index.0).u32(chain.0).done();
        encode(out, Kind::RepairRequest, 0, self.term.0, self.first.0, &[&block]);
    }

    /// Reads a request from a frame.
    ///
    /// # Errors
    /// When no node of this version sends that.
    pub fn decode(frame: &Frame<'_>) -> Result<RepairRequest, Error> {
        let mut fields = Fields::new(frame.kind, frame.body);
        let end = take_end(&mut fields)?;
        fields.zeros::<12>()?;
        if frame.flags != 0 || frame.b > end.id.index.0 {
            return Err(fields.error("a batch that ends before it begins"));
        }
        fields.end()?;
        Ok(RepairRequest { term: Term(frame.a), first: Index(frame.b), end })
    }
}

impl RepairReply {
    /// Appends the frame to `out`; the batch goes behind it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let block = Block::<16>::new().u32(self.batch_length).done();
        encode(out, Kind::RepairReply, 0, self.term.0, self.first.0, &[&block]);
    }

    /// Reads a reply from a frame.
    ///
    /// # Errors
    /// When no node of this version sends that.
    pub fn decode(frame: &Frame<'_>) -> Result<RepairReply, Error> {
        let mut fields = Fields::new(frame.kind, frame.body);
        let batch_length = fields.u32()?;
        fields.zeros::<12>()?;
        let possible = (BATCH_LENGTH_MIN..=BATCH_LENGTH_MAX).contains(&batch_length);
        if frame.flags != 0 || !possible || !batch_length.is_multiple_of(16) {
            return Err(fields.error("impossible batch length"));
        }
        fields.end()?;
        Ok(RepairReply { term: Term(frame.a), first: Index(frame.b), batch_length })
    }
}

impl ChainQuery {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode(out, Kind::ChainQuery, 0, self.id, self.index.0, &[]);
    }

    /// Reads a question from a frame.
    ///
    /// # Errors
    /// When nobody of this version sends that.
    pub fn decode(frame: &Frame<'_>) -> Result<ChainQuery, Error> {
        let fields = Fields::new(frame.kind, frame.body);
        if frame.flags != 0 {
            return Err(fields.error("unknown flags"));
        }
        fields.end()?;
        Ok(ChainQuery { id: frame.a, index: Index(frame.b) })
    }
}

impl ChainReply {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let BatchEnd { id, chain } = self.end;
        let block = Block::<32>::new().u64(id.term.0).u64(self.start.0);
        let block = block.u32(chain.0).u32(self.damaged).done();
        encode(out, Kind::ChainReply, 0, self.id, id.index.0, &[&block]);
    }

    /// Reads an answer from a frame.
    ///
    /// # Errors
    /// When no node of this version sends that.
    pub fn decode(frame: &Frame<'_>) -> Result<ChainReply, Error> {
        let mut fields = Fields::new(frame.kind, frame.body);
        let (term, start) = (Term(fields.u64()?), Index(fields.u64()?));
        let (chain, damaged) = (Chain(fields.u32()?), fields.u32()?);
        fields.zeros::<8>()?;
        if frame.flags != 0 {
            return Err(fields.error("unknown flags"));
        }
        fields.end()?;
        let end = BatchEnd { id: EntryId::new(term, Index(frame.b)), chain };
        Ok(ChainReply { id: frame.a, end, start, damaged })
    }
}
