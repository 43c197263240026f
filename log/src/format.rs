//! Headers to bytes and back, by hand, little-endian. Every byte of the format is decided in this
//! file and in [`crate::hard_state`].
//!
//! *Batch and entry headers* are shared: the same bytes on the wire, in memory and on every node's
//! disk. *Frame and segment headers* are a node's own and never sent. Nothing here reads or writes
//! anything.
//!
//! Invariants: what `encode` writes `decode` accepts; `decode` never panics and checks magic,
//! version, checksum, then content, in this order.

use crate::error::FormatError;
use crate::id::{
    Chain, ClusterId, EntryId, GroupId, Incarnation, Index, Position, SegmentNumber, Term,
};

/// Unit of all disk I/O, in bytes: offsets, lengths and addresses are multiples of it.
pub const BLOCK: usize = 4096;
/// What a device writes or does not write as a whole, in bytes.
pub const SECTOR: usize = 512;
/// A batch that has reached this many bytes takes no more entries.
pub const BATCH_MAX: u32 = 1 << 20;
/// Largest payload of one entry, in bytes: a value of 1 MiB and what describes it.
pub const PAYLOAD_MAX: u32 = (1 << 20) + (64 << 10);
/// Largest batch, header included: a batch just under [`BATCH_MAX`] and one largest entry.
pub const LENGTH_MAX: u32 = BATCH_MAX + ENTRY_HEADER as u32 + PAYLOAD_MAX;
/// Size of a [`BatchHeader`], in bytes.
pub const BATCH_HEADER: usize = 64;
/// Size of an [`EntryHeader`], in bytes.
pub const ENTRY_HEADER: usize = 48;
/// Size of a [`Frame`], in bytes.
pub const FRAME: usize = 64;
/// Entries begin and end on multiples of this, so that a payload is aligned in place.
pub const ALIGN: usize = 16;
/// The format written by this version.
pub const VERSION: u16 = 1;

const BATCH_MAGIC: [u8; 4] = *b"MGYB";
const FRAME_MAGIC: [u8; 4] = *b"MGYF";
const SEGMENT_MAGIC: [u8; 4] = *b"MGYS";

const _: () = assert!(BATCH_HEADER.is_multiple_of(ALIGN) && ENTRY_HEADER.is_multiple_of(ALIGN));
const _: () = assert!(FRAME.is_multiple_of(ALIGN) && BLOCK.is_multiple_of(SECTOR));
const _: () = assert!((PAYLOAD_MAX as usize).is_multiple_of(ALIGN));
const _: () = assert!(FRAME + BATCH_HEADER + ENTRY_HEADER <= SECTOR);

/// What stands in front of every batch, sealed once by the leader of its term.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// The cluster; zero for a log used alone.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// Number of entries, at least 1.
    pub count: u32,
    /// The term of all entries.
    pub term: Term,
    /// Index of the first entry, at least 1.
    pub first: Index,
    /// The log's own time, in microseconds; opaque here.
    pub log_time: u64,
    /// Bytes of header and body: a multiple of 16, at most [`LENGTH_MAX`].
    pub length: u32,
    /// CRC-32C of the body.
    pub body_crc: u32,
    /// CRC-32C over the predecessor's chain and this header up to here: the log so far in 32 bits.
    pub chain: Chain,
}

