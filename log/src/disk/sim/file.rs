//! A file of the simulated disk: what is stored, sector by sector.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::EIO;
use crate::disk::DiskError;
use crate::format::{BLOCK, SECTOR};

/// A block that was written. Cloning shares it.
#[derive(Clone, Debug)]
pub(super) struct Block {
    bytes: Arc<[u8; BLOCK]>,
    /// It was written when the file was another segment.
    pub(super) is_old: bool,
}

/// Bytes of a file: blocks that are not there are zeros.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) size: u64,
    pub(super) blocks: BTreeMap<u64, Block>,
}

impl File {
    pub(super) fn new(size: u64) -> File {
        File { size, blocks: BTreeMap::new() }
    }

    fn write_sector(&mut self, offset: u64, sector: &[u8]) {
        let (block, within) = (offset / BLOCK as u64, (offset % BLOCK as u64) as usize);
        let block = self.blocks.entry(block).or_default();
        block.is_old = false;
        Arc::make_mut(&mut block.bytes)[within..within + SECTOR].copy_from_slice(sector);
    }

    /// Writes the sectors for which `lands` says so.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], mut lands: impl FnMut() -> bool) {
        assert!(offset.is_multiple_of(BLOCK as u64) && bytes.len().is_multiple_of(BLOCK));
        assert!(offset + bytes.len() as u64 <= self.size, "a write inside the file");
        for (at, sector) in bytes.chunks(SECTOR).enumerate() {
            if lands() {
                self.write_sector(offset + (at * SECTOR) as u64, sector);
            }
        }
    }

    /// Whether nothing was written there since the file has been this segment.
    pub(super) fn is_fresh(&self, offset: u64, length: usize) -> bool {
        let first = offset / BLOCK as u64;
        let mut written = self.blocks.range(first..first + (length / BLOCK) as u64);
        written.all(|(_, block)| block.is_old || *block.bytes == [0; BLOCK])
    }

    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        assert!(offset.is_multiple_of(BLOCK as u64) && bytes.len().is_multiple_of(BLOCK));
        if offset + bytes.len() as u64 > self.size {
            return Err(EIO);
        }
        for (at, block) in bytes.chunks_mut(BLOCK).enumerate() {
            match self.blocks.get(&(offset / BLOCK as u64 + at as u64)) {
                Some(stored) => block.copy_from_slice(&stored.bytes[..]),
                None => block.fill(0),
            }
        }
        Ok(())
    }

    /// Flips a bit. False if the file ends before it.
    pub(super) fn flip(&mut self, offset: u64, bit: u8) -> bool {
        if offset >= self.size {
            return false;
        }
        let block = self.blocks.entry(offset / BLOCK as u64).or_default();
        Arc::make_mut(&mut block.bytes)[(offset % BLOCK as u64) as usize] ^= 1 << (bit % 8);
        true
    }
}

impl Default for Block {
    fn default() -> Block {
        Block { bytes: Arc::new([0; BLOCK]), is_old: false }
    }
}
