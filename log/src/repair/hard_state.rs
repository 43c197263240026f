//! A hard state that is lost, made anew from what is left: segments say whose they are, and frames
//! how far the log was durable and which hard state was.
//!
//! The owner's bytes are in nothing else and stay lost. No I/O here.

use super::Listed;
use crate::error::Error;
use crate::format::{BATCH_HEADER, BLOCK, BatchHeader, FRAME, Frame, SegmentHeader};
use crate::hard_state::HardState;
use crate::id::{BatchEnd, Chain, EntryId, Index, Position, SegmentNumber, Term};
use crate::pack::PackFrame;

/// What segments and frames say. `read` gives all bytes of a segment's file.
pub(super) fn hard_state_of(
    files: &[Listed],
    mut read: impl FnMut(SegmentNumber) -> Result<Vec<u8>, Error>,
) -> Result<HardState, Error> {
    let Some((number, header)) =
        files.iter().find_map(|(number, _, header)| header.map(|header| (*number, header)))
    else {
        return Err(Error::Unsupported {
            action: "repair the log",
            reason: "neither its hard state nor the header of any segment is readable",
        });
    };
    if files.first().is_some_and(|&(first, _, _)| first != number) {
        return Err(Error::Unsupported {
            action: "repair the log",
            reason: "its hard state and the header of its first segment are both unreadable",
        });
    }
    let (start, update) = beginning(files, &header, &mut read)?;
    let from = Position { segment: number, offset: BLOCK as u64 };
    Ok(HardState {
        incarnation: header.incarnation,
        cluster: header.cluster,
        group: header.group,
        salt: header.salt,
        update: update + 1,
        durable: start,
        position: from,
        end: start.id.index,
        start,
        from,
        repair: Index::ZERO,
        meta: Vec::new(),
    })
}

/// What the log begins behind, and the newest hard state that any frame knows of.
fn beginning(
    files: &[Listed],
    header: &SegmentHeader,
    read: &mut impl FnMut(SegmentNumber) -> Result<Vec<u8>, Error>,
) -> Result<(BatchEnd, u64), Error> {
    let (mut update, mut first, mut claims) = (0, None, Vec::new());
    for &(number, size, _) in files {
        let bytes = read(number)?;
        for offset in (BLOCK..size as usize).step_by(BLOCK) {
            let Some(block) = bytes.get(offset..offset + BLOCK) else { break };
            let frame = Frame::decode(block, header.salt);
            let pack = || PackFrame::decode(block, header.salt).map(|pack| pack.frame);
            let position = Position { segment: number, offset: offset as u64 };
            // Of a file that is used again much is another segment's.
            let frame = frame.or_else(|_| pack()).ok();
            let Some(frame) = frame.filter(|frame| frame.position == position) else {
                continue;
            };
            update = update.max(frame.hard_state);
            let Ok(batch) = BatchHeader::decode(&block[FRAME..FRAME + BATCH_HEADER]) else {
                continue;
            };
            first = first.or(Some(batch));
            claims.push((frame.durable, frame.durable_chain));
        }
    }
    let Some(first) = first else { return Ok((BatchEnd::ZERO, update)) };
    if first.first == Index(1) {
        return Ok((BatchEnd::ZERO, update));
    }
    let before = first.prev();
    let chain = claims.iter().find(|(index, _)| *index == before).map(|&(_, chain)| chain);
    match chain.filter(|&chain: &Chain| first.follows(chain)) {
        Some(chain) => {
            let id = EntryId::new(Term::ZERO, before);
            Ok((BatchEnd { id, chain }, update))
        }
        None => Err(Error::Unsupported {
            action: "repair the log",
            reason: "without its hard state nothing says where it begins",
        }),
    }
}