impl BatchHeader {
    /// Reads a header from the front of `bytes`.
    ///
    /// # Errors
    /// What is wrong with it first, in the order magic, version, checksum, content.
    pub fn decode(bytes: &[u8]) -> Result<BatchHeader, FormatError> {
        let bytes = head::<BATCH_HEADER>(bytes)?;
        recognise(bytes, BATCH_MAGIC)?;
        if crc32c::crc32c(&bytes[..60]) != u32_at(bytes, 60) {
            return Err(FormatError::HeaderCrc);
        }
        let header = BatchHeader {
            cluster: ClusterId(u64_at(bytes, 8)),
            group: GroupId(u32_at(bytes, 16)),
            count: u32_at(bytes, 20),
            term: Term(u64_at(bytes, 24)),
            first: Index(u64_at(bytes, 32)),
            log_time: u64_at(bytes, 40),
            length: u32_at(bytes, 48),
            body_crc: u32_at(bytes, 52),
            chain: Chain(u32_at(bytes, 56)),
        };
        let Some(body) = (header.length as usize).checked_sub(BATCH_HEADER) else {
            return Err(FormatError::Length { length: header.length });
        };
        if header.length > LENGTH_MAX || !body.is_multiple_of(ALIGN) {
            return Err(FormatError::Length { length: header.length });
        }
        if header.count == 0 || header.count as usize > body / ENTRY_HEADER {
            return Err(FormatError::Count { count: header.count });
        }
        if header.first == Index::ZERO || header.first.forward(u64::from(header.count)).is_none() {
            return Err(FormatError::Index { first: header.first });
        }
        if u16_at(bytes, 6) != 0 { Err(FormatError::Reserved) } else { Ok(header) }
    }

    /// The bytes of this header, as sealed.
    #[must_use]
    pub fn encode(&self) -> [u8; BATCH_HEADER] {
        let mut bytes = [0; BATCH_HEADER];
        put(&mut bytes, 0, BATCH_MAGIC);
        put(&mut bytes, 4, VERSION.to_le_bytes());
        put(&mut bytes, 8, self.cluster.0.to_le_bytes());
        put(&mut bytes, 16, self.group.0.to_le_bytes());
        put(&mut bytes, 20, self.count.to_le_bytes());
        put(&mut bytes, 24, self.term.0.to_le_bytes());
        put(&mut bytes, 32, self.first.0.to_le_bytes());
        put(&mut bytes, 40, self.log_time.to_le_bytes());
        put(&mut bytes, 48, self.length.to_le_bytes());
        put(&mut bytes, 52, self.body_crc.to_le_bytes());
        put(&mut bytes, 56, self.chain.0.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        put(&mut bytes, 60, crc.to_le_bytes());
        bytes
    }

    /// The chain this batch has behind a log that ends in `previous`.
    #[must_use]
    pub fn chain_behind(&self, previous: Chain) -> Chain {
        let crc = crc32c::crc32c(&previous.0.to_le_bytes());
        Chain(crc32c::crc32c_append(crc, &self.encode()[..56]))
    }

    /// Whether the batch was sealed on a log that ended in `previous`.
    #[must_use]
    pub fn follows(&self, previous: Chain) -> bool {
        self.chain == self.chain_behind(previous)
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> EntryId {
        EntryId::new(self.term, Index(self.first.prev().0.saturating_add(u64::from(self.count))))
    }

    /// The index before the first entry.
    #[must_use]
    pub fn prev(&self) -> Index {
        self.first.prev()
    }
}

/// What stands in front of every entry. Of its fields the log itself uses only the length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EntryHeader {
    /// Bytes of payload, without padding. Filled in by the log when an entry is pushed.
    pub length: u32,
    /// What the payload is.
    pub kind: u8,
    /// Reserved for the machine.
    pub flags: u8,
    /// Version of the payload's layout.
    pub schema: u16,
    /// The resource it is for.
    pub resource: u64,
    /// The session it came from.
    pub session: u64,
    /// Its number in that session.
    pub sequence: u64,
    /// The replies that session has received, as the end of a prefix.
    pub acked: u64,
}

impl EntryHeader {
    /// Reads a header from the front of `bytes`.
    ///
    /// # Errors
    /// If `bytes` are too few, the length is beyond [`PAYLOAD_MAX`] or reserved bytes are not zero.
    pub fn decode(bytes: &[u8]) -> Result<EntryHeader, FormatError> {
        let bytes = head::<ENTRY_HEADER>(bytes)?;
        let header = EntryHeader {
            length: u32_at(bytes, 0),
            kind: bytes[4],
            flags: bytes[5],
            schema: u16_at(bytes, 6),
            resource: u64_at(bytes, 8),
            session: u64_at(bytes, 16),
            sequence: u64_at(bytes, 24),
            acked: u64_at(bytes, 32),
        };
        if header.length > PAYLOAD_MAX {
            return Err(FormatError::Length { length: header.length });
        }
        if u64_at(bytes, 40) != 0 { Err(FormatError::Reserved) } else { Ok(header) }
    }

