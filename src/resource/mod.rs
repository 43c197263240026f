//! The resource module.
