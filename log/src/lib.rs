//! margay-log: an embeddable commit log.
#![deny(unsafe_code)]

pub mod disk;
pub mod id;
