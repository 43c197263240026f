//! One client, three ways to wait: threads, tokio and glommio. `cargo run --example runtimes`.
//!
//! Replies are futures of no runtime, and events are streams: the same code runs anywhere.

use std::time::Duration;

use margay::client::{Client, Group};
use margay::machine::Filter;
use margay::resource::{Failure, LockGuard, Map};
use margay::server::Node;

/// Work that only one of all may do at a time, and that stops when it may no longer.
async fn promote(client: &Client, name: &str) -> Result<u64, Failure> {
    let guard: LockGuard<Group> = client.lock("promotion").await?.lock().await?;
    // Beside longer work: select between the work and `guard.lost()`.
    let users: Map<Group> = client.map("users").await?;
    users.put(name.as_bytes(), b"admin").await?;
    let token = guard.token();
    guard.unlock().await?;
    Ok(token)
}

/// The same without any runtime.
fn promote_blocking(client: &Client, name: &str) -> Result<u64, Failure> {
    let guard = client.lock("promotion").wait()?.lock().wait()?;
    client.map("users").wait()?.put(name.as_bytes(), b"admin").wait()?;
    let token = guard.token();
    guard.unlock().wait()?;
    Ok(token)
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::builder().temporary().start()?;
    let client = node.client()?;
    let mut changes = client.map("users").wait()?.watch(None, Filter::All);

    let first = promote_blocking(&client, "ada")?;

    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let endpoint = node.address().to_string();
    let second = tokio.block_on(async {
        let client = Client::builder().endpoints([endpoint]).connecting().await?;
        let promoted = promote(&client, "bob");
        let promoted = tokio::time::timeout(Duration::from_secs(10), promoted).await;
        client.closing().await?;
        promoted.expect("in time")
    })?;

    let inside = client.clone();
    let executor = glommio::LocalExecutorBuilder::default()
        .spawn(move || async move { promote(&inside, "cleo").await })
        .map_err(|error| error.to_string())?;
    let third = executor.join().map_err(|error| error.to_string())??;

    assert!(first < second && second < third, "tokens rise");
    for _ in 0..3 {
        println!("{:?}", changes.wait_next()?);
    }
    client.close()?;
    node.stop()?;
    Ok(())
}
