//! The examples, run.

#[cfg(feature = "sim")]
#[path = "../../examples/check_machine.rs"]
mod check_machine;
#[path = "../../examples/custom_machine.rs"]
mod custom_machine;
#[path = "../../examples/custom_resource.rs"]
mod custom_resource;
#[path = "../../examples/election.rs"]
mod election;
#[path = "../../examples/embedded.rs"]
mod embedded;
#[path = "../../examples/event_log.rs"]
mod event_log;
#[path = "../../examples/lock.rs"]
mod lock;
#[path = "../../examples/runtimes.rs"]
mod runtimes;
#[path = "../../examples/scale.rs"]
mod scale;
#[path = "../../examples/task_queue.rs"]
mod task_queue;
#[path = "../../examples/watch.rs"]
mod watch;

#[test]
fn examples_do_what_they_say() {
    embedded::main().expect("embedded");
    custom_resource::main().expect("custom_resource");
    custom_machine::main().expect("custom_machine");
    runtimes::main().expect("runtimes");
}

#[test]
fn examples_of_resources_do_what_they_say() {
    lock::main().expect("lock");
    election::main().expect("election");
    task_queue::main().expect("task_queue");
    watch::main().expect("watch");
    event_log::main().expect("event_log");
}

#[cfg(feature = "sim")]
#[test]
fn a_machine_of_ones_own_is_simulated() {
    check_machine::main().expect("check_machine");
}

#[test]
fn many_sessions_resources_and_waiters_are_carried_over_a_fail_over() {
    let timeout = std::time::Duration::from_secs(4);
    let load = scale::Load { sessions: 1_000, resources: 2_000, waiters: 200, timeout };
    scale::state(load).expect("the state");
    scale::cluster(load).expect("the cluster");
}
