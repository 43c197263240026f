//! Bytes from a disk or a peer may be anything: nothing panics, nothing hangs, nothing is made up.

use margay_log::batch::BATCH_OFFSET;
use margay_log::disk::sim::SimDisk;
use margay_log::format::{BATCH_HEADER, BatchHeader, EntryHeader, Frame, SegmentHeader};
use margay_log::hard_state::{HardState, Newest};
use margay_log::id::{Chain, Incarnation, Index, Position, SegmentNumber, Term};
use margay_log::recover::Storage;
use margay_log::rng::Rng;
use margay_log::{Buffer, Log, Received, open};
use proptest::prelude::*;

use crate::world::{CLUSTER, GROUP, World, for_seeds, make, options, seeds};

fn check(bytes: &[u8]) -> Result<Received, margay_log::FormatError> {
    let mut buffer = Buffer::zeroed(BATCH_OFFSET + bytes.len());
    buffer[BATCH_OFFSET..][..bytes.len()].copy_from_slice(bytes);
    Received::check(buffer, bytes.len(), CLUSTER, GROUP)
}

proptest! {
    #[test]
    fn headers_of_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = BatchHeader::decode(&bytes);
        let _ = EntryHeader::decode(&bytes);
        let _ = Frame::decode(&bytes, 0);
        let _ = SegmentHeader::decode(&bytes);
        let _ = HardState::decode(&bytes);
        let _ = check(&bytes);
    }

    /// Every bit of a batch counts.
    #[test]
    fn a_changed_batch_is_refused(
        lengths in proptest::collection::vec(0..300_usize, 1..5),
        at in any::<prop::sample::Index>(),
        change in 1..=255_u8,
    ) {
        let payloads: Vec<_> = lengths.iter().map(|&length| vec![7; length]).collect();
        let mut bytes = make(margay_log::id::BatchEnd::ZERO, Term(1), &payloads);
        prop_assert!(check(&bytes).is_ok());
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert!(check(&bytes).is_err());
    }

    /// Right checksums over wrong contents: from a peer with a fault, not from a cable.
    #[test]
    fn a_batch_with_any_fields(
        numbers in any::<(u32, u64, u64, u32)>(),
        body in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let (count, term, first, length) = numbers;
        let mut bytes = vec![0; BATCH_HEADER];
        bytes.extend(&body);
        for (count, length) in [(count, length), (count % 8, bytes.len() as u32)] {
            let header = BatchHeader {
                cluster: CLUSTER,
                group: GROUP,
                count,
                term: Term(term),
                first: Index(first),
                log_time: 0,
                length,
                body_crc: crc32c::crc32c(&body),
                chain: Chain(0),
            };
            bytes[..BATCH_HEADER].copy_from_slice(&header.encode());
            if let Ok(received) = check(&bytes) {
                prop_assert_eq!(received.header().count, count);
            }
        }
    }
}

#[test]
fn a_disk_with_anything_on_it() {
    let (mut opened, mut refused) = (0, 0);
    for_seeds("a_disk_with_anything_on_it", &seeds(12), |seed| {
        let mut world = World::new(seed);
        for _ in 0..60 {
            world.act();
            while world.rng.chance(1, 2) && world.finish_one() {
                world.tell();
            }
        }
        let mut rng = Rng::new(seed);
        for _ in 0..60 {
            let mut disk = world.disk.clone();
            disk.power_cut(&mut rng);
            for _ in 0..=rng.below(6) {
                mutate(&mut disk, &mut rng);
            }
            match open(&mut disk, options()) {
                Ok(found) => {
                    holds_only_what_was_made(&world, &found.log);
                    opened += 1;
                }
                Err(_) => refused += 1,
            }
        }
    });
    println!("{opened} opened, {refused} refused");
    assert!(opened > 0 && refused > 0);
}

fn holds_only_what_was_made(world: &World, log: &Log) {
    let mut index = log.last().index;
    while index > log.start().id.index {
        let chain = log.chain_at(index);
        let made = world
            .made
            .values()
            .find(|made| made.end.id.index == index && Some(made.end.chain) == chain);
        index = made.expect("somebody made it").previous.id.index;
    }
}

