//! Tests of the library from outside, in one binary.

mod client;
#[cfg(feature = "server")]
mod embed;
#[cfg(feature = "server")]
mod examples;
mod machine;
#[cfg(all(feature = "server", feature = "serde"))]
mod members;
#[cfg(feature = "server")]
mod own;
mod papers;
mod raft;
#[cfg(feature = "sim")]
mod replicas;
mod resource;
mod script;
#[cfg(feature = "server")]
mod sessions;
#[cfg(feature = "server")]
mod shard;
#[cfg(feature = "sim")]
mod sim;
#[cfg(all(feature = "server", feature = "serde"))]
mod typed;
mod wire;
