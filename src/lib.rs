//! margay: a replicated log, one shard per core, and coordination on top of it.
//!
//! A cluster is a few nodes; each runs Raft groups on thread-per-core shards with one io_uring for
//! sockets and log. In the groups live named resources: values, maps, queues, locks, elections and
//! more, with a fencing token on every grant. Every answer waits until a majority of disks holds
//! what it says.
//!
//! Most programs want the client:
//!
//! ```no_run
//! use margay::client::Client;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
//! let users = client.map("users").wait()?; // or .await, in any runtime
//! users.put(b"ada", b"admin").wait()?;
//!
//! let nightly = client.lock("nightly").wait()?;
//! let guard = nightly.lock().wait()?;
//! println!("pass {} to whatever the lock protects", guard.token());
//! guard.unlock().wait()?;
//! client.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # The parts, from the bottom up
//!
//! | module | decides or does | knows no |
//! |---|---|---|
//! | [`raft`] | positions: who leads, what is committed | bytes, disks, sockets, clocks |
//! | [`wire`] | bytes of hellos and frames | sockets |
//! | [`machine`] | sessions, log time, exactly-once | resources |
//! | [`resource`] | what users came for | client, network |
//! | [`replica`] | one group on one node: core, log, machine | sockets, files |
//! | [`client`] | sessions without I/O, and a thread that drives them | servers |
//! | `server` | shards, rings, files (feature `server`, default) | |
//! | `sim` | whole clusters from one seed (feature `sim`) | |
//!
//! Without default features the library builds on any platform and needs neither glommio nor
//! io_uring: that is what clients take.
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
#[cfg(feature = "sim")]
pub mod sim;
pub mod tls;
pub mod wire;
