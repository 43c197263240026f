//! Frames out of pieces of bytes, without copying a frame that arrives whole and aligned.
//!
//! A connection owns memory only while a frame is incomplete, and never before its header has been
//! checked. Framing only: what a frame says is somebody else's business.

use margay_log::batch::BATCH_OFFSET;
use margay_log::buffer::Buffer;

use crate::wire::{self, ALIGN, HEADER};

/// The unfinished end of what a connection has received.
#[derive(Default)]
pub(crate) struct Reader {
    header: [u8; HEADER],
    /// Bytes of the current frame that are here: in `header` up to its size, then in `body`.
    have: usize,
    /// Length of the current frame; 0 while its header is incomplete.
    length: usize,
    body: Option<Buffer>,
}

impl Reader {
    /// The next whole frame at the front of `piece`, which is shortened by what was taken. `None`:
    /// `piece` is used up.
    pub(crate) fn next<'a, 'p: 'a>(
        &'a mut self,
        piece: &mut &'p [u8],
    ) -> Result<Option<&'a [u8]>, wire::Error> {
        if self.length > 0 && self.have == self.length {
            self.have = 0;
            self.length = 0;
        }
        if self.have == 0 {
            if let Some(whole) = take_whole(piece)? {
                return Ok(Some(whole));
            }
            if piece.is_empty() {
                self.body = None;
                return Ok(None);
            }
        }
        self.put_together(piece)
    }

    /// Bytes of memory held for an incomplete frame.
    pub(crate) fn held(&self) -> usize {
        self.body.as_ref().map_or(0, Buffer::capacity)
    }

    /// A frame has begun and is not complete.
    pub(crate) fn is_inside(&self) -> bool {
        self.have > 0 && self.have != self.length
    }

    fn put_together<'a, 'p: 'a>(
        &'a mut self,
        piece: &mut &'p [u8],
    ) -> Result<Option<&'a [u8]>, wire::Error> {
        if self.length == 0 {
            let part = split(piece, HEADER - self.have);
            self.header[self.have..self.have + part.len()].copy_from_slice(part);
            self.have += part.len();
            match wire::peek(&self.header[..self.have])? {
                Some(length) => self.length = length,
                None => return Ok(None),
            }
            if self.body.as_ref().is_none_or(|body| body.capacity() < self.length) {
                self.body = Some(Buffer::zeroed(self.length));
            }
        }
        let Some(body) = &mut self.body else { unreachable!("a known length has its buffer") };
        if self.have == HEADER {
            body[..HEADER].copy_from_slice(&self.header);
        }
        let part = split(piece, self.length - self.have);
        body[self.have..self.have + part.len()].copy_from_slice(part);
        self.have += part.len();
        Ok((self.have == self.length).then(|| &body[..self.length]))
    }
}

/// A frame that lies whole and aligned at the front of `piece`.
fn take_whole<'a>(piece: &mut &'a [u8]) -> Result<Option<&'a [u8]>, wire::Error> {
    let Some(length) = wire::peek(piece)? else { return Ok(None) };
    if length > piece.len() || !(piece.as_ptr() as usize).is_multiple_of(ALIGN) {
        return Ok(None);
    }
    Ok(Some(split(piece, length)))
}

/// Takes up to `bytes` from the front of `piece`.
fn split<'a>(piece: &mut &'a [u8], bytes: usize) -> &'a [u8] {
    let (front, rest) = piece.split_at(bytes.min(piece.len()));
    *piece = rest;
    front
}

/// A batch on its way in: it follows the frame that announced it, straight to its aligned place.
pub(crate) struct Intake {
    /// The whole frame that announced it.
    pub(crate) frame: Vec<u8>,
    /// Where the bytes go; absent while the ring receives into it.
    pub(crate) buffer: Option<Buffer>,
    have: usize,
    length: usize,
}

impl Intake {
    pub(crate) fn new(frame: &[u8], length: usize) -> Intake {
        let buffer = Some(Buffer::zeroed(BATCH_OFFSET + length));
        Intake { frame: frame.to_vec(), buffer, have: 0, length }
    }

    /// Takes what belongs to the batch from the front of `piece`.
    pub(crate) fn fill(&mut self, piece: &mut &[u8]) {
        let part = split(piece, self.length - self.have);
        let at = BATCH_OFFSET + self.have;
        let buffer = self.buffer.as_mut().expect("pieces come only while the ring has no buffer");
        buffer[at..at + part.len()].copy_from_slice(part);
        self.have += part.len();
    }

    /// Notes what the ring has received into the buffer.
    pub(crate) fn received(&mut self, buffer: Buffer, bytes: usize) {
        self.buffer = Some(buffer);
        self.have += bytes;
        assert!(self.have <= self.length, "the ring receives no more than was asked for");
    }

    /// Where in the buffer the missing bytes go.
    pub(crate) fn missing(&self) -> std::ops::Range<usize> {
        BATCH_OFFSET + self.have..BATCH_OFFSET + self.length
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.have == self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Kind;

    fn frames() -> Vec<u8> {
        let mut out = Vec::new();
        for (number, size) in [0, 1, 15, 16, 17, 5_000, 40, 90_000, 3].into_iter().enumerate() {
            let body = vec![number as u8; size];
            wire::encode(&mut out, Kind::Command, 0, number as u64, size as u64, &[&body]);
        }
        out
    }

    #[test]
    fn gives_the_same_frames_however_they_are_cut() {
        let bytes = frames();
        for step in [1, 7, 16, 31, 32, 33, 1_000, 4_096, 100_000, 1 << 20] {
            let mut reader = Reader::default();
            let mut seen = 0;
            for piece in bytes.chunks(step) {
                // As the pool hands it over: aligned.
                let mut aligned = Buffer::zeroed(piece.len());
                aligned[..piece.len()].copy_from_slice(piece);
                let mut rest = &aligned[..piece.len()];
                while let Some(frame) = reader.next(&mut rest).expect("all frames are right") {
                    assert!((frame.as_ptr() as usize).is_multiple_of(ALIGN));
                    let frame = wire::decode(frame).expect("whole");
                    assert_eq!(frame.a, seen);
                    assert!(frame.body.iter().all(|byte| u64::from(*byte) == seen));
                    seen += 1;
                }
                assert!(rest.is_empty());
            }
            assert_eq!(seen, 9, "in steps of {step}");
            assert!(!reader.is_inside());
            assert_eq!(reader.held(), 0);
        }
    }

    #[test]
    fn holds_nothing_for_a_frame_that_is_refused() {
        let mut reader = Reader::default();
        let mut piece = &[0xff_u8; 20][..];
        assert!(reader.next(&mut piece).is_err());
        assert_eq!(reader.held(), 0);
    }
}
