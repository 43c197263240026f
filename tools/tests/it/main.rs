//! The binary, as users run it: real processes, sockets and disks.

mod bad;
mod cli;
mod coordination;
mod cut_off;
mod harness;
mod kill;
mod laggard;
mod leaders;
mod log;
mod manage;
mod members;
mod shell;
mod signals;
mod sim;
mod snapshots;
mod tls;
mod txn;
mod verbs;

// What the demo starts and proves is what is tested here.
#[allow(dead_code)]
#[path = "../../src/ids.rs"]
mod ids;
#[allow(dead_code)]
#[path = "../../src/nodes.rs"]
mod nodes;
#[allow(dead_code)]
#[path = "../../src/sys.rs"]
mod sys;