fn mutate(disk: &mut SimDisk, rng: &mut Rng) {
    let segments: Vec<_> = disk.segment_numbers().collect();
    if segments.is_empty() {
        return;
    }
    let some = |rng: &mut Rng| segments[rng.below(segments.len() as u64) as usize];
    let (segment, other) = (some(rng), some(rng));
    let offset = rng.below(16) * 4096;
    match rng.below(9) {
        0 | 1 => {
            disk.flip(segment, rng.below(16 * 4096), rng.below(8) as u8);
        }
        2 => {
            disk.flip_hard_state(rng.below(4 * 4096), rng.below(8) as u8);
        }
        3 => {
            // A misdirected write, or a stale block.
            let mut block = Buffer::zeroed(4096);
            if disk.read(other, rng.below(16) * 4096, &mut block).is_ok() {
                disk.overwrite(segment, offset, &block);
            }
        }
        4 => {
            let block: Vec<_> = (0..4096).map(|_| rng.next_u64() as u8).collect();
            disk.overwrite(segment, offset, &block);
        }
        5 => disk.fail_reads_of(segment, offset),
        6 => forge(disk, rng, segment, offset.max(4096)),
        7 => forge_hard_state(disk, rng),
        _ => {
            if rng.chance(1, 8) {
                disk.shorten_segment(segment, rng.below(20) * 2048);
            }
        }
    }
}

/// A number that somebody may have counted with, or none that anybody would.
fn any_number(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => rng.below(8),
        1 => rng.below(1 << 16),
        2 => u64::MAX - rng.below(3),
        _ => rng.next_u64(),
    }
}

/// The newest hard state with one field that is not so, under a right checksum.
fn forge_hard_state(disk: &mut SimDisk, rng: &mut Rng) {
    let file = disk.hard_state().ok().flatten();
    let newest = file.and_then(|file| HardState::newest(&file).ok());
    let Some(Newest { state: mut hard, pair, .. }) = newest else { return };
    let number = any_number(rng);
    match rng.below(12) {
        0 => hard.durable.id.index = Index(number),
        1 => hard.durable.id.term = Term(number),
        2 => hard.durable.chain = Chain(number as u32),
        3 => hard.position.segment = SegmentNumber(number),
        4 => hard.position.offset = number,
        5 => hard.end = Index(number),
        6 => hard.start.id.index = Index(number),
        7 => hard.start.chain = Chain(number as u32),
        8 => hard.from.segment = SegmentNumber(number),
        9 => hard.from.offset = number,
        10 => hard.repair = Index(number),
        _ => hard.update = number,
    }
    disk.write_hard_state(pair, &hard.encode_pair()).expect("it is there");
}

/// A frame whose checksums are right and whose contents are not.
fn forge(disk: &mut SimDisk, rng: &mut Rng, segment: SegmentNumber, offset: u64) {
    let mut block = Buffer::zeroed(4096);
    let header =
        disk.read(segment, 0, &mut block).ok().and_then(|()| SegmentHeader::decode(&block).ok());
    let Some(header) = header else { return };
    let any = any_number;
    let frame = Frame {
        incarnation: if rng.chance(1, 8) { Incarnation(1) } else { header.incarnation },
        position: Position { segment, offset: if rng.chance(1, 8) { any(rng) } else { offset } },
        length: any(rng) as u32 & !15,
        durable: Index(any(rng)),
        durable_chain: Chain(any(rng) as u32),
        hard_state: if rng.chance(1, 8) { any(rng) } else { 0 },
    };
    let batch = BatchHeader {
        cluster: CLUSTER,
        group: GROUP,
        count: any(rng) as u32,
        term: Term(any(rng)),
        first: Index(any(rng)),
        log_time: 0,
        length: frame.length.wrapping_sub(64),
        body_crc: any(rng) as u32,
        chain: Chain(any(rng) as u32),
    };
    block.fill(0);
    block[..64].copy_from_slice(&frame.encode(header.salt));
    block[64..128].copy_from_slice(&batch.encode());
    disk.overwrite(segment, offset, &block);
}
