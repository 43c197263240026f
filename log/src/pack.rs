//! What compaction leaves of batches: a *pack* of several, each with its header as it was sealed
//! and the entries that are still wanted.
//!
//! The headers stay to the byte, so the chain stays: a log is as well linked after compaction as it
//! was before. What a header says about its body is no longer so; the record around it has a
//! checksum of its own. Logs of replicated groups have no packs: their batches are equal on all
//! nodes.
//!
//! ```text
//! pack frame, 64 bytes, at a block boundary      record, 80 bytes, then entries
//!  0  magic          "MGYP"                        0  batch header as sealed   64
//!     as a frame up to 56                         64  length     4   of the entries behind
//! 56  records        4                            68  count      4   of them
//! 60  crc            4  begun with the salt       72  zero       4
//! 64  records                                     76  crc        4   header to here and entries,
//!                                                                    begun with the salt
//! ```
//!
//! An entry has the header it was appended with, and in its last eight bytes its number in the
//! batch, counted from 0.

use crate::batch::check_body;
use crate::error::FormatError;
use crate::format::{
    ALIGN, BATCH_HEADER, BLOCK, BatchHeader, ENTRY_HEADER, EntryHeader, FRAME, Frame, LENGTH_MAX,
    aligned, in_blocks, put, u32_at, u64_at,
};
use crate::id::{Chain, Incarnation, Index, Position, SegmentNumber};
use crate::segment::BatchRef;
use crate::sum;

/// Bytes before the entries of a record.
pub(crate) const RECORD: usize = BATCH_HEADER + 16;
/// A pack that has reached this many bytes takes no more records.
const PACK_BYTES: usize = 1 << 20;
const _: () = assert!(RECORD.is_multiple_of(ALIGN));

/// The frame of a pack: as [`Frame`], but for the last field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PackFrame {
    pub(crate) frame: Frame,
    pub(crate) records: u32,
}

impl PackFrame {
    /// Reads a pack's frame from the front of `bytes`.
    pub(crate) fn decode(bytes: &[u8], salt: u32) -> Result<PackFrame, FormatError> {
        let bytes = crate::format::head::<FRAME>(bytes)?;
        crate::format::recognise(bytes, *b"MGYP")?;
        if crc32c::crc32c_append(salt, &bytes[..60]) != u32_at(bytes, 60) {
            return Err(FormatError::HeaderCrc);
        }
        let frame = Frame::read(bytes);
        let length = frame.length;
        if (length as usize) < FRAME + RECORD
            || length as usize > FRAME + RECORD + LENGTH_MAX as usize + PACK_BYTES
            || !(length as usize).is_multiple_of(ALIGN)
        {
            return Err(FormatError::Length { length });
        }
        let records = u32_at(bytes, 56);
        let most = length as usize / RECORD;
        if records == 0 || records as usize > most {
            return Err(FormatError::Count { count: records });
        }
        Ok(PackFrame { frame, records })
    }

    fn encode(&self, salt: u32) -> [u8; FRAME] {
        let mut bytes = self.frame.encode(salt);
        put(&mut bytes, 0, *b"MGYP");
        put(&mut bytes, 56, self.records.to_le_bytes());
        let crc = crc32c::crc32c_append(salt, &bytes[..60]);
        put(&mut bytes, 60, crc.to_le_bytes());
        bytes
    }
}

/// One batch of a pack, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) header: BatchHeader,
    /// Record header and entries, in bytes.
    pub(crate) length: u32,
    entries: &'a [u8],
}

