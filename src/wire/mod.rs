//! The wire module.
