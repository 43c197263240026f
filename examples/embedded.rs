//! A node inside a program, and the same program as its client: `cargo run --example embedded`.
//!
//! Where a service runs on three machines, each runs a node so and names all three in `peers`: the
//! service needs no other.

use margay::server::Node;

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A service keeps its node's directory: `.data("/var/lib/service/margay")`.
    let node = Node::builder().name("n1").temporary().start()?;
    println!("cluster {} listens on {}", node.server().cluster(), node.address());

    let client = node.client()?;
    let users = client.map("users").wait()?;
    users.put(b"ada", b"admin").wait()?;

    let node = node.restart()?;
    let admin = users.get(b"ada").wait()?.expect("what was acknowledged is there");
    println!("ada is {} since entry {}", String::from_utf8_lossy(&admin.value), admin.version);

    client.close()?;
    node.stop()?;
    Ok(())
}