/// Reads and checks the record at the front of `bytes`.
pub(crate) fn record(bytes: &[u8], salt: u32) -> Result<Record<'_>, FormatError> {
    let header = BatchHeader::decode(bytes)?;
    let head = bytes.get(..RECORD).ok_or(FormatError::Short)?;
    let (length, count) = (u32_at(head, 64), u32_at(head, 68));
    if length > LENGTH_MAX || !(length as usize).is_multiple_of(ALIGN) {
        return Err(FormatError::Length { length });
    }
    let entries = bytes.get(RECORD..RECORD + length as usize).ok_or(FormatError::Short)?;
    let crc = sum::append(crc32c::crc32c_append(salt, &head[..76]), entries);
    if crc != u32_at(head, 76) {
        return Err(FormatError::BodyCrc);
    }
    let (mut rest, mut found, mut next) = (entries, 0_u32, 0_u64);
    while let Some((ordinal, _, _, behind)) = kept_entry(rest)? {
        if ordinal < next || ordinal >= u64::from(header.count) {
            return Err(FormatError::Count { count });
        }
        (found, next, rest) = (found + 1, ordinal + 1, behind);
    }
    if found != count || u32_at(head, 72) != 0 {
        return Err(FormatError::Count { count });
    }
    Ok(Record { header, length: RECORD as u32 + length, entries })
}

impl<'a> Record<'a> {
    /// The entries that are left.
    pub(crate) fn entries(&self) -> Entries<'a> {
        Entries { rest: self.entries, header: self.header, is_whole: false, next: 0 }
    }
}

/// Iterates over the entries of a batch, whole or not.
#[derive(Clone, Debug)]
pub(crate) struct Entries<'a> {
    rest: &'a [u8],
    header: BatchHeader,
    is_whole: bool,
    next: u64,
}

impl<'a> Entries<'a> {
    /// Of the body of a batch, checked.
    pub(crate) fn whole(header: &BatchHeader, body: &'a [u8]) -> Entries<'a> {
        Entries { rest: body, header: *header, is_whole: true, next: 0 }
    }

    /// Bytes behind the entry that came last.
    #[cfg(feature = "direct")]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (Index, EntryHeader, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (ordinal, header, payload, rest) = kept_entry(self.rest).ok()??;
        let ordinal = if self.is_whole { self.next } else { ordinal };
        self.rest = rest;
        self.next = ordinal + 1;
        Some((Index(self.header.first.0 + ordinal), header, payload))
    }
}

type KeptEntry<'a> = (u64, EntryHeader, &'a [u8], &'a [u8]);

/// The first entry of the bytes of a record and what follows it; `None` at the end.
pub(crate) fn kept_entry(bytes: &[u8]) -> Result<Option<KeptEntry<'_>>, FormatError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let head = bytes.first_chunk::<ENTRY_HEADER>().ok_or(FormatError::Short)?;
    let ordinal = u64_at(head, ENTRY_HEADER - 8);
    let mut plain = *head;
    plain[ENTRY_HEADER - 8..].fill(0);
    let header = EntryHeader::decode(&plain)?;
    let length = header.length as usize;
    let behind = &bytes[ENTRY_HEADER..];
    let Some((padded, rest)) = behind.split_at_checked(aligned(length)) else {
        return Err(FormatError::Length { length: header.length });
    };
    Ok(Some((ordinal, header, &padded[..length], rest)))
}

/// Where a record came to lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Placed {
    pub(crate) header: BatchHeader,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// Lays down packs behind each other: the content of a segment file from its second block on.
#[derive(Debug)]
pub(crate) struct Packer {
    salt: u32,
    incarnation: Incarnation,
    segment: SegmentNumber,
    bytes: Vec<u8>,
    /// Where the open pack begins; its number of records.
    open: Option<(usize, u32)>,
    /// The batch end that the log had before the open pack, and the newest hard state then known.
    before: (Index, Chain),
    hard_state: u64,
    placed: Vec<Placed>,
}

impl Packer {
    /// Begins behind the batch end `before`. `hard_state` is durable.
    pub(crate) fn new(
        salt: u32,
        incarnation: Incarnation,
        segment: SegmentNumber,
        before: (Index, Chain),
        hard_state: u64,
    ) -> Packer {
        let bytes = vec![0; BLOCK];
        let (open, placed) = (None, Vec::new());
        Packer { salt, incarnation, segment, bytes, open, before, hard_state, placed }
    }

