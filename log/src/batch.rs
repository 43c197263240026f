//! A batch in its three stages: open in its leader, sealed and shared, or received and not yet
//! believed.
//!
//! Bytes are placed once: the open batch is built where the sealed one will lie, behind room for
//! the frame, and goes to disk and to peers from there. Whether a batch belongs to the log is
//! [`crate::log`]'s to say.
//!
//! Invariants: a `Batch` is well-formed, checksums included; its buffer is frame, header, entries,
//! zeros up to the block, and never changes.

use std::sync::Arc;

use crate::buffer::Buffer;
use crate::error::{FormatError, Full};
use crate::format::{
    ALIGN, BATCH_HEADER, BATCH_MAX, BLOCK, BatchHeader, ENTRY_HEADER, EntryHeader, FRAME,
    LENGTH_MAX, PAYLOAD_MAX, aligned, in_blocks,
};
use crate::id::{ClusterId, GroupId, Index};
#[cfg(feature = "direct")]
use crate::place::Place;
use crate::sum;

/// Where a batch begins in its buffer: behind the frame.
pub const BATCH_OFFSET: usize = FRAME;

/// Where its entries begin there.
pub(crate) const BODY_OFFSET: usize = BATCH_OFFSET + BATCH_HEADER;

/// Bytes that are added to a body's checksum at a time, as soon as they lie there: they are in the
/// processor's first cache then.
pub(crate) const SUM_BYTES: usize = 24 << 10;

/// A sealed batch: immutable and well-formed. Shared as `Arc<Batch>`.
#[derive(Debug)]
pub struct Batch {
    header: BatchHeader,
    buffer: Arc<Buffer>,
}

impl Batch {
    /// `buffer` holds `header` and its body, checked or just made.
    pub(crate) fn new(header: BatchHeader, buffer: Buffer) -> Batch {
        assert!(buffer.len() as u64 == disk_length(&header), "exactly frame, batch and padding");
        Batch { header, buffer: Arc::new(buffer) }
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Header and body: what goes on the wire.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[BATCH_OFFSET..BATCH_OFFSET + self.header.length as usize]
    }

    /// Bytes of header and body.
    #[must_use]
    pub fn size(&self) -> u64 {
        u64::from(self.header.length)
    }

    /// The entries as they lie there.
    #[cfg(feature = "direct")]
    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes()[BATCH_HEADER..]
    }

    /// The entries, in order.
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        Entries { rest: &self.bytes()[BATCH_HEADER..], next: self.header.first }
    }

    /// Frame, batch and zeros up to the block: what goes to disk.
    #[must_use]
    pub fn buffer(&self) -> &Arc<Buffer> {
        &self.buffer
    }
}

/// What holds a batch, without one: allocated once, used for many.
#[derive(Debug)]
pub(crate) struct Shell(Arc<Batch>);

impl Shell {
    /// Takes the buffer out of a batch that nobody else holds.
    pub(crate) fn of(mut batch: Arc<Batch>) -> Option<(Shell, Buffer)> {
        let buffer = Arc::get_mut(&mut Arc::get_mut(&mut batch)?.buffer)?;
        let buffer = std::mem::replace(buffer, Buffer::empty());
        Some((Shell(batch), buffer))
    }

    /// As [`Batch::new`].
    pub(crate) fn fill(mut self, header: BatchHeader, buffer: Buffer) -> Arc<Batch> {
        assert!(buffer.len() as u64 == disk_length(&header), "exactly frame, batch and padding");
        let batch = Arc::get_mut(&mut self.0).expect("nobody else holds a shell");
        batch.header = header;
        *Arc::get_mut(&mut batch.buffer).expect("nor what is in it") = buffer;
        self.0
    }
}

/// Bytes a batch takes on disk: its frame before it, zeros up to the block behind.
pub(crate) fn disk_length(header: &BatchHeader) -> u64 {
    in_blocks(BATCH_OFFSET as u64 + u64::from(header.length))
}

/// One entry of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// Its position.
    pub index: Index,
    /// Its header.
    pub header: EntryHeader,
    /// Its payload, without padding.
    pub payload: &'a [u8],
}

/// Iterates over the entries of a batch.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
    next: Index,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let (header, payload, rest) = split_entry(self.rest).ok()??;
        let index = self.next;
        self.rest = rest;
        self.next = index.next();
        Some(Entry { index, header, payload })
    }
}

