//! What is measured: how many entries of which size go together, from how many threads.

/// A kind of append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// As it is shown.
    pub name: &'static str,
    /// Entries appended together.
    pub count: usize,
    /// Bytes of each.
    pub size: usize,
    /// Who append, each waiting for its own.
    pub appenders: usize,
    /// The appenders are futures, all polled by one thread; else each is a thread.
    pub futures: bool,
}

/// All of them.
pub const ROWS: [Row; 6] = [
    Row::alone("1 x 64 B", 1, 64),
    Row::alone("64 x 64 B", 64, 64),
    Row::alone("256 x 1 KiB", 256, 1024),
    Row::alone("1024 x 1 KiB", 1024, 1024),
    Row { appenders: 64, ..Row::alone("64 threads, 1 x 64 B", 1, 64) },
    Row { appenders: 64, futures: true, ..Row::alone("64 futures, 1 x 64 B", 1, 64) },
];

/// No contender appends more payload than this in a round.
const PAYLOAD_MAX: u64 = 1 << 30;
/// Nor more batches.
const BATCHES_MAX: u64 = 200_000;

impl Row {
    /// Of one appender.
    pub(super) const fn alone(name: &'static str, count: usize, size: usize) -> Row {
        Row { name, count, size, appenders: 1, futures: false }
    }

    /// Name of the contender without a log that does as much as must be done: for many appenders it
    /// wakes them.
    #[must_use]
    pub fn ceiling(&self) -> &'static str {
        match (self.appenders, self.futures) {
            (1, _) => "ceiling",
            (_, true) => "no log, futures woken",
            (_, false) => "no log, threads woken",
        }
    }

    /// Bytes of payload in a batch.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        (self.count * self.size) as u64
    }

    /// Batches of a contender in a round, at most.
    #[must_use]
    pub fn batches_max(&self) -> u64 {
        (PAYLOAD_MAX / self.payload_bytes()).min(BATCHES_MAX)
    }

    /// What margay writes for a batch of these entries: frame, headers, padding to the block.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        let entries = self.count * (48 + self.size.next_multiple_of(16));
        (64 + 64 + entries as u64).next_multiple_of(4096)
    }

    /// Bytes on disk that these come to.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        self.batches_max() * self.block_bytes()
    }

    /// The entries of a batch: bytes that do not compress.
    #[must_use]
    pub fn entries(&self) -> Vec<Vec<u8>> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut byte = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..self.count).map(|_| (0..self.size).map(|_| byte()).collect()).collect()
    }
}
