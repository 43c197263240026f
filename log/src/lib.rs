//! An embeddable commit log: segmented, direct I/O, checked batch by batch.
//!
//! A [`Log`] does no I/O. It emits [`disk::Op`]s and is told [`disk::Done`]s; whoever drives it
//! owns the disk. Entries are pushed into an open batch, which is sealed as a whole, written as a
//! whole, and sent to other nodes as the same bytes. What is durable, what a crash leaves and how
//! damage is told is written down in [`log`], [`mod@recover`] and the package's README.
//!
//! ```
//! # #[cfg(feature = "direct")] {
//! use margay_log::disk::{Disk, direct::Direct};
//! use margay_log::format::EntryHeader;
//! use margay_log::id::{Index, Term};
//! use margay_log::{Log, Opened, Options, Read, open};
//!
//! /// Does what the log wants done, until there is nothing left.
//! fn drive(log: &mut Log, disk: &mut dyn Disk) -> Result<(), margay_log::Error> {
//!     let mut done = Vec::new();
//!     loop {
//!         log.ops().for_each(|op| disk.submit(op));
//!         disk.poll(true, &mut done);
//!         if done.is_empty() {
//!             return Ok(());
//!         }
//!         for done in done.drain(..) {
//!             log.on_done(done)?;
//!         }
//!     }
//! }
//!
//! # let directory = std::env::temp_dir().join(format!("margay-log-doc-{}", std::process::id()));
//! # let _ = std::fs::remove_dir_all(&directory);
//! # fn run(directory: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
//! // Open: lock the directory, verify what is there, say what was found.
//! let mut disk = Direct::open(directory)?;
//! let Opened { mut log, report, .. } = open(&mut disk, Options::default())?;
//! assert_eq!(report.damage, None);
//!
//! // Append, and make durable.
//! log.push(&EntryHeader::default(), b"hello")?;
//! log.push(&EntryHeader::default(), b"world")?;
//! log.seal(Term(1), 0)?;
//! drive(&mut log, &mut disk)?;
//! assert_eq!(log.durable(), Index(2));
//!
//! // Open again, and read back: what is not in memory is fetched first.
//! drop((log, disk));
//! let mut disk = Direct::open(directory)?;
//! let mut log = open(&mut disk, Options::default())?.log;
//! let mut batches = Vec::new();
//! while let Read::Pending(_) = log.read(Index::ZERO, 1 << 20, &mut batches) {
//!     drive(&mut log, &mut disk)?;
//! }
//! let words: Vec<&[u8]> = batches[0].entries().map(|entry| entry.payload).collect();
//! assert_eq!(words, [b"hello", b"world"]);
//! # Ok(())
//! # }
//! # run(&directory).expect("the example runs");
//! # std::fs::remove_dir_all(&directory).expect("it is ours");
//! # }
//! ```
#![deny(unsafe_code)]

pub mod batch;
#[doc(hidden)]
pub mod breaks;
#[allow(unsafe_code)]
pub mod buffer;
pub mod clean;
#[cfg(feature = "direct")]
pub mod commit_log;
#[cfg(any(feature = "direct", feature = "sim"))]
mod cut;
pub mod disk;
pub mod error;
pub mod format;
pub mod hard_state;
pub mod id;
pub mod log;
mod options;
mod pack;
#[cfg(feature = "direct")]
mod place;
mod progress;
mod read;
pub mod recover;
#[cfg(feature = "direct")]
pub mod repair;
#[cfg(feature = "sim")]
pub mod rng;
mod segment;
pub mod snapshot;
mod space;
mod spare;
pub mod sum;
mod tail;
mod truncate;
mod walk;
mod writer;

pub use crate::batch::{Batch, Entry, Received};
pub use crate::buffer::Buffer;
pub use crate::error::{Error, FormatError, Full, Refused};
pub use crate::log::{Log, Space};
pub use crate::options::Options;
pub use crate::progress::Progress;
pub use crate::read::Read;
pub use crate::recover::{Found, Opened, Report, open, open_unless};
