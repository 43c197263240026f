//! Entries of a large batch on their way past the caches: they are put together piece by piece in
//! memory that stays in the first cache, where their checksum is taken, and stored from there.
//!
//! Invariant: what is stored are whole pieces and, at the end, a rest that is aligned as entries
//! are.

use crate::buffer::Streamed;
use crate::format::ALIGN;
use crate::sum;

/// Bytes of a piece: with the entries they come from they fit into the first cache, and it is a
/// stride that a checksum is taken of in parallel.
const PIECE: usize = 16 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Stream<'a> {
    out: Streamed<'a>,
    stored: usize,
    piece: [u8; PIECE],
    used: usize,
    crc: u32,
}

impl<'a> Stream<'a> {
    /// Stores to the beginning of `bytes`. `crc` is the checksum of what lies before.
    ///
    /// # Panics
    /// If `bytes` does not begin at a multiple of 16.
    pub(crate) fn to(bytes: &'a mut [u8], crc: u32) -> Stream<'a> {
        Stream { out: Streamed::to(bytes), stored: 0, piece: [0; PIECE], used: 0, crc }
    }

    /// Adds bytes behind those before.
    ///
    /// # Panics
    /// If there is no room for them.
    pub(crate) fn put(&mut self, mut bytes: &[u8]) {
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

    /// Adds zeros up to where the next entry may begin.
    pub(crate) fn align(&mut self) {
        let padding = self.used.next_multiple_of(ALIGN) - self.used;
        self.put(&[0; ALIGN][..padding]);
    }

    /// Bytes added so far.
    pub(crate) fn length(&self) -> usize {
        self.stored + self.used
    }

    /// Stores what is left. Returns how many bytes there are, and the checksum of all of them and
    /// what lies before.
    pub(crate) fn finish(mut self) -> (usize, u32) {
        self.align();
        self.store();
        (self.stored, self.crc)
    }

    fn store(&mut self) {
        let piece = &self.piece[..self.used];
        self.crc = sum::append(self.crc, piece);
        self.stored = self.out.put(self.stored, piece);
        self.used = 0;
    }
}
