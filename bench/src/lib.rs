//! Load generator and measuring stick of margay.
//!
//! [`load`] drives client sessions against a cluster; [`floor`] moves the bytes of a replicated
//! append with no protocol: what the machine allows. Both drive a [`ring`] of their own and answer
//! with a [`report::Report`]. [`log`] measures the commit log alone.
#![deny(unsafe_code)]

pub mod floor;
mod line;
pub mod load;
pub mod log;
pub mod report;
pub mod ring;
