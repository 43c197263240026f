//! margay-log: an embeddable commit log.
#![deny(unsafe_code)]

pub mod batch;
#[allow(unsafe_code)]
pub mod buffer;
pub mod disk;
pub mod error;
pub mod format;
pub mod hard_state;
pub mod id;
pub mod log;
mod options;
mod progress;
mod read;
pub mod recover;
#[cfg(feature = "sim")]
pub mod rng;
mod segment;
mod tail;
mod walk;
mod writer;

pub use crate::batch::{Batch, Entry, Received};
pub use crate::buffer::Buffer;
pub use crate::error::{Error, FormatError, Full, Refused};
pub use crate::log::{Log, Space};
pub use crate::options::Options;
pub use crate::progress::Progress;
pub use crate::read::Read;
pub use crate::recover::{Opened, Report, open};
