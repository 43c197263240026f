//! Resources: against plain models, as handles show them, and against bad input.

mod bounds;
mod claims;
mod collections;
mod election;
mod ends;
mod events;
mod gather;
mod given_back;
mod golden;
mod group;
mod guards;
mod handles;
mod hostile;
mod lives;
mod lock;
mod log;
mod membership;
mod models;
mod queue;
mod registry;
pub(crate) mod script;
mod topic;
mod transaction;
mod tree;
