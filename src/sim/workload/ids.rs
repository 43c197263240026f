//! Ids that all clients take from one counter, in ranges: nobody gets one that another has.

use std::collections::BTreeMap;

use super::{Actor, Journal, Workload};
use crate::resource::counter::IdGenerator;
use crate::sim::Failure;
use crate::sim::client::Desk;

/// See the module's text.
pub(in crate::sim) struct Numbering {
    ids: IdGenerator<Desk>,
}

/// Ids with the clients that got them.
#[derive(Default)]
pub(in crate::sim) struct Taken(Vec<(i64, u64)>);

impl Journal for Taken {
    fn judge(&mut self) -> Result<u64, Failure> {
        let mut owners = BTreeMap::new();
        for (id, client) in &self.0 {
            if let Some(other) = owners.insert(id, client) {
                let details = format!("{id} was given to client {other} and to client {client}");
                return Err(Failure::new("an id is given out once", details));
            }
        }
        Ok(0)
    }
}

impl Workload for Numbering {
    type Journal = Taken;

    async fn open(actor: &mut Actor<Taken>) -> Numbering {
        let ids = actor.open(|desk| IdGenerator::open(desk, "ids")).await;
        Numbering { ids: ids.with_batch(1 + actor.rng.below(5) as u32) }
    }

    async fn act(&mut self, actor: &mut Actor<Taken>) {
        let next = self.ids.next_id().await;
        if let Some(Some((_, id))) = actor.outcome(next) {
            let client = actor.id;
            actor.note(|taken| taken.0.push((id, client)));
        }
        actor.pause(10_000).await;
    }

    /// What was given out is known already.
    async fn look(&mut self, _actor: &mut Actor<Taken>) {}
}
