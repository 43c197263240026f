//! The examples, run.

#[path = "../../examples/custom_machine.rs"]
mod custom_machine;
#[path = "../../examples/custom_resource.rs"]
mod custom_resource;
#[path = "../../examples/embedded.rs"]
mod embedded;
#[path = "../../examples/runtimes.rs"]
mod runtimes;

#[test]
fn examples_do_what_they_say() {
    embedded::main().expect("embedded");
    custom_resource::main().expect("custom_resource");
    custom_machine::main().expect("custom_machine");
    runtimes::main().expect("runtimes");
}
