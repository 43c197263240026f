//! The file of a snapshot: the state that a prefix of the log has led to, in checked chunks.
//!
//! ```text
//! header, 4 blocks │ chunk │ chunk │ …      each chunk: 32 bytes, payload, zeros up to the block
//! ```
//!
//! What a chunk holds is the owner's business. Nothing in the file is a node's own: owners that cut
//! equal states into equal chunks write equal files, on every node. The header is written last,
//! when the counts are known, and the file gets its name after that. No I/O here.
//!
//! Invariant: a reader hands out a chunk only if it is the next one of this snapshot, byte for
//! byte; one that has handed out all has seen the very file that was written.

use crate::buffer::Buffer;
use crate::error::FormatError;
use crate::format::{BLOCK, VERSION, head, in_blocks, put, u16_at, u32_at, u64_at};
use crate::id::{BatchEnd, Chain, ClusterId, EntryId, GroupId, Index, Term};
use crate::sum;

/// Largest payload of a chunk, in bytes.
pub const CHUNK_MAX: usize = 16 << 20;
/// Bytes of the header: four blocks, so that the largest membership fits.
pub const SNAPSHOT_HEADER: usize = 4 * BLOCK;
/// Bytes in front of a chunk's payload.
pub const CHUNK_HEADER: usize = 32;
/// Longest part of the header that is the owner's, in bytes.
pub const SNAPSHOT_META_MAX: usize = 16_000;

const SNAPSHOT_MAGIC: [u8; 4] = *b"MGYN";
const CHUNK_MAGIC: [u8; 4] = *b"MGYC";
const META_AT: usize = 80;
const CRC_AT: usize = SNAPSHOT_HEADER - 4;
const _: () = assert!(META_AT + SNAPSHOT_META_MAX <= CRC_AT);

/// Name of a snapshot's file, by the last index it contains.
#[must_use]
pub fn snapshot_file(index: Index) -> String {
    format!("snapshot-{:016}.mgs", index.0)
}

/// The first blocks of a snapshot: what it is of, and how much there is of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SnapshotHeader {
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// The last entry it contains, the end of a batch, and the chain of the log up to there.
    pub end: BatchEnd,
    /// The log time there.
    pub log_time: u64,
    /// Number of chunks.
    pub chunks: u64,
    /// Bytes of the file, the header included.
    pub length: u64,
    /// CRC-32C over the headers of all chunks in order, and through them over everything.
    pub digest: u32,
    /// The owner's bytes: for a group its membership.
    pub meta: Vec<u8>,
}

impl SnapshotHeader {
    /// Reads the header at the front of `bytes`.
    ///
    /// # Errors
    /// What is wrong with it first, in the order magic, checksum, version, content.
    pub fn decode(bytes: &[u8]) -> Result<SnapshotHeader, FormatError> {
        let bytes = head::<SNAPSHOT_HEADER>(bytes)?;
        if bytes[..4] != SNAPSHOT_MAGIC {
            return Err(FormatError::Magic);
        }
        if crc32c::crc32c(&bytes[..CRC_AT]) != u32_at(bytes, CRC_AT) {
            return Err(FormatError::HeaderCrc);
        }
        let found = u16_at(bytes, 4);
        if found != VERSION {
            return Err(FormatError::Version { found });
        }
        let (length, meta) = (u64_at(bytes, 64), u32_at(bytes, 76));
        if meta as usize > SNAPSHOT_META_MAX {
            return Err(FormatError::Length { length: meta });
        }
        let far = [32, 56, 64].into_iter().any(|at| u64_at(bytes, at) > u64::MAX / 2);
        let small = length < SNAPSHOT_HEADER as u64 || !length.is_multiple_of(BLOCK as u64);
        if far || small || u32_at(bytes, 20) != 0 || u32_at(bytes, 44) != 0 {
            return Err(FormatError::Reserved);
        }
        let index = Index(u64_at(bytes, 32));
        if index == Index::ZERO {
            return Err(FormatError::Index { first: index });
        }
        Ok(SnapshotHeader {
            cluster: ClusterId(u64_at(bytes, 8)),
            group: GroupId(u32_at(bytes, 16)),
            end: BatchEnd {
                id: EntryId::new(Term(u64_at(bytes, 24)), index),
                chain: Chain(u32_at(bytes, 40)),
            },
            log_time: u64_at(bytes, 48),
            chunks: u64_at(bytes, 56),
            length,
            digest: u32_at(bytes, 72),
            meta: bytes[META_AT..META_AT + meta as usize].to_vec(),
        })
    }

    /// The bytes of the header.
    ///
    /// # Panics
    /// If `meta` is longer than [`SNAPSHOT_META_MAX`].
    #[must_use]
    pub fn encode(&self) -> Buffer {
        assert!(self.meta.len() <= SNAPSHOT_META_MAX);
        let mut block = Buffer::zeroed(SNAPSHOT_HEADER);
        put(&mut block, 0, SNAPSHOT_MAGIC);
        put(&mut block, 4, VERSION.to_le_bytes());
        put(&mut block, 8, self.cluster.0.to_le_bytes());
        put(&mut block, 16, self.group.0.to_le_bytes());
        put(&mut block, 24, self.end.id.term.0.to_le_bytes());
        put(&mut block, 32, self.end.id.index.0.to_le_bytes());
        put(&mut block, 40, self.end.chain.0.to_le_bytes());
        put(&mut block, 48, self.log_time.to_le_bytes());
        put(&mut block, 56, self.chunks.to_le_bytes());
        put(&mut block, 64, self.length.to_le_bytes());
        put(&mut block, 72, self.digest.to_le_bytes());
        put(&mut block, 76, (self.meta.len() as u32).to_le_bytes());
        block[META_AT..META_AT + self.meta.len()].copy_from_slice(&self.meta);
        let crc = crc32c::crc32c(&block[..CRC_AT]);
        put(&mut block, CRC_AT, crc.to_le_bytes());
        block
    }
}

