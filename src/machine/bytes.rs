//! Little-endian bytes of replies, events and snapshots: written by hand, read with checks.
//!
//! Received lengths are compared with what is left before anything is allocated.

use super::code::Code;

/// Appends a u64.
pub fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a u32.
pub fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a length (u32) and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, u32::try_from(bytes.len()).expect("shorter than 4 GiB"));
    out.extend_from_slice(bytes);
}

/// Appends length + 1 (u32) and the bytes, or 0 for none.
pub fn put_optional(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else { return put_u32(out, 0) };
    put_u32(out, u32::try_from(bytes.len() + 1).expect("shorter than 4 GiB"));
    out.extend_from_slice(bytes);
}

/// Reads what the functions above wrote. Every error is [`Code::BAD_PAYLOAD`].
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the beginning of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// [`Code::BAD_PAYLOAD`] where fewer are left; so with all of these.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Code> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Code::BAD_PAYLOAD)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A fixed number of bytes.
    ///
    /// # Errors
    /// See [`Reader::take`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Code> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Code::BAD_PAYLOAD)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// See [`Reader::take`].
    pub fn u8(&mut self) -> Result<u8, Code> {
        Ok(self.array::<1>()?[0])
    }

    /// A u16.
    ///
    /// # Errors
    /// See [`Reader::take`].
    pub fn u16(&mut self) -> Result<u16, Code> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// A u32.
    ///
    /// # Errors
    /// See [`Reader::take`].
    pub fn u32(&mut self) -> Result<u32, Code> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A u64.
    ///
    /// # Errors
    /// See [`Reader::take`].
    pub fn u64(&mut self) -> Result<u64, Code> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Bytes behind their length.
    ///
    /// # Errors
    /// See [`Reader::take`].
    pub fn bytes(&mut self) -> Result<&'a [u8], Code> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    /// What [`put_optional`] wrote.
    ///
    /// # Errors
    /// See [`Reader::take`].
    pub fn optional(&mut self) -> Result<Option<&'a [u8]>, Code> {
        match self.u32()? {
            0 => Ok(None),
            length => self.take(length as usize - 1).map(Some),
        }
    }

    /// All that is left.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// [`Code::BAD_PAYLOAD`] where something is.
    pub fn end(&self) -> Result<(), Code> {
        if self.rest.is_empty() { Ok(()) } else { Err(Code::BAD_PAYLOAD) }
    }
}
