//! Integration tests of the library, one binary.

mod client;
mod wire;
