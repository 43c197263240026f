//! Watching what others change, without missing anything: `cargo run --example watch`. Inside
//! glommio.
//!
//! Watch first, then read: what happens between the two is told as well, and hearing twice of what
//! was read already does no harm. A watcher that is too far behind is told so, and reads again.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;

use futures_core::Stream;

use margay::client::{Client, Group};
use margay::machine::Filter;
use margay::resource::map::{MapEvent, MapRange};
use margay::resource::{Failure, Map};
use margay::server::Node;

type Users = BTreeMap<Vec<u8>, Vec<u8>>;

/// A copy of the users that follows theirs until one called `enough` is there.
async fn mirror(client: Client) -> Result<Users, Failure> {
    let map: Map<Group> = client.map("users").await?;
    let mut users = Users::new();
    'read: loop {
        let mut events = map.watch(None, Filter::All);
        users.clear();
        let mut after = None;
        loop {
            let page = map.entries(MapRange { after, ..MapRange::default() }).await?;
            for entry in page.entries {
                users.insert(entry.key, entry.value.unwrap_or_default());
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        while !users.contains_key(&b"enough"[..]) {
            // With a crate of stream adaptors: `events.next().await`.
            let next = poll_fn(|context| Pin::new(&mut events).poll_next(context)).await;
            match next {
                Some(Ok(MapEvent::Put { key, value, .. })) => {
                    users.insert(key, value.value);
                }
                Some(Ok(MapEvent::Removed { key, .. })) => drop(users.remove(&key)),
                Some(Ok(MapEvent::Cleared | MapEvent::Deleted)) => users.clear(),
                Some(Ok(MapEvent::Lagged { .. })) => continue 'read,
                Some(Err(failure)) => return Err(failure),
                None => return Ok(users),
            }
        }
        return Ok(users);
    }
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::builder().temporary().start()?;
    let client = node.client()?;
    let users = client.map("users").wait()?;
    users.put(b"ada", b"admin").wait()?;
    users.put(b"bob", b"guest").wait()?;

    let inside = node.client()?;
    let watching = inside.clone();
    let executor = glommio::LocalExecutorBuilder::default()
        .spawn(move || async move { mirror(watching).await })
        .map_err(|error| error.to_string())?;

    for n in 0..100_u32 {
        users.put(b"bob", &n.to_le_bytes()).wait()?;
    }
    users.remove(b"bob").wait()?;
    users.put(b"enough", b"").wait()?;

    let mirrored = executor.join().map_err(|error| error.to_string())??;
    let keys: Vec<_> = mirrored.keys().map(|key| String::from_utf8_lossy(key)).collect();
    println!("the copy holds {}", keys.join(", "));
    assert_eq!(mirrored.len(), 2);
    assert_eq!(mirrored[&b"ada"[..]], b"admin");
    inside.close()?;
    client.close()?;
    node.stop()?;
    Ok(())
}