/// Puts chunks into the form of the file, one after the other.
#[derive(Debug)]
pub struct SnapshotMaker {
    header: SnapshotHeader,
}

impl SnapshotMaker {
    /// Begins a snapshot; counts and digest of `header` are filled in on the way.
    #[must_use]
    pub fn new(header: SnapshotHeader) -> SnapshotMaker {
        let header =
            SnapshotHeader { chunks: 0, digest: 0, length: SNAPSHOT_HEADER as u64, ..header };
        SnapshotMaker { header }
    }

    /// The next chunk: where it goes in the file, and its bytes there.
    ///
    /// # Panics
    /// If the payload is empty or larger than [`CHUNK_MAX`].
    pub fn chunk(&mut self, payload: &[u8]) -> (u64, Buffer) {
        assert!(!payload.is_empty() && payload.len() <= CHUNK_MAX);
        let mut front = [0; CHUNK_HEADER];
        put(&mut front, 0, CHUNK_MAGIC);
        put(&mut front, 4, (payload.len() as u32).to_le_bytes());
        put(&mut front, 8, self.header.end.id.index.0.to_le_bytes());
        put(&mut front, 16, self.header.chunks.to_le_bytes());
        put(&mut front, 24, sum::crc32c(payload).to_le_bytes());
        let crc = crc32c::crc32c(&front[..28]);
        put(&mut front, 28, crc.to_le_bytes());

        let mut buffer = Buffer::zeroed(in_blocks((CHUNK_HEADER + payload.len()) as u64) as usize);
        buffer[..CHUNK_HEADER].copy_from_slice(&front);
        buffer[CHUNK_HEADER..CHUNK_HEADER + payload.len()].copy_from_slice(payload);
        let offset = self.header.length;
        self.header.chunks += 1;
        self.header.length += buffer.len() as u64;
        self.header.digest = crc32c::crc32c_append(self.header.digest, &front);
        (offset, buffer)
    }

    /// What the header says so far; final when no chunk follows.
    #[must_use]
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }
}

/// Takes a file in pieces, in order, and hands out its chunks.
#[derive(Debug)]
pub struct SnapshotReader {
    header: SnapshotHeader,
    /// What has come and was not handed out.
    bytes: Vec<u8>,
    /// How much of `bytes` was handed out.
    taken: usize,
    chunks: u64,
    digest: u32,
    /// Bytes of the file that have come, the header included.
    position: u64,
}

impl SnapshotReader {
    /// Reads what follows `header`.
    #[must_use]
    pub fn new(header: SnapshotHeader) -> SnapshotReader {
        let position = SNAPSHOT_HEADER as u64;
        SnapshotReader { header, bytes: Vec::new(), taken: 0, chunks: 0, digest: 0, position }
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// How much of the file has come: where the next piece begins.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next piece of the file, at [`SnapshotReader::position`].
    pub fn feed(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(piece);
        self.position += piece.len() as u64;
    }

    /// The payload of the next chunk, if all of it has come.
    ///
    /// # Errors
    /// It is not what was written there.
    pub fn next_chunk(&mut self) -> Result<Option<&[u8]>, FormatError> {
        let bytes = &self.bytes[self.taken..];
        let Some(front) = bytes.first_chunk::<CHUNK_HEADER>() else { return Ok(None) };
        if front[..4] != CHUNK_MAGIC {
            return Err(FormatError::Magic);
        }
        if crc32c::crc32c(&front[..28]) != u32_at(front, 28) {
            return Err(FormatError::HeaderCrc);
        }
        let length = u32_at(front, 4) as usize;
        if length == 0 || length > CHUNK_MAX {
            return Err(FormatError::Length { length: length as u32 });
        }
        let ours = u64_at(front, 8) == self.header.end.id.index.0
            && u64_at(front, 16) == self.chunks
            && self.chunks < self.header.chunks;
        if !ours {
            return Err(FormatError::Identity);
        }
        let whole = in_blocks((CHUNK_HEADER + length) as u64) as usize;
        if bytes.len() < whole {
            return Ok(None);
        }
        let payload = CHUNK_HEADER..CHUNK_HEADER + length;
        if sum::crc32c(&bytes[payload.clone()]) != u32_at(front, 24) {
            return Err(FormatError::BodyCrc);
        }
        if bytes[payload.end..whole].iter().any(|&byte| byte != 0) {
            return Err(FormatError::Reserved);
        }
        self.chunks += 1;
        self.digest = crc32c::crc32c_append(self.digest, front);
        let begin = self.taken;
        self.taken += whole;
        Ok(Some(&self.bytes[begin + payload.start..begin + payload.end]))
    }

    /// Whether all chunks were handed out, and they are those that the header speaks of.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.taken == self.bytes.len()
            && self.chunks == self.header.chunks
            && self.digest == self.header.digest
            && self.position == self.header.length
    }
}
