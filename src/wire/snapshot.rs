//! Snapshots on their way from node to node: a piece of the file, and how much of it has come.

use margay_log::id::{Chain, EntryId, Index, Term};

use super::fields::{Block, Fields};
use super::{Error, Frame, HEADER, Kind, encode};

/// Largest piece of a snapshot in one frame, in bytes: whole blocks, so that it is written as it
/// came.
pub const PIECE_MAX: usize = 256 << 10;
const BLOCK: u64 = 4096;
const _: () = assert!(PIECE_MAX + HEADER + 64 <= super::FRAME_MAX);
const _: () = assert!(PIECE_MAX.is_multiple_of(BLOCK as usize));

/// Which file of which snapshot: equal for equal files, whoever made them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotId {
    /// The last entry it contains.
    pub end: EntryId,
    /// The chain of the log up to there.
    pub chain: Chain,
    /// The digest in its header.
    pub digest: u32,
}

/// A piece of a snapshot's file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotPiece<'a> {
    /// The sender's term: in it, or before, the snapshot's end was committed.
    pub term: Term,
    /// The snapshot.
    pub id: SnapshotId,
    /// Bytes of the whole file.
    pub length: u64,
    /// Where this piece begins.
    pub offset: u64,
    /// Whole blocks of it.
    pub bytes: &'a [u8],
}

/// What became of a snapshot that is being brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotState {
    /// Everything before the offset has come; go on there.
    Wanted,
    /// It is installed here, or nothing of it is needed.
    Held,
    /// What came is not a snapshot this node can use.
    Refused,
}

/// Answer to a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotAck {
    /// The sender's term.
    pub term: Term,
    /// The snapshot.
    pub id: SnapshotId,
    /// Where the next piece must begin.
    pub offset: u64,
    /// What became of it.
    pub state: SnapshotState,
}

fn put_id(block: Block<48>, id: &SnapshotId) -> Block<48> {
    block.u64(id.end.term.0).u32(id.chain.0).u32(id.digest)
}

fn take_id(fields: &mut Fields<'_>, index: u64) -> Result<SnapshotId, Error> {
    let term = Term(fields.u64()?);
    let (chain, digest) = (Chain(fields.u32()?), fields.u32()?);
    Ok(SnapshotId { end: EntryId::new(term, Index(index)), chain, digest })
}

impl SnapshotPiece<'_> {
    /// Appends the frame to `out`.
    ///
    /// # Panics
    /// When the piece is larger than [`PIECE_MAX`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.bytes.len() <= PIECE_MAX);
        let block = put_id(Block::<48>::new(), &self.id).u64(self.length).u64(self.offset).done();
        let (term, index) = (self.term.0, self.id.end.index.0);
        encode(out, Kind::SnapshotPiece, 0, term, index, &[&block, self.bytes]);
    }
}

impl<'a> SnapshotPiece<'a> {
    /// Reads a piece from a frame.
    ///
    /// # Errors
    /// When no node of this version sends that.
    pub fn decode(frame: &Frame<'a>) -> Result<SnapshotPiece<'a>, Error> {
        let mut fields = Fields::new(frame.kind, frame.body);
        let id = take_id(&mut fields, frame.b)?;
        let (length, offset) = (fields.u64()?, fields.u64()?);
        fields.zeros::<16>()?;
        let whole = |bytes: u64| bytes.is_multiple_of(BLOCK);
        let left = fields.left() as u64;
        if frame.flags != 0 || left == 0 || left > PIECE_MAX as u64 || !whole(left) {
            return Err(fields.error("not whole blocks"));
        }
        let end = offset.checked_add(left);
        if !whole(offset) || !whole(length) || end.is_none_or(|end| end > length) {
            return Err(fields.error("a piece outside its file"));
        }
        Ok(SnapshotPiece { term: Term(frame.a), id, length, offset, bytes: fields.rest() })
    }
}

impl SnapshotAck {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let state = match self.state {
            SnapshotState::Wanted => 0,
            SnapshotState::Held => 1,
            SnapshotState::Refused => 2,
        };
        let block = put_id(Block::<48>::new(), &self.id).u64(self.offset).u8(state).done();
        encode(out, Kind::SnapshotAck, 0, self.term.0, self.id.end.index.0, &[&block]);
    }

    /// Reads an answer from a frame.
    ///
    /// # Errors
    /// When no node of this version sends that.
    pub fn decode(frame: &Frame<'_>) -> Result<SnapshotAck, Error> {
        let mut fields = Fields::new(frame.kind, frame.body);
        let id = take_id(&mut fields, frame.b)?;
        let offset = fields.u64()?;
        let state = match fields.u8()? {
            0 => SnapshotState::Wanted,
            1 => SnapshotState::Held,
            2 => SnapshotState::Refused,
            _ => return Err(fields.error("unknown state")),
        };
        fields.zeros::<23>()?;
        if frame.flags != 0 {
            return Err(fields.error("unknown flags"));
        }
        fields.end()?;
        Ok(SnapshotAck { term: Term(frame.a), id, offset, state })
    }
}
