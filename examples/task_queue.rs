//! A queue of tasks and its workers: `cargo run --example task_queue`. Plain threads.
//!
//! A task is some worker's for the time of a lease. One that is not acknowledged comes back: from a
//! worker that failed, or is gone. So a task may be done twice, and doing it twice must do no harm.
//! One that fails again and again becomes a dead letter, which somebody should look at.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use margay::client::Client;
use margay::resource::Failure;
use margay::server::Node;

const LEASE: Duration = Duration::from_secs(30);
/// How often a task is handed out before it is a dead letter.
const DELIVERIES_MAX: u32 = 3;

/// What was done; a set, so doing a task twice does no harm.
type Done = Mutex<BTreeSet<String>>;

fn make_thumbnail(picture: &str, done: &Done) -> Result<(), String> {
    if picture == "broken.png" {
        return Err("not a picture".to_owned());
    }
    done.lock().expect("no panic").insert(picture.to_owned());
    Ok(())
}

/// Works until nothing is to be had for a while. A real worker would use `take`, which waits.
fn work(client: &Client, done: &Done) -> Result<u32, Failure> {
    let queue = client.queue_with("thumbnails", DELIVERIES_MAX).wait()?;
    let mut count = 0;
    loop {
        let tasks = queue.take_within(1, LEASE, Duration::from_millis(500)).wait()?;
        if tasks.is_empty() {
            return Ok(count);
        }
        for task in tasks {
            let picture = String::from_utf8_lossy(task.value()).into_owned();
            match make_thumbnail(&picture, done) {
                // Work that may take longer than the lease extends it: `task.extend(LEASE)`.
                Ok(()) => task.ack().wait()?,
                Err(why) => {
                    println!("{picture}, delivery {}: {why}", task.deliveries());
                    task.nack(Duration::from_millis(10)).wait()?;
                }
            }
            count += 1;
        }
    }
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::builder().temporary().start()?;
    let client = node.client()?;
    let queue = client.queue_with("thumbnails", DELIVERIES_MAX).wait()?;
    for n in 0..20 {
        queue.offer(format!("picture-{n}.png").as_bytes()).wait()?;
    }
    queue.offer(b"broken.png").wait()?;

    // A worker that takes five tasks and is gone: they come back with its session.
    let gone = node.client()?;
    let taken = gone.queue("thumbnails").wait()?.take(5, LEASE).wait()?;
    assert_eq!(taken.len(), 5);
    gone.close()?;

    let done = Done::default();
    std::thread::scope(|scope| {
        let worker = || -> Result<u32, Box<dyn std::error::Error + Send + Sync>> {
            let client = node.client()?;
            let count = work(&client, &done)?;
            client.close()?;
            Ok(count)
        };
        let workers: Vec<_> = (0..3).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            let count = worker.join().expect("no panic").map_err(|error| error.to_string())?;
            println!("a worker took {count} tasks");
        }
        Ok::<_, String>(())
    })?;

    assert_eq!(done.into_inner()?.len(), 20, "every task is done");
    let dead = queue.dead_letters(0).wait()?;
    assert_eq!((dead.len(), dead[0].deliveries), (1, DELIVERIES_MAX));
    println!("dead: {}", String::from_utf8_lossy(&dead[0].value));
    client.close()?;
    node.stop()?;
    Ok(())
}
