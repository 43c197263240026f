//! Tests of the library from outside, in one binary.

mod client;
mod machine;
mod raft;
mod resource;
mod script;
mod wire;
