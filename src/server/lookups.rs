//! What may have changed outside: names of peers are looked up again from time to time, and the
//! files of the node's certificate are read again, on a thread of its own. A resolver that does not
//! answer takes ten seconds a name, and a node that is told to stop must not wait for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::error::Error;
use crate::shard::Node;

/// Pause between two rounds.
const PAUSE: Duration = Duration::from_secs(10);
/// Rounds between two looks at how long the certificate is good: an hour.
const LOOK: u32 = 360;

/// Goes on until this is dropped, which does not wait for a lookup under way.
pub(super) struct Lookups {
    _ends: Sender<Infallible>,
}

impl Lookups {
    pub(super) fn begin(node: &Arc<Node>) -> Result<Lookups, Error> {
        let (ends, end) = channel();
        let node = Arc::downgrade(node);
        let run = move || {
            let mut round = 0;
            while end.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                let Some(node) = node.upgrade() else { return };
                node.refresh_tls();
                if round == 0 {
                    node.warn_of_expiry();
                }
                round = (round + 1) % LOOK;
                node.refresh_addresses();
            }
        };
        let name = std::thread::Builder::new().name("margay-resolve".to_owned());
        let spawned = name.spawn(run);
        spawned.map_err(|e| Error::Shard(format!("no thread for looking up names: {e}")))?;
        Ok(Lookups { _ends: ends })
    }
}
