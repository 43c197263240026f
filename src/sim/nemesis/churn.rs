//! Clients that go: with a farewell, or by vanishing; others come in their place.

use margay_log::id::Micros;

use super::Fault;
use crate::machine::StateMachine;
use crate::sim::Failure;
use crate::sim::cluster::{Cluster, Event};

/// See the module's text.
pub(super) struct Churn;

impl<S: StateMachine> Fault<S> for Churn {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        if cluster.clients == 0 {
            return Ok(false);
        }
        let client = cluster.rng.below(cluster.clients as u64) as usize;
        let farewell = cluster.rng.chance(1, 2);
        cluster.schedule(Micros(0), Event::Replace { client, farewell });
        Ok(true)
    }
}