pub(crate) type Split<'a> = (EntryHeader, &'a [u8], &'a [u8]);

/// The first entry of a body and what follows it; `None` at the end.
pub(crate) fn split_entry(body: &[u8]) -> Result<Option<Split<'_>>, FormatError> {
    if body.is_empty() {
        return Ok(None);
    }
    let header = EntryHeader::decode(body)?;
    let length = header.length as usize;
    let behind = &body[ENTRY_HEADER..];
    let Some((padded, rest)) = behind.split_at_checked(aligned(length)) else {
        return Err(FormatError::Length { length: header.length });
    };
    let (payload, padding) = padded.split_at(length);
    if padding.iter().any(|&byte| byte != 0) {
        return Err(FormatError::Reserved);
    }
    Ok(Some((header, payload, rest)))
}

/// Header and payload of the first entry of a checked body.
pub(crate) fn first_entry(body: &[u8]) -> Option<(EntryHeader, &[u8])> {
    let (header, payload, _) = split_entry(body).ok()??;
    Some((header, payload))
}

/// Checks the body that `header` announces, which is at the front of `body`: checksum, then every
/// entry.
pub(crate) fn check_body(header: &BatchHeader, body: &[u8]) -> Result<(), FormatError> {
    let length = header.length as usize - BATCH_HEADER;
    let Some(mut rest) = body.get(..length) else { return Err(FormatError::Short) };
    if sum::crc32c(rest) != header.body_crc {
        return Err(FormatError::BodyCrc);
    }
    let mut count = 0_u32;
    while let Some((_, _, behind)) = split_entry(rest)? {
        count += 1;
        rest = behind;
    }
    if count == header.count { Ok(()) } else { Err(FormatError::Count { count: header.count }) }
}

/// Bytes that an entry takes whose payload has this length, no more than it may have.
pub(crate) fn entry_length(payload: usize) -> usize {
    ENTRY_HEADER + aligned(payload.min(PAYLOAD_MAX as usize))
}

/// Bytes that entries with payloads of these lengths take.
#[cfg(feature = "direct")]
pub(crate) fn body_length(payloads: impl Iterator<Item = usize>) -> u64 {
    payloads.map(|length| (ENTRY_HEADER + length.next_multiple_of(ALIGN)) as u64).sum()
}

/// A batch from elsewhere: well-formed and of this group, but not yet known to belong to the log.
#[derive(Debug)]
pub struct Received {
    header: BatchHeader,
    buffer: Buffer,
}

impl Received {
    /// Checks the `length` bytes at [`BATCH_OFFSET`] of `buffer`: header, identity, length, body
    /// checksum, entries.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(
        buffer: Buffer,
        length: usize,
        cluster: ClusterId,
        group: GroupId,
    ) -> Result<Received, FormatError> {
        let end = BATCH_OFFSET.checked_add(length).ok_or(FormatError::Short)?;
        let bytes = buffer.get(BATCH_OFFSET..end).ok_or(FormatError::Short)?;
        let header = BatchHeader::decode(bytes)?;
        if header.length as usize != length {
            return Err(FormatError::Length { length: header.length });
        }
        if header.cluster != cluster || header.group != group {
            return Err(FormatError::Identity);
        }
        check_body(&header, &bytes[BATCH_HEADER..])?;
        let (mut buffer, _) = fitted(buffer, end, Buffer::zeroed);
        buffer.set_length(end);
        buffer[..BATCH_OFFSET].fill(0);
        buffer[end..].fill(0);
        Ok(Received { header, buffer })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Header and payload of its first entry.
    #[must_use]
    pub fn first_entry(&self) -> Option<(EntryHeader, &[u8])> {
        first_entry(self.buffer.get(BODY_OFFSET..)?)
    }

    pub(crate) fn into_parts(self) -> (BatchHeader, Buffer) {
        (self.header, self.buffer)
    }
}

/// A buffer for the batch that ends at `end`: the one it is in, or a small one if that is four
/// times too large, and then the large one too.
fn fitted(
    buffer: Buffer,
    end: usize,
    small: impl FnOnce(usize) -> Buffer,
) -> (Buffer, Option<Buffer>) {
    let length = in_blocks(end as u64) as usize;
    if buffer.capacity() < 4 * length {
        return (buffer, None);
    }
    let mut small = small(length);
    small.set_length(length);
    small[BATCH_OFFSET..end].copy_from_slice(&buffer[BATCH_OFFSET..end]);
    (small, Some(buffer))
}

