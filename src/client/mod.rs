//! The client module.