    /// The bytes of this header.
    #[must_use]
    pub fn encode(&self) -> [u8; ENTRY_HEADER] {
        let mut bytes = [0; ENTRY_HEADER];
        self.encode_into(self.length, &mut bytes);
        bytes
    }

    /// Writes this header, with another length, where it is to stay. Not by way of a copy: fields
    /// that are stored one by one and loaded together hold the processor up until all it has
    /// stored before is in its cache, and before each header of a batch that is a payload.
    #[inline]
    pub(crate) fn encode_into(&self, length: u32, bytes: &mut [u8; ENTRY_HEADER]) {
        put(bytes, 0, length.to_le_bytes());
        bytes[4] = self.kind;
        bytes[5] = self.flags;
        put(bytes, 6, self.schema.to_le_bytes());
        put(bytes, 8, self.resource.to_le_bytes());
        put(bytes, 16, self.session.to_le_bytes());
        put(bytes, 24, self.sequence.to_le_bytes());
        put(bytes, 32, self.acked.to_le_bytes());
        put(bytes, 40, [0; 8]);
    }
}

/// A node's own label in front of a batch on disk: where it lies and what was known when it was
/// written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The life of the data directory.
    pub incarnation: Incarnation,
    /// Where this frame begins.
    pub position: Position,
    /// Bytes of frame and batch, without the zeros behind.
    pub length: u32,
    /// The log was durable up to here when this frame was made: a batch end, or zero.
    pub durable: Index,
    /// The chain there.
    pub durable_chain: Chain,
    /// The newest hard-state update that was durable when this frame was made.
    pub hard_state: u64,
}

impl Frame {
    /// Reads a frame from the front of `bytes`. `salt` is the log's own, see
    /// [`SegmentHeader::salt`].
    ///
    /// # Errors
    /// What is wrong with it first, in the order magic, version, checksum, content.
    pub fn decode(bytes: &[u8], salt: u32) -> Result<Frame, FormatError> {
        let bytes = head::<FRAME>(bytes)?;
        recognise(bytes, FRAME_MAGIC)?;
        if crc32c::crc32c_append(salt, &bytes[..60]) != u32_at(bytes, 60) {
            return Err(FormatError::HeaderCrc);
        }
        let frame = Frame::read(bytes);
        if frame.length as usize <= FRAME + BATCH_HEADER
            || frame.length > LENGTH_MAX + FRAME as u32
            || !(frame.length as usize).is_multiple_of(ALIGN)
        {
            return Err(FormatError::Length { length: frame.length });
        }
        let zeros = u16_at(bytes, 6) == 0 && u32_at(bytes, 56) == 0;
        if zeros { Ok(frame) } else { Err(FormatError::Reserved) }
    }

    /// The fields, whatever they are.
    pub(crate) fn read(bytes: &[u8; FRAME]) -> Frame {
        Frame {
            incarnation: Incarnation(u64_at(bytes, 8)),
            position: Position {
                segment: SegmentNumber(u64_at(bytes, 16)),
                offset: u64_at(bytes, 24),
            },
            length: u32_at(bytes, 32),
            durable_chain: Chain(u32_at(bytes, 36)),
            durable: Index(u64_at(bytes, 40)),
            hard_state: u64_at(bytes, 48),
        }
    }

    /// The bytes of this frame.
    #[must_use]
    pub fn encode(&self, salt: u32) -> [u8; FRAME] {
        let mut bytes = [0; FRAME];
        put(&mut bytes, 0, FRAME_MAGIC);
        put(&mut bytes, 4, VERSION.to_le_bytes());
        put(&mut bytes, 8, self.incarnation.0.to_le_bytes());
        put(&mut bytes, 16, self.position.segment.0.to_le_bytes());
        put(&mut bytes, 24, self.position.offset.to_le_bytes());
        put(&mut bytes, 32, self.length.to_le_bytes());
        put(&mut bytes, 36, self.durable_chain.0.to_le_bytes());
        put(&mut bytes, 40, self.durable.0.to_le_bytes());
        put(&mut bytes, 48, self.hard_state.to_le_bytes());
        let crc = crc32c::crc32c_append(salt, &bytes[..60]);
        put(&mut bytes, 60, crc.to_le_bytes());
        bytes
    }
}

