//! Reading the hard state's file: four slots, two of each pair, of which the disk may not give all.

use std::io::{self, ErrorKind};

use crate::disk::DiskError;
use crate::disk::sys::disk_error;
use crate::format::BLOCK;
use crate::hard_state::PAIR_BYTES;

/// Fills `bytes` with a hard-state file, slot by slot. One that the disk does not give is zeros, as
/// long as it gives the other of the pair: that is what there are two for. A file that is too short
/// has zeros at its end.
pub(crate) fn read_slots(
    bytes: &mut [u8],
    read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
) -> Result<(), DiskError> {
    let mut offset = 0;
    for pair in bytes.chunks_mut(PAIR_BYTES) {
        let mut failed = Vec::new();
        for slot in pair.chunks_mut(BLOCK) {
            if let Err(error) = read_slot(slot, offset, &read) {
                slot.fill(0);
                failed.push(error);
            }
            offset += BLOCK as u64;
        }
        if let [_, error] = &failed[..] {
            return Err(disk_error(error));
        }
    }
    Ok(())
}

fn read_slot(
    slot: &mut [u8],
    offset: u64,
    read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let mut at = 0;
    while at < slot.len() {
        match read(&mut slot[at..], offset + at as u64) {
            Ok(0) => break,
            Ok(read) => at += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hard_state::HARD_STATE_BYTES;

    /// A sector of the hard state cannot be read: its twin is there.
    #[test]
    fn a_slot_that_the_disk_does_not_give_is_one_of_two() {
        let given = |lost: &[u64]| {
            let lost = lost.to_vec();
            let mut bytes = vec![0; HARD_STATE_BYTES];
            let read = |bytes: &mut [u8], at: u64| {
                // A read of several sectors fails as a whole.
                let sectors = at / BLOCK as u64..(at + bytes.len() as u64).div_ceil(BLOCK as u64);
                if lost.iter().any(|sector| sectors.contains(sector)) {
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
                bytes.fill(sectors.start as u8 + 1);
                Ok(bytes.len())
            };
            let result = read_slots(&mut bytes, read);
            result.map(|()| bytes.chunks(BLOCK).map(|slot| slot[BLOCK / 2]).collect::<Vec<_>>())
        };
        assert_eq!(given(&[]), Ok(vec![1, 2, 3, 4]));
        assert_eq!(given(&[0, 3]), Ok(vec![0, 2, 3, 0]));
        assert_eq!(given(&[2, 3]), Err(DiskError { errno: libc::EIO }));
    }
}