    /// Adds a batch with those of its entries that are kept.
    pub(crate) fn add<'a>(
        &mut self,
        header: &BatchHeader,
        kept: impl Iterator<Item = (Index, EntryHeader, &'a [u8])>,
    ) {
        let (begin, records) = self.open.unwrap_or_else(|| {
            let begin = self.bytes.len();
            self.bytes.resize(begin + FRAME, 0);
            (begin, 0)
        });
        let offset = self.bytes.len();
        self.bytes.resize(offset + RECORD, 0);
        self.bytes[offset..offset + BATCH_HEADER].copy_from_slice(&header.encode());
        let mut count = 0_u32;
        for (index, entry, payload) in kept {
            let mut head = entry.encode();
            put(&mut head, ENTRY_HEADER - 8, index.since(header.first).to_le_bytes());
            self.bytes.extend_from_slice(&head);
            self.bytes.extend_from_slice(payload);
            let end = offset + (self.bytes.len() - offset).next_multiple_of(ALIGN);
            self.bytes.resize(end, 0);
            count += 1;
        }
        let entries = self.bytes.len() - offset - RECORD;
        assert!(entries <= LENGTH_MAX as usize, "no more than the batch had");
        put(&mut self.bytes, offset + 64, (entries as u32).to_le_bytes());
        put(&mut self.bytes, offset + 68, count.to_le_bytes());
        let (head, body) = self.bytes[offset..].split_at(RECORD);
        let crc = sum::append(crc32c::crc32c_append(self.salt, &head[..76]), body);
        put(&mut self.bytes, offset + 76, crc.to_le_bytes());
        let length = (RECORD + entries) as u32;
        self.placed.push(Placed { header: *header, offset: offset as u64, length });
        self.open = Some((begin, records + 1));
        if self.bytes.len() - begin >= PACK_BYTES {
            self.close(header);
        }
    }

    /// The file, whose first block is still empty, and where each batch lies in it.
    pub(crate) fn finish(mut self) -> (Vec<u8>, Vec<Placed>) {
        if let Some(last) = self.placed.last().map(|placed| placed.header) {
            self.close(&last);
        }
        (self.bytes, self.placed)
    }

    fn close(&mut self, last: &BatchHeader) {
        let Some((begin, records)) = self.open.take() else { return };
        let frame = Frame {
            incarnation: self.incarnation,
            position: Position { segment: self.segment, offset: begin as u64 },
            length: (self.bytes.len() - begin) as u32,
            durable: self.before.0,
            durable_chain: self.before.1,
            hard_state: self.hard_state,
        };
        let head = PackFrame { frame, records }.encode(self.salt);
        self.bytes[begin..begin + FRAME].copy_from_slice(&head);
        self.bytes.resize(in_blocks(self.bytes.len() as u64) as usize, 0);
        self.before = (last.last().index, last.chain);
    }
}

/// The batch at the front of `bytes`, if that is whole and the one that is listed.
pub(crate) fn verified<'a>(
    salt: u32,
    incarnation: Incarnation,
    segment: SegmentNumber,
    listed: &BatchRef,
    bytes: &'a [u8],
) -> Option<(BatchHeader, Entries<'a>)> {
    if listed.packed {
        let record = record(bytes, salt).ok()?;
        let (header, offset, length) = (record.header, listed.offset, record.length);
        let found = BatchRef::placed(&Placed { header, offset, length });
        return (found == *listed).then(|| (header, record.entries()));
    }
    let frame = Frame::decode(bytes, salt).ok()?;
    let position = Position { segment, offset: listed.offset };
    if frame.position != position || frame.incarnation != incarnation {
        return None;
    }
    let header = BatchHeader::decode(&bytes[FRAME..]).ok()?;
    if BatchRef::new(&header, listed.offset) != *listed {
        return None;
    }
    let body = &bytes[FRAME + BATCH_HEADER..];
    check_body(&header, body).ok()?;
    let body = &body[..header.length as usize - BATCH_HEADER];
    Some((header, Entries::whole(&header, body)))
}
