//! Lays down entries that are appended together, where they will stay. The header of those that are
//! equally long is encoded once.
//!
//! Invariant: the checksum is of all bytes that are there once [`Place::fill`] has returned; it is
//! taken piece by piece, while they are in the processor's first cache.

use crate::batch::{SUM_BYTES, entry_length};
use crate::error::Full;
use crate::format::{ALIGN, EntryHeader, PAYLOAD_MAX};
use crate::sum;

/// Where they go.
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

    /// Adds entries without fields, of `room` bytes at most. Returns how many bytes there are, and
    /// the checksum of what lies before and all of them.
    ///
    /// # Panics
    /// If there is less than `room` and they need it.
    pub(crate) fn fill<P: AsRef<[u8]>>(
        mut self,
        payloads: &[P],
        room: usize,
    ) -> Result<(usize, u32), Full> {
        let (mut length, mut head) = (0, EntryHeader::default().encode());
        for payload in payloads {
            let payload = payload.as_ref();
            if payload.len() > PAYLOAD_MAX as usize {
                return Err(Full::Payload { length: payload.len() as u64 });
            }
            if self.used + entry_length(payload.len()) > room {
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
        self.sum();
        Ok((self.used, self.crc))
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        self.bytes[self.used..end].copy_from_slice(bytes);
        self.used = end;
    }

    /// Ends an entry: adds zeros up to where the next one may begin.
    fn align(&mut self) {
        let end = self.used.next_multiple_of(ALIGN);
        self.bytes[self.used..end].fill(0);
        self.used = end;
        if self.used - self.summed >= SUM_BYTES {
            self.sum();
        }
    }

    fn sum(&mut self) {
        self.crc = sum::append(self.crc, &self.bytes[self.summed..self.used]);
        self.summed = self.used;
    }
}
