//! The tests of margay-log that need more than one module: one binary.

#[cfg(feature = "direct")]
mod allocations;
#[cfg(feature = "direct")]
mod commit_log;
#[cfg(all(feature = "sim", feature = "direct"))]
mod compaction;
#[cfg(feature = "uring")]
mod completions;
#[cfg(any(feature = "sim", feature = "direct"))]
mod conformance;
#[cfg(feature = "direct")]
mod directory;
#[cfg(feature = "direct")]
mod driving;
#[cfg(feature = "sim")]
mod faults;
#[cfg(feature = "direct")]
mod full;
#[cfg(all(feature = "sim", feature = "direct"))]
mod fuzz;
mod golden;
#[cfg(feature = "direct")]
mod handle;
#[cfg(feature = "sim")]
mod mutation;
#[cfg(feature = "sim")]
mod power_cut;
#[cfg(feature = "direct")]
mod repair;
#[cfg(feature = "sim")]
mod rot;
#[cfg(feature = "direct")]
mod runtimes;
#[cfg(feature = "sim")]
mod sectors;
mod snapshots;
#[cfg(feature = "typed")]
mod typed;
#[cfg(feature = "sim")]
mod world;
