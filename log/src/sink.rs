//! Where entries that are appended together go: straight to their place, or, if they come to many
//! bytes, past the caches: then they are put together piece by piece in memory that stays in the
//! first cache, and stored from there. Their checksum is taken of what lies in that cache.
//!
//! Invariant: what is stored past the caches are whole pieces and, at the end, a rest that is
//! aligned as entries are.

use crate::batch::{SUM_BYTES, entry_length};
use crate::buffer::Streamed;
use crate::error::Full;
use crate::format::{ALIGN, EntryHeader, PAYLOAD_MAX};
use crate::sum;

/// Bytes of a piece that is stored past the caches: with the entries they come from they fit into
/// the first one.
const PIECE: usize = 16 << 10;

/// See the module.
pub(crate) trait Sink: Sized {
    /// Adds bytes behind those before.
    ///
    /// # Panics
    /// If there is no room for them.
    fn put(&mut self, bytes: &[u8]);

    /// Ends an entry: adds zeros up to where the next one may begin.
    fn align(&mut self);

    /// Bytes added so far.
    fn length(&self) -> usize;

    /// How many bytes there are, and the checksum of what lies before and all of them.
    fn finish(self) -> (usize, u32);

    /// Adds entries without fields, of `room` bytes at most. Returns as [`Sink::finish`].
    fn fill<P: AsRef<[u8]>>(mut self, payloads: &[P], room: usize) -> Result<(usize, u32), Full> {
        let (mut length, mut head) = (0, EntryHeader::default().encode());
        for payload in payloads {
            let payload = payload.as_ref();
            if payload.len() > PAYLOAD_MAX as usize {
                return Err(Full::Payload { length: payload.len() as u64 });
            }
            if self.length() + entry_length(payload.len()) > room {
                return Err(Full::Batch);
            }
            if payload.len() != length {
                length = payload.len();
                EntryHeader::default().encode_into(length as u32, &mut head);
            }
            self.put(&head);
            self.put(payload);
            self.align();
        }
        Ok(self.finish())
    }
}

/// Straight to their place.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    bytes: &'a mut [u8],
    used: usize,
    /// The checksum, and of how many bytes.
    crc: u32,
    summed: usize,
}

impl<'a> Place<'a> {
    /// To the beginning of `bytes`. `crc` is the checksum of what lies before.
    pub(crate) fn of(bytes: &'a mut [u8], crc: u32) -> Place<'a> {
        Place { bytes, used: 0, crc, summed: 0 }
    }

    fn sum(&mut self) {
        self.crc = sum::append(self.crc, &self.bytes[self.summed..self.used]);
        self.summed = self.used;
    }
}

impl Sink for Place<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        self.bytes[self.used..end].copy_from_slice(bytes);
        self.used = end;
    }

    fn align(&mut self) {
        let end = self.used.next_multiple_of(ALIGN);
        self.bytes[self.used..end].fill(0);
        self.used = end;
        if self.used - self.summed >= SUM_BYTES {
            self.sum();
        }
    }

    fn length(&self) -> usize {
        self.used
    }

    fn finish(mut self) -> (usize, u32) {
        self.sum();
        (self.used, self.crc)
    }
}

/// Past the caches.
#[derive(Debug)]
pub(crate) struct Stream<'a> {
    out: Streamed<'a>,
    stored: usize,
    piece: [u8; PIECE],
    used: usize,
    crc: u32,
}

impl<'a> Stream<'a> {
    /// To the beginning of `bytes`. `crc` is the checksum of what lies before.
    ///
    /// # Panics
    /// If `bytes` does not begin at a multiple of 16.
    pub(crate) fn to(bytes: &'a mut [u8], crc: u32) -> Stream<'a> {
        Stream { out: Streamed::to(bytes), stored: 0, piece: [0; PIECE], used: 0, crc }
    }

    fn store(&mut self) {
        let piece = &self.piece[..self.used];
        self.crc = sum::append(self.crc, piece);
        self.stored = self.out.put(self.stored, piece);
        self.used = 0;
    }
}

impl Sink for Stream<'_> {
    fn put(&mut self, mut bytes: &[u8]) {
        while bytes.len() > PIECE - self.used {
            let (front, rest) = bytes.split_at(PIECE - self.used);
            self.piece[self.used..].copy_from_slice(front);
            self.used = PIECE;
            self.store();
            bytes = rest;
        }
        let end = self.used + bytes.len();
        self.piece[self.used..end].copy_from_slice(bytes);
        self.used = end;
    }

    fn align(&mut self) {
        let end = self.used.next_multiple_of(ALIGN);
        self.piece[self.used..end].fill(0);
        self.used = end;
    }

    fn length(&self) -> usize {
        self.stored + self.used
    }

    fn finish(mut self) -> (usize, u32) {
        self.store();
        (self.stored, self.crc)
    }
}
