//! What goes out on one connection: bytes, with whole batches in between that are not copied.

use std::sync::Arc;

use margay_log::batch::Batch;

use crate::config;

/// A batch up to this size is copied behind its frame: cheaper than one more piece to gather.
const COPY_MAX: usize = 16 << 10;

/// Bytes to send, in order. While the ring sends one outbox the connection fills another.
#[derive(Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// (position in `bytes` before which the batch goes, the batch), rising.
    batches: Vec<(usize, Arc<Batch>)>,
    /// Sizes of `batches` added up.
    batch_bytes: usize,
}

impl Outbox {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.batch_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.batches.is_empty()
    }

    /// Where frames may be appended.
    pub(crate) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// A frame, and the batch that follows it.
    pub(crate) fn push(&mut self, frame: &[u8], batch: Option<&Arc<Batch>>) {
        self.bytes.extend_from_slice(frame);
        let Some(batch) = batch else { return };
        if batch.bytes().len() <= COPY_MAX {
            self.bytes.extend_from_slice(batch.bytes());
        } else {
            self.batches.push((self.bytes.len(), Arc::clone(batch)));
            self.batch_bytes += batch.bytes().len();
        }
    }

    /// Everything is one piece of contiguous bytes.
    pub(crate) fn is_plain(&self) -> bool {
        self.batches.is_empty()
    }

    /// The pieces in order, without the first `skip` bytes of them all.
    pub(crate) fn pieces(&self, mut skip: usize) -> impl Iterator<Item = &[u8]> {
        let mut from = 0;
        let tail = std::iter::once((self.bytes.len(), None));
        let cuts = self.batches.iter().map(|(at, batch)| (*at, Some(batch))).chain(tail);
        cuts.flat_map(move |(at, batch)| {
            let plain = &self.bytes[from..at];
            from = at;
            [plain, batch.map_or(&[][..], |batch| batch.bytes())]
        })
        .filter_map(move |piece| {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            Some(&piece[skipped..]).filter(|rest| !rest.is_empty())
        })
    }

    /// Forgets what was sent. Keeps a buffer of usual size for the next turn and gives a large one
    /// back.
    pub(crate) fn clear(&mut self) {
        if self.bytes.capacity() > config::OUT_BYTES_KEPT {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
        }
        self.batches.clear();
        self.batch_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use margay_log::Options;
    use margay_log::disk::direct::Direct;
    use margay_log::format::EntryHeader;
    use margay_log::id::Term;
    use std::path::Path;

    fn batch(directory: &Path, size: usize) -> Arc<Batch> {
        let path = directory.join(size.to_string());
        let mut files = Direct::open(&path).expect("a new directory");
        let options = Options { segment_first: 1 << 20, ..Options::default() };
        let mut log = margay_log::open(&mut files, options).expect("a new log").log;
        log.push(&EntryHeader::default(), &vec![7; size]).expect("room");
        log.seal(Term(1), 0).expect("sealed")
    }

    #[test]
    fn pieces_add_up_wherever_a_send_was_cut() {
        let name = format!("margay-outbox-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let (small, large) = (batch(&directory, 100), batch(&directory, 50_000));
        std::fs::remove_dir_all(&directory).expect("it is ours");
        let mut outbox = Outbox::default();
        outbox.push(b"one", None);
        outbox.push(b"two", Some(&large));
        outbox.push(b"three", Some(&small));
        outbox.push(b"four", Some(&large));
        assert!(!outbox.is_plain());
        let mut all = b"onetwo".to_vec();
        all.extend_from_slice(large.bytes());
        all.extend_from_slice(b"three");
        all.extend_from_slice(small.bytes());
        all.extend_from_slice(b"four");
        all.extend_from_slice(large.bytes());
        assert_eq!(outbox.len(), all.len());
        for skip in [0, 1, 3, 6, 7, 30_000, all.len() - 1, all.len()] {
            assert_eq!(outbox.pieces(skip).collect::<Vec<_>>().concat(), all[skip..], "{skip}");
        }
        outbox.clear();
        assert!(outbox.is_empty() && outbox.is_plain());
    }
}
