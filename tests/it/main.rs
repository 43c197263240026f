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
#[cfg(feature = "server")]
mod tls;
#[cfg(all(feature = "server", feature = "serde"))]
mod typed;
mod wire;

/// Only whoever hangs is ended by this: the machine may stand still for a while, or have much else
/// to do.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
