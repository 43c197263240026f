//! margay: a thread-per-core replicated log on io_uring, and distributed resources on top of it.
#![deny(unsafe_code)]

pub mod client;
pub mod machine;
pub mod raft;
pub mod replica;
pub mod resource;
pub mod wire;
#[cfg(feature = "sim")]
pub mod sim;
