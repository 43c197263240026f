//! Links that carry nothing: a node is cut off from all or some, both ways or one, with its clients
//! or without them.

use margay_log::id::Micros;

use super::Fault;
use crate::machine::StateMachine;
use crate::sim::Failure;
use crate::sim::cluster::{Cluster, Event};
use crate::sim::network::End;

/// Cuts a node off.
pub(super) struct Cut;

/// Mends all links.
pub(super) struct Heal;

/// Parts the leader and some clients from all the others, for a while: it still answers those
/// clients, until it notices that it leads no longer.
pub(super) struct Strand;

/// Cuts one client off from everybody, often for longer than its session lives; half of the time
/// the leader crashes, too.
pub(super) struct Loner;

/// Cuts nodes off one after the other and mends them in another order (FoundationDB's swizzle).
pub(super) struct Clog;

impl<S: StateMachine> Fault<S> for Cut {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let at = cluster.rng.below(cluster.nodes.len() as u64) as usize;
        let direction = cluster.rng.below(3);
        let partly = cluster.rng.chance(1, 3);
        // A leader that its clients still reach is the one that could answer with what is no longer
        // true.
        let clients = if cluster.rng.chance(1, 2) { 0 } else { cluster.clients };
        cluster.trace.line(
            cluster.now,
            format_args!("node {at} is cut off, way {direction}, {clients} clients too"),
        );
        let nodes = (0..cluster.nodes.len()).filter(|&other| other != at).map(End::Node);
        let ends: Vec<End> = nodes.chain((0..clients).map(End::Client)).collect();
        for end in ends {
            if partly && cluster.rng.chance(1, 2) {
                continue;
            }
            if direction != 1 {
                cluster.network.cut(End::Node(at), end);
            }
            if direction != 2 {
                cluster.network.cut(end, End::Node(at));
            }
        }
        Ok(true)
    }
}

impl<S: StateMachine> Fault<S> for Heal {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        if !cluster.network.is_cut() {
            return Ok(false);
        }
        cluster.trace.line(cluster.now, format_args!("all links are mended"));
        cluster.network.heal();
        Ok(true)
    }
}

/// Parts a leader and some clients, which are returned, from all the others.
pub(super) fn part<S: StateMachine>(cluster: &mut Cluster<S>, leader: usize) -> Vec<End> {
    let nodes = (0..cluster.nodes.len()).filter(|&at| at != leader).map(End::Node);
    let mut others: Vec<End> = nodes.collect();
    let mut with = vec![End::Node(leader)];
    let first = cluster.rng.below(cluster.clients.max(1) as u64) as usize;
    for n in 0..cluster.clients {
        // One at least on either side, where there are two.
        let stays = n == 0 || n > 1 && cluster.rng.chance(1, 2);
        let side = if stays { &mut with } else { &mut others };
        side.push(End::Client((first + n) % cluster.clients));
    }
    for &one in &with {
        for &other in &others {
            cluster.network.cut(one, other);
            cluster.network.cut(other, one);
        }
    }
    // The clients of the other side look for another leader at once.
    let away = |at: &usize| others.contains(&End::Client(*at));
    let conns = cluster.links.iter().filter(|(_, link)| away(&link.client));
    for conn in conns.map(|(conn, _)| *conn).collect::<Vec<_>>() {
        cluster.break_link(conn, None);
    }
    with
}

impl<S: StateMachine> Fault<S> for Strand {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let Some(leader) = (0..cluster.nodes.len()).find(|&at| cluster.leads(at)) else {
            return Ok(false);
        };
        let with = part(cluster, leader);
        if cluster.rng.chance(1, 3) {
            let pause = Micros(300_000 + cluster.rng.below(3_000_000));
            cluster.nodes[leader].paused_until = cluster.now.after(pause);
        }
        let until = cluster.nodes[leader].paused_until;
        cluster.trace.line(
            cluster.now,
            format_args!("node {leader} leads {with:?} alone, and stands still until {until}"),
        );
        let heal = Micros(500_000 + cluster.rng.below(3_500_000));
        cluster.schedule(heal, Event::Heal);
        Ok(true)
    }

    fn mend(&mut self, cluster: &mut Cluster<S>) -> Result<(), Failure> {
        cluster.nodes.iter_mut().for_each(|node| node.paused_until = Micros(0));
        Ok(())
    }
}

impl<S: StateMachine> Fault<S> for Loner {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        if cluster.clients == 0 {
            return Ok(false);
        }
        let client = End::Client(cluster.rng.below(cluster.clients as u64) as usize);
        cluster.trace.line(cluster.now, format_args!("{client:?} is cut off"));
        for node in (0..cluster.nodes.len()).map(End::Node) {
            cluster.network.cut(client, node);
            cluster.network.cut(node, client);
        }
        // Its session counts on a leader that comes later, too.
        if let Some(leader) = cluster.leader().filter(|_| cluster.rng.chance(1, 2)) {
            cluster.crash_for(leader, 2_000_000);
        }
        let heal = Micros(1_000_000 + cluster.rng.below(5_000_000));
        cluster.schedule(heal, Event::Heal);
        Ok(true)
    }
}

impl<S: StateMachine> Fault<S> for Clog {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        for node in 0..cluster.nodes.len() {
            let from = cluster.rng.below(1_000_000);
            let until = 1_000_000 + cluster.rng.below(1_000_000);
            cluster.schedule(Micros(from), Event::Isolate { node, cut: true });
            cluster.schedule(Micros(until), Event::Isolate { node, cut: false });
        }
        Ok(true)
    }
}
