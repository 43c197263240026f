//! The little that must survive besides the batches: the owner's opaque bytes (term and vote), how
//! far the log is durable, and where it begins. Four slots in one file: two pairs of two equal
//! copies.
//!
//! An update goes to the pair that is not current, so a torn one leaves the other pair; a rotten
//! copy leaves its twin. The newest readable slot counts; where opening finds it without its twin,
//! an update makes two of it again. Who decides to write is [`crate::log`]; here are the bytes and
//! the turn-taking.
//!
//! A hard state is a statement about one moment: `position` is where the next frame was to go, and
//! what it says about durability and about the log's end replaces everything that frames before
//! `position` say. While frames are on their way that are to supersede what was cut off, the moment
//! is that before the first of them: should they be lost, what was cut off is not to come back.

use crate::breaks;
use crate::buffer::Buffer;
use crate::error::{Error, FormatError, HARD_STATE_FILE};
use crate::format::{BLOCK, VERSION, close_block, head, put, recognise_block, u32_at, u64_at};
use crate::id::{
    BatchEnd, Chain, ClusterId, EntryId, GroupId, Incarnation, Index, Position, SegmentNumber,
    Term, Ticket,
};

/// Longest opaque part, in bytes.
pub const META_MAX: usize = 2048;
/// Size of the hard-state file, in bytes: two pairs of two slots.
pub const HARD_STATE_BYTES: usize = 4 * BLOCK;
/// Size of a pair of slots, in bytes.
pub const PAIR_BYTES: usize = 2 * BLOCK;

const MAGIC: [u8; 4] = *b"MGYH";
const META_AT: usize = 136;
const _: () = assert!(META_AT + META_MAX <= BLOCK - 4);

/// One slot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// The life of the data directory.
    pub incarnation: Incarnation,
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// See [`crate::format::SegmentHeader::salt`].
    pub salt: u32,
    /// Number of this update, rising from 1.
    pub update: u64,
    /// The log was durable up to here.
    pub durable: BatchEnd,
    /// Where the next frame was to go, or the first of those on their way.
    pub position: Position,
    /// The log's last index before that frame, durable or not.
    pub end: Index,
    /// What the log begins behind.
    pub start: BatchEnd,
    /// Frames before this place are no longer part of the log.
    pub from: Position,
    /// Damage was found and is repaired once the log is durable up to here; 0 without damage.
    pub repair: Index,
    /// The owner's bytes.
    pub meta: Vec<u8>,
}

impl HardState {
    /// Reads a slot from the front of `bytes`.
    ///
    /// # Errors
    /// What is wrong with it first.
    pub fn decode(bytes: &[u8]) -> Result<HardState, FormatError> {
        let bytes = head::<BLOCK>(bytes)?;
        recognise_block(bytes, MAGIC)?;
        let position = |at| Position {
            segment: SegmentNumber(u64_at(bytes, at)),
            offset: u64_at(bytes, at + 8),
        };
        let end = |at| BatchEnd {
            id: EntryId::new(Term(u64_at(bytes, at)), Index(u64_at(bytes, at + 8))),
            chain: Chain(u32_at(bytes, at + 16)),
        };
        let length = u32_at(bytes, 108);
        if length as usize > META_MAX {
            return Err(FormatError::Length { length });
        }
        // Numbers no log comes to; beyond them, arithmetic would need care everywhere.
        let is_far = |at| u64_at(bytes, at) > u64::MAX / 2;
        if [32, 64, 72, 96, 112, 120].into_iter().any(is_far) {
            return Err(FormatError::Reserved);
        }
        Ok(HardState {
            incarnation: Incarnation(u64_at(bytes, 8)),
            cluster: ClusterId(u64_at(bytes, 16)),
            group: GroupId(u32_at(bytes, 24)),
            salt: u32_at(bytes, 28),
            update: u64_at(bytes, 32),
            durable: end(40),
            position: position(64),
            end: Index(u64_at(bytes, 80)),
            start: end(88),
            from: position(112),
            repair: Index(u64_at(bytes, 128)),
            meta: bytes[META_AT..META_AT + length as usize].to_vec(),
        })
    }

    /// Writes the slot to the front of `block`.
    ///
    /// # Panics
    /// If `block` is shorter than a block, or `meta` longer than [`META_MAX`].
    pub fn encode(&self, block: &mut [u8]) {
        assert!(self.meta.len() <= META_MAX);
        let block = &mut block[..BLOCK];
        block.fill(0);
        put(block, 0, MAGIC);
        put(block, 4, VERSION.to_le_bytes());
        put(block, 8, self.incarnation.0.to_le_bytes());
        put(block, 16, self.cluster.0.to_le_bytes());
        put(block, 24, self.group.0.to_le_bytes());
        put(block, 28, self.salt.to_le_bytes());
        put(block, 32, self.update.to_le_bytes());
        put_end(block, 40, &self.durable);
        put_position(block, 64, self.position);
        put(block, 80, self.end.0.to_le_bytes());
        put_end(block, 88, &self.start);
        put(block, 108, (self.meta.len() as u32).to_le_bytes());
        put_position(block, 112, self.from);
        put(block, 128, self.repair.0.to_le_bytes());
        block[META_AT..META_AT + self.meta.len()].copy_from_slice(&self.meta);
        close_block(block);
    }

