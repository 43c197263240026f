//! Reading and writing the fields of a body, in order. Every read is checked against what is left.

use super::{Error, Kind};

/// What is left of a body.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    kind: Kind,
}

impl<'a> Fields<'a> {
    pub(super) fn new(kind: Kind, body: &'a [u8]) -> Fields<'a> {
        Fields { rest: body, kind }
    }

    /// The refusal of this body.
    pub(super) fn error(&self, what: &'static str) -> Error {
        Error::Body { kind: self.kind, what }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let Some((array, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.error("too short"));
        };
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reserved bytes, zero in this version.
    pub(super) fn zeros<const N: usize>(&mut self) -> Result<(), Error> {
        if self.array::<N>()? == [0; N] {
            Ok(())
        } else {
            Err(self.error("reserved bytes are set"))
        }
    }

    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let Some((bytes, rest)) = self.rest.split_at_checked(length) else {
            return Err(self.error("too short"));
        };
        self.rest = rest;
        Ok(bytes)
    }

    /// Text of `length` bytes.
    pub(super) fn text(&mut self, length: usize) -> Result<&'a str, Error> {
        let bytes = self.bytes(length)?;
        std::str::from_utf8(bytes).map_err(|_| self.error("text is not UTF-8"))
    }

    /// Text behind its length in 16 bits.
    pub(super) fn short_text(&mut self) -> Result<&'a str, Error> {
        let length = self.u16()?;
        self.text(usize::from(length))
    }

    /// Everything that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Nothing must be left.
    pub(super) fn end(self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error("too long")) }
    }
}

/// A block of fields under construction, on the stack. Zeros where nothing was put.
pub(super) struct Block<const N: usize> {
    bytes: [u8; N],
    used: usize,
}

impl<const N: usize> Block<N> {
    pub(super) fn new() -> Block<N> {
        Block { bytes: [0; N], used: 0 }
    }

    pub(super) fn put<const M: usize>(mut self, field: [u8; M]) -> Block<N> {
        self.bytes[self.used..self.used + M].copy_from_slice(&field);
        self.used += M;
        self
    }

    pub(super) fn u8(self, field: u8) -> Block<N> {
        self.put([field])
    }

    pub(super) fn u16(self, field: u16) -> Block<N> {
        self.put(field.to_le_bytes())
    }

    pub(super) fn u32(self, field: u32) -> Block<N> {
        self.put(field.to_le_bytes())
    }

    pub(super) fn u64(self, field: u64) -> Block<N> {
        self.put(field.to_le_bytes())
    }

    /// The block; what was not put is reserved and zero.
    pub(super) fn done(self) -> [u8; N] {
        self.bytes
    }
}

/// Appends text behind its length in 16 bits, cut at a character boundary where it is longer than
/// that.
pub(super) fn put_short_text(out: &mut Vec<u8>, text: &str) {
    let text = cut(text, usize::from(u16::MAX));
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// At most `max` bytes of `text`, whole characters.
pub(super) fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
