//! The tests of margay-log that need more than one module: one binary.

#[cfg(feature = "sim")]
mod smoke;
