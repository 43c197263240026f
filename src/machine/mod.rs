//! The machine module.
