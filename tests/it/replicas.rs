//! Groups of real replicas, each with its log on a simulated disk: scenarios that need more than
//! the core and less than a process. They are listed in `docs/TESTING.md`.

mod alone;
mod caller;
mod clients;
mod group;
mod leaders;
mod snapshots;
mod storage;
