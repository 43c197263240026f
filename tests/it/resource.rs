//! Resources: against plain models, as handles show them, and against bad input.

mod collections;
mod events;
mod golden;
mod handles;
mod hostile;
mod lives;
mod lock;
mod models;
mod registry;
pub(crate) mod script;
mod tree;
