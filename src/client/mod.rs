//! Talks to a cluster.

mod backoff;
mod calls;
mod config;
mod endpoints;
mod holdings;
pub mod session;
mod stream;
mod subscriptions;
