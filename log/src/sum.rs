//! CRC-32C of bodies: of whatever may be long. With the widest vector instructions of the
//! processor, which is about four times as fast as its instruction for the same checksum; that
//! (`crc32c`) is for heads of some 60 bytes, and tells in tests whether this is right.

use crc_fast::{CrcAlgorithm, Digest};

/// The checksum of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    append(0, bytes)
}

/// The checksum of what `crc` is the checksum of, with `bytes` behind.
#[must_use]
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of the catalogue of CRCs, and another implementation at lengths and
    /// alignments around every step of this one.
    #[test]
    fn is_the_checksum_that_everybody_knows() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let bytes: Vec<u8> =
            (0..40_000_u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
        for length in (0..700).chain([1_023, 1_024, 4_095, 4_097, 24 << 10, 39_900]) {
            for from in [0, 1, 7, 33] {
                let bytes = &bytes[from..from + length];
                assert_eq!(crc32c(bytes), crc32c::crc32c(bytes), "{length} bytes from {from}");
                let (front, behind) = bytes.split_at(length / 3);
                assert_eq!(append(crc32c(front), behind), crc32c(bytes), "{length} bytes in two");
            }
        }
    }
}