/// The batch that is being built. Entries are laid down where they will stay.
#[derive(Debug)]
pub(crate) struct Open {
    buffer: Buffer,
    used: usize,
    count: u32,
    /// The checksum of the body up to here.
    summed: usize,
    crc: u32,
}

impl Open {
    /// Builds in `buffer`, whatever it held.
    pub(crate) fn new(mut buffer: Buffer) -> Open {
        assert!(buffer.capacity() >= BLOCK);
        buffer.set_length(buffer.capacity());
        Open { buffer, used: BODY_OFFSET, count: 0, summed: BODY_OFFSET, crc: 0 }
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of header and body so far.
    pub(crate) fn size(&self) -> u32 {
        (self.used - BATCH_OFFSET) as u32
    }

    /// Makes room for `bytes` of entries: moves to a buffer that `larger` gives for a length, and
    /// returns the one it was in. What does not fit into a batch at all gets no room.
    pub(crate) fn reserve(
        &mut self,
        bytes: usize,
        larger: impl FnOnce(usize) -> Buffer,
    ) -> Option<Buffer> {
        let end = self.used + bytes;
        if end <= self.buffer.len() || end > BATCH_OFFSET + LENGTH_MAX as usize {
            return None;
        }
        let mut larger = larger(end);
        assert!(larger.capacity() >= end);
        larger.set_length(larger.capacity());
        larger[BODY_OFFSET..self.used].copy_from_slice(&self.buffer[BODY_OFFSET..self.used]);
        Some(std::mem::replace(&mut self.buffer, larger))
    }

    /// Copies an entry to the end.
    pub(crate) fn push(&mut self, header: &EntryHeader, parts: &[&[u8]]) -> Result<(), Full> {
        if self.is_full() {
            return Err(Full::Batch);
        }
        let length = parts.iter().map(|part| part.len()).sum();
        self.push_with(header, length, |mut payload| {
            for part in parts {
                let (front, rest) = payload.split_at_mut(part.len());
                front.copy_from_slice(part);
                payload = rest;
            }
        })
    }

    /// Whether no entry is taken any more.
    pub(crate) fn is_full(&self) -> bool {
        self.size() >= BATCH_MAX
    }

    /// Adds an entry of `length` bytes at the end, which `fill` writes. Beyond [`BATCH_MAX`] too,
    /// as long as it fits into a batch at all; there must be room.
    pub(crate) fn push_with(
        &mut self,
        header: &EntryHeader,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), Full> {
        if length > PAYLOAD_MAX as usize {
            return Err(Full::Payload { length: length as u64 });
        }
        let takes = ENTRY_HEADER + aligned(length);
        if self.size() as usize + takes > LENGTH_MAX as usize {
            return Err(Full::Batch);
        }
        let end = self.used + takes;
        assert!(end <= self.buffer.len(), "room has been made");
        let head = self.buffer[self.used..].first_chunk_mut().expect("room has been made");
        header.encode_into(length as u32, head);
        let at = self.used + ENTRY_HEADER;
        fill(&mut self.buffer[at..at + length]);
        self.buffer[at + length..end].fill(0);
        self.used = end;
        self.count += 1;
        assert!(self.used.is_multiple_of(ALIGN) && self.size() <= LENGTH_MAX);
        self.sum();
        Ok(())
    }

    /// Adds entries without fields; there must be room for all of them. All of them, or if one does
    /// not fit, or panics, none.
    #[cfg(feature = "direct")]
    pub(crate) fn push_all<P: AsRef<[u8]>>(&mut self, payloads: &[P]) -> Result<(), Full> {
        let (crc, room) = (self.body_crc(), (LENGTH_MAX - self.size()) as usize);
        let place = Place::of(&mut self.buffer[self.used..], crc);
        let (length, crc) = place.fill(payloads, room)?;
        self.used += length;
        self.count += payloads.len() as u32;
        (self.summed, self.crc) = (self.used, crc);
        Ok(())
    }

    /// CRC-32C of the body.
    pub(crate) fn body_crc(&self) -> u32 {
        sum::append(self.crc, &self.buffer[self.summed..self.used])
    }

    fn sum(&mut self) {
        while self.used - self.summed >= SUM_BYTES {
            let end = self.summed + SUM_BYTES;
            self.crc = sum::append(self.crc, &self.buffer[self.summed..end]);
            self.summed = end;
        }
    }

    /// The whole buffer with `header` in its place, cut to blocks and zero behind the body. A batch
    /// far smaller than the buffer it was built in moves to one that `small` gives for its size;
    /// the large one is returned too.
    pub(crate) fn into_buffer(
        self,
        header: &BatchHeader,
        small: impl FnOnce(usize) -> Buffer,
    ) -> (Buffer, Option<Buffer>) {
        assert!(header.length == self.size() && header.count == self.count);
        let (mut buffer, spare) = fitted(self.buffer, self.used, small);
        buffer.set_length(self.used);
        buffer[self.used..].fill(0);
        buffer[BATCH_OFFSET..BODY_OFFSET].copy_from_slice(&header.encode());
        (buffer, spare)
    }

    /// The buffer, its content no longer wanted.
    pub(crate) fn discard(self) -> Buffer {
        self.buffer
    }
}

#[cfg(all(test, feature = "direct"))]
mod tests {
    use super::*;
    use crate::id::{Chain, Term};

