//! Tests of the library from outside, in one binary.

mod client;
#[cfg(feature = "server")]
mod embed;
mod machine;
mod raft;
mod resource;
mod script;
#[cfg(feature = "server")]
mod shard;
#[cfg(feature = "sim")]
mod sim;
mod wire;
