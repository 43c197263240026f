//! Tests of the library from outside, in one binary.

mod client;
mod raft;
mod script;
mod wire;