    fn sealed(open: Open) -> Vec<u8> {
        let header = BatchHeader {
            cluster: ClusterId(1),
            group: GroupId(2),
            count: open.count(),
            term: Term(3),
            first: Index(1),
            log_time: 4,
            length: open.size(),
            body_crc: open.body_crc(),
            chain: Chain(5),
        };
        let end = BATCH_OFFSET + header.length as usize;
        let (buffer, _) = open.into_buffer(&header, Buffer::zeroed);
        check_body(&header, &buffer[BODY_OFFSET..end]).expect("well-formed");
        buffer[BATCH_OFFSET..].to_vec()
    }

    #[test]
    fn what_is_pushed_together_is_what_would_be_pushed() {
        // The first one comes to as much as its checksum is taken of at a time; another takes more.
        let lengths =
            [SUM_BYTES - ENTRY_HEADER, 0, 1, 15, 16, 17, 1024, 1024, 40_000, 700, 0, 1024];
        let payloads: Vec<Vec<u8>> =
            lengths.iter().map(|&length| (0..length).map(|at| (at * 7) as u8).collect()).collect();
        let used = || {
            let mut buffer = Buffer::zeroed(256 << 10);
            buffer.fill(0xa5);
            Open::new(buffer)
        };
        let (mut first, mut other) = (used(), used());
        // Behind others, of which a part is not in the checksum yet.
        for open in [&mut first, &mut other] {
            open.push(&EntryHeader { kind: 9, ..EntryHeader::default() }, &[&[1; 30_001]])
                .expect("room");
        }
        for payload in &payloads {
            first.push(&EntryHeader::default(), &[payload]).expect("room");
        }
        other.push_all(&payloads).expect("room");
        for open in [&mut first, &mut other] {
            open.push(&EntryHeader::default(), &[b"behind"]).expect("room");
        }
        assert!(sealed(other) == sealed(first));
    }

    #[test]
    fn all_or_none_are_pushed_together() {
        struct Breaks(Vec<u8>);
        impl AsRef<[u8]> for Breaks {
            fn as_ref(&self) -> &[u8] {
                assert!(!self.0.is_empty(), "it cannot be read");
                &self.0
            }
        }
        let mut open = Open::new(Buffer::zeroed(BLOCK));
        open.push(&EntryHeader::default(), &[b"before"]).expect("room");
        let (size, crc) = (open.size(), open.body_crc());
        let payloads = [Breaks(vec![1; 100]), Breaks(Vec::new())];
        let large = [vec![1; 100], vec![0; PAYLOAD_MAX as usize + 1]];
        let push = std::panic::AssertUnwindSafe(|| open.push_all(&payloads));
        std::panic::catch_unwind(push).expect_err("a payload cannot be read");
        assert!(matches!(open.push_all(&large), Err(Full::Payload { .. })));
        assert_eq!((open.size(), open.count(), open.body_crc()), (size, 1, crc));
    }
}
