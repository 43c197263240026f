//! The Raft core: positions only.
pub mod message;
