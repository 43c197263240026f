//! Style and arrow check.
fn main() {}
