//! An election, and work that only the leader does: `cargo run --example election`. Inside tokio.
//!
//! The work runs as a task of its own and is stopped when the lead is lost. What it writes to
//! checks the term, as with any lock: a stopped task may have had one more write on its way.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use margay::client::Client;
use margay::resource::Failure;
use margay::server::Node;

/// What the leaders have done: term and candidate of each step.
type Done = Arc<Mutex<Vec<(u64, &'static str)>>>;

/// What a leader does for as long as it leads.
async fn schedule(term: u64, name: &'static str, done: Done) {
    loop {
        done.lock().expect("no panic").push((term, name));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A candidate's life: leads, works, loses the lead, ends. A real one would stand again.
async fn candidate(client: Client, name: &'static str, done: Done) -> Result<u64, Failure> {
    let lead = client.election("scheduler").await?.campaign(name.as_bytes()).await?;
    let work = tokio::spawn(schedule(lead.term(), name, done));
    // Resolves when somebody else may lead, and fails where this client was closed.
    let _ = lead.lost().await;
    work.abort();
    Ok(lead.term())
}

/// Waits until somebody has led and worked. Who leads is known before he is told himself.
async fn worked(name: &str, done: &Done) {
    while done.lock().expect("no panic").iter().all(|step| step.1 != name) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn run(node: &Node) -> Result<(), Box<dyn std::error::Error>> {
    let done = Done::default();
    let (ada, bob) = (node.client()?, node.client()?);
    let first = tokio::spawn(candidate(ada.clone(), "ada", Arc::clone(&done)));
    worked("ada", &done).await;
    let election = bob.election("scheduler").await?;
    let second = tokio::spawn(candidate(bob.clone(), "bob", Arc::clone(&done)));
    while election.candidates().await?.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // The leader's machine goes. The next in the row leads as soon as its session is over.
    ada.close()?;
    let before = first.await??;
    let after = loop {
        match election.leader().await? {
            Some(leader) if leader.data == b"bob" => break leader.term,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    assert!(after > before, "terms rise");
    worked("bob", &done).await;
    bob.close()?;
    assert_eq!(second.await??, after);

    let done = done.lock().expect("no panic");
    assert!(done.windows(2).all(|pair| pair[0].0 <= pair[1].0), "one leader at a time");
    assert!(done.contains(&(before, "ada")) && done.contains(&(after, "bob")));
    println!("{} steps under terms {before} and {after}", done.len());
    Ok(())
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::builder().temporary().start()?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    tokio.block_on(run(&node))?;
    node.stop()?;
    Ok(())
}