    /// Both copies of a pair.
    #[must_use]
    pub fn encode_pair(&self) -> Buffer {
        let mut pair = Buffer::zeroed(PAIR_BYTES);
        self.encode(&mut pair[..BLOCK]);
        self.encode(&mut pair[BLOCK..]);
        pair
    }

    /// The whole file of a new log: this update in pair 0, nothing in pair 1.
    #[must_use]
    pub fn encode_file(&self) -> Buffer {
        let mut file = Buffer::zeroed(HARD_STATE_BYTES);
        self.encode(&mut file[..BLOCK]);
        self.encode(&mut file[BLOCK..PAIR_BYTES]);
        file
    }

    /// The newest readable of the slots in `file`.
    ///
    /// # Errors
    /// If none is readable, or one is of a newer version.
    pub fn newest(file: &[u8]) -> Result<Newest, Error> {
        let mut newest: Option<Newest> = None;
        let mut foreign = true;
        for (slot, bytes) in file.chunks(BLOCK).take(4).enumerate() {
            let pair = slot as u8 / 2;
            match HardState::decode(bytes) {
                Ok(_) if breaks::ONE_SLOT.on() && slot % 2 == 1 => {}
                Ok(state) => match &mut newest {
                    Some(best) if best.state.update >= state.update => {
                        best.has_twin |= best.pair == pair && best.state == state;
                    }
                    _ => newest = Some(Newest { state, pair, has_twin: false }),
                },
                Err(FormatError::Version { found }) => {
                    return Err(Error::Newer { file: HARD_STATE_FILE.to_owned(), found });
                }
                Err(FormatError::Magic) => foreign &= bytes.iter().any(|&byte| byte != 0),
                Err(_) => foreign = false,
            }
        }
        match newest {
            Some(found) => Ok(found),
            None if foreign => Err(Error::Foreign { file: HARD_STATE_FILE.to_owned() }),
            None => Err(Error::HardStateUnreadable),
        }
    }
}

/// The newest hard state that could be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Newest {
    /// What it says.
    pub state: HardState,
    /// Which pair it is of, 0 or 1.
    pub pair: u8,
    /// Its other copy is there too: whichever rots, the other is left.
    pub has_twin: bool,
}

fn put_end(block: &mut [u8], at: usize, end: &BatchEnd) {
    put(block, at, end.id.term.0.to_le_bytes());
    put(block, at + 8, end.id.index.0.to_le_bytes());
    put(block, at + 16, end.chain.0.to_le_bytes());
}

fn put_position(block: &mut [u8], at: usize, position: Position) {
    put(block, at, position.segment.0.to_le_bytes());
    put(block, at + 8, position.offset.to_le_bytes());
}

/// Whose turn it is: one update in flight, later requests merge into the next one.
#[derive(Debug)]
pub(crate) struct Updates {
    /// Number of the last update begun.
    begun: u64,
    /// Number of the last update known durable.
    durable: u64,
    /// The pair the next update goes to.
    pair: u8,
    in_flight: Option<Ticket>,
    wanted: Option<Ticket>,
}

impl Updates {
    /// `update` is on disk, in `pair`.
    pub(crate) fn new(update: u64, pair: u8) -> Updates {
        assert!(pair < 2);
        Updates { begun: update, durable: update, pair: 1 - pair, in_flight: None, wanted: None }
    }

    /// The newest update known durable.
    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// Nothing is under way or waiting.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.wanted.is_none()
    }

    /// Whatever is current at the next `begin` must become durable under `ticket`.
    pub(crate) fn want(&mut self, ticket: Ticket) {
        assert!(self.wanted.is_none_or(|earlier| earlier < ticket));
        self.wanted = Some(ticket);
    }

    /// The next update to write, if one is wanted and none in flight: its ticket, number and pair.
    pub(crate) fn begin(&mut self) -> Option<(Ticket, u64, u8)> {
        if self.in_flight.is_some() {
            return None;
        }
        let ticket = self.wanted.take()?;
        self.begun += 1;
        self.in_flight = Some(ticket);
        Some((ticket, self.begun, self.pair))
    }

    /// The update of `ticket` is durable. False if it is not the one in flight.
    pub(crate) fn finish(&mut self, ticket: Ticket) -> bool {
        if self.in_flight != Some(ticket) {
            return false;
        }
        self.in_flight = None;
        self.durable = self.begun;
        self.pair = 1 - self.pair;
        true
    }
}
