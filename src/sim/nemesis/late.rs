//! Answers that come late, and then nothing any more: whoever counts a promise from the answer, and
//! not from the question, trusts it for too long.

use margay_log::id::Micros;

use super::Fault;
use super::cut::part;
use crate::machine::StateMachine;
use crate::sim::Failure;
use crate::sim::cluster::{Cluster, Event};
use crate::sim::network::End;

pub(super) const CLIENT: &str = "late answers";
pub(super) const LEADER: &str = "late voters";

/// Not before sessions hold something.
const FIRST: Micros = Micros::from_millis(2_500);

/// What a client is answered is late; then it is not heard any more.
#[derive(Default)]
pub(super) struct Answers {
    /// When there is time for another attempt.
    again: Micros,
}

/// What a leader is answered by the others is late; then nobody hears the leader any more, and when
/// the last answers have come it is parted from all.
#[derive(Default)]
pub(super) struct Voters {
    late: Micros,
    unheard: bool,
    /// When there is time for another attempt.
    again: Micros,
}

impl<S: StateMachine> Fault<S> for Answers {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        if cluster.clients == 0 || cluster.now < self.again.max(FIRST) {
            return Ok(false);
        }
        self.again = cluster.now.after(Micros::from_millis(5_000));
        let client = cluster.rng.below(cluster.clients as u64) as usize;
        let late = Micros(50_000 + cluster.rng.below(250_000));
        cluster.network.late = Some((End::Client(client), late));
        let line = format_args!("what client {client} is answered is {late} late");
        cluster.trace.line(cluster.now, line);
        let then = Micros(100_000 + cluster.rng.below(600_000));
        cluster.schedule(then, Event::Sequel { of: CLIENT, node: client });
        Ok(true)
    }

    fn sequel(&mut self, cluster: &mut Cluster<S>, client: usize) -> Result<(), Failure> {
        cluster.network.late = None;
        cluster.trace.line(cluster.now, format_args!("client {client} is heard no more"));
        for node in (0..cluster.nodes.len()).map(End::Node) {
            cluster.network.cut(End::Client(client), node);
        }
        let heal = Micros(3_000_000 + cluster.rng.below(2_000_000));
        cluster.schedule(heal, Event::Heal);
        Ok(())
    }

    fn mend(&mut self, cluster: &mut Cluster<S>) -> Result<(), Failure> {
        cluster.network.late = None;
        Ok(())
    }
}

impl<S: StateMachine> Fault<S> for Voters {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let Some(leader) = cluster.leader() else { return Ok(false) };
        if cluster.now < self.again {
            return Ok(false);
        }
        self.again = cluster.now.after(Micros::from_millis(2_000));
        self.late = Micros(250_000 + cluster.rng.below(250_000));
        self.unheard = false;
        cluster.network.late = Some((End::Node(leader), self.late));
        let line = format_args!("what node {leader} is answered is {} late", self.late);
        cluster.trace.line(cluster.now, line);
        let then = self.late.after(Micros(cluster.rng.below(500_000)));
        cluster.schedule(then, Event::Sequel { of: LEADER, node: leader });
        Ok(true)
    }

    fn sequel(&mut self, cluster: &mut Cluster<S>, leader: usize) -> Result<(), Failure> {
        if !cluster.leads(leader) {
            cluster.network.late = None;
        } else if self.unheard {
            cluster.network.late = None;
            let with = part(cluster, leader);
            cluster.trace.line(cluster.now, format_args!("{with:?} are on their own"));
            let heal = Micros(500_000 + cluster.rng.below(1_500_000));
            cluster.schedule(heal, Event::Heal);
        } else {
            self.unheard = true;
            cluster.trace.line(cluster.now, format_args!("node {leader} is heard no more"));
            for other in (0..cluster.nodes.len()).filter(|&other| other != leader) {
                cluster.network.cut(End::Node(leader), End::Node(other));
            }
            cluster.schedule(self.late, Event::Sequel { of: LEADER, node: leader });
        }
        Ok(())
    }

    fn mend(&mut self, cluster: &mut Cluster<S>) -> Result<(), Failure> {
        cluster.network.late = None;
        Ok(())
    }
}