/// The first block of a segment file: whose it is. Written once, before the file has its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The life of the data directory.
    pub incarnation: Incarnation,
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// Number of the segment, also in its name.
    pub segment: SegmentNumber,
    /// File size in bytes, this block included.
    pub size: u64,
    /// Begins the checksum of every frame. Random, made with the log and never sent: whoever
    /// chooses a payload cannot make it look like a frame.
    pub salt: u32,
    /// The segment that this file was before, and whose bytes are still there where none were
    /// written since; zero for a file that was filled with zeros.
    pub former: SegmentNumber,
}

impl SegmentHeader {
    /// Reads the header block at the front of `bytes`.
    ///
    /// # Errors
    /// What is wrong with it first, in the order magic, version, checksum.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, FormatError> {
        let bytes = head::<BLOCK>(bytes)?;
        recognise_block(bytes, SEGMENT_MAGIC)?;
        Ok(SegmentHeader {
            incarnation: Incarnation(u64_at(bytes, 8)),
            cluster: ClusterId(u64_at(bytes, 16)),
            group: GroupId(u32_at(bytes, 24)),
            salt: u32_at(bytes, 28),
            segment: SegmentNumber(u64_at(bytes, 32)),
            size: u64_at(bytes, 40),
            former: SegmentNumber(u64_at(bytes, 48)),
        })
    }

    /// Writes the header block to the front of `block`.
    ///
    /// # Panics
    /// If `block` is shorter than a block.
    pub fn encode(&self, block: &mut [u8]) {
        block[..BLOCK].fill(0);
        put(block, 0, SEGMENT_MAGIC);
        put(block, 4, VERSION.to_le_bytes());
        put(block, 8, self.incarnation.0.to_le_bytes());
        put(block, 16, self.cluster.0.to_le_bytes());
        put(block, 24, self.group.0.to_le_bytes());
        put(block, 28, self.salt.to_le_bytes());
        put(block, 32, self.segment.0.to_le_bytes());
        put(block, 40, self.size.to_le_bytes());
        put(block, 48, self.former.0.to_le_bytes());
        close_block(block);
    }
}

/// Checks magic, checksum and version of a whole block, whose last four bytes are its checksum. The
/// checksum comes first here: a version is believed only when the block is what was written.
pub(crate) fn recognise_block(bytes: &[u8; BLOCK], magic: [u8; 4]) -> Result<(), FormatError> {
    if bytes[..4] != magic {
        return Err(FormatError::Magic);
    }
    if crc32c::crc32c(&bytes[..BLOCK - 4]) != u32_at(bytes, BLOCK - 4) {
        return Err(FormatError::HeaderCrc);
    }
    let found = u16_at(bytes, 4);
    if found == VERSION { Ok(()) } else { Err(FormatError::Version { found }) }
}

/// Writes the checksum at the end of a block.
pub(crate) fn close_block(block: &mut [u8]) {
    let crc = crc32c::crc32c(&block[..BLOCK - 4]);
    put(block, BLOCK - 4, crc.to_le_bytes());
}

/// `bytes` rounded up to whole blocks.
pub(crate) fn in_blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK as u64)
}

/// `length` rounded up to the alignment of entries.
pub(crate) fn aligned(length: usize) -> usize {
    length.next_multiple_of(ALIGN)
}

/// The first `N` bytes.
pub(crate) fn head<const N: usize>(bytes: &[u8]) -> Result<&[u8; N], FormatError> {
    bytes.first_chunk::<N>().ok_or(FormatError::Short)
}

pub(crate) fn recognise(bytes: &[u8], magic: [u8; 4]) -> Result<(), FormatError> {
    if bytes[..4] != magic {
        return Err(FormatError::Magic);
    }
    let found = u16_at(bytes, 4);
    if found == VERSION { Ok(()) } else { Err(FormatError::Version { found }) }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}
