//! margay: a thread-per-core replicated log on io_uring, and distributed resources on top of it.
#![deny(unsafe_code)]

pub mod client;
pub mod config;
pub mod error;
pub mod forming;
pub mod machine;
pub mod raft;
pub mod replica;
pub mod resource;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
mod shard;
pub mod wire;
#[cfg(feature = "sim")]
pub mod sim;
