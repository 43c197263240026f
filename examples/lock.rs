//! A lock, and what makes it safe: `cargo run --example lock`. Plain threads.
//!
//! Whoever holds a lock can be cut off without noticing, and go on. So every grant has a token that
//! rises, and what the lock protects refuses tokens below the highest it has seen.

use std::sync::Mutex;
use std::time::Duration;

use margay::server::Node;

/// Where the work goes: a file, a database, another service. It must know tokens.
#[derive(Default)]
struct Storage(Mutex<(u64, Vec<String>)>);

impl Storage {
    fn write(&self, token: u64, line: &str) -> Result<(), String> {
        let mut stored = self.0.lock().expect("nobody panics while writing");
        if token < stored.0 {
            return Err(format!("token {token} is stale, {} has been here", stored.0));
        }
        stored.0 = token;
        stored.1.push(line.to_owned());
        Ok(())
    }
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::builder().temporary().start()?;
    let storage = Storage::default();

    // Two machines that do the same work; one at a time.
    let (one, other) = (node.client()?, node.client()?);
    let held = one.lock("nightly").wait()?.lock().wait()?;
    storage.write(held.token(), "one begins")?;
    let lost = held.lost();

    let lock = other.lock("nightly").wait()?;
    assert!(lock.try_lock().wait()?.is_none(), "it is held");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| lock.lock_within(Duration::from_secs(10)).wait());
        // The first one is gone: with its session goes all it holds. A machine that is cut off
        // loses it so after its session's time-out.
        one.close()?;
        let next = waiting.join().expect("no panic")?.expect("it came free");
        storage.write(next.token(), "other goes on")?;

        // One that is cut off is told by `lost` when its time is over; a client that was closed
        // cannot know. Whatever it was told or not, the token protects the work.
        assert!(lost.wait().is_err(), "the client was closed");
        let refused = storage.write(held.token(), "one ends").expect_err("this is too late");
        println!("refused: {refused}");
        next.unlock().wait()?;
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    assert_eq!(storage.0.into_inner()?.1, ["one begins", "other goes on"]);
    other.close()?;
    node.stop()?;
    Ok(())
}
