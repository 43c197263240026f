//! The network gets better or worse as a whole: loss, duplication, delay and, by delay, reordering.

use super::Fault;
use crate::machine::StateMachine;
use crate::sim::Failure;
use crate::sim::cluster::Cluster;
use crate::sim::network::Weather;

/// See the module's text.
pub(super) struct Change;

impl<S: StateMachine> Fault<S> for Change {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let weather = Weather::draw(&mut cluster.rng);
        cluster.network.weather = weather;
        cluster.trace.line(cluster.now, format_args!("{weather:?}"));
        Ok(true)
    }

    fn mend(&mut self, cluster: &mut Cluster<S>) -> Result<(), Failure> {
        cluster.network.weather = Weather::FAIR;
        Ok(())
    }
}
