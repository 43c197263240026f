//! What happens to the hosts: drawn, done, counted, undone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::time::Duration;

use margay_log::rng::Rng;

use crate::hosts::{self, Hosts, Party};
use crate::story::Story;

/// A node stops in order within this time.
const STOP: Duration = Duration::from_secs(20);

/// Draws faults and counts them.
pub(crate) struct Faults {
    rng: Rng,
    counts: BTreeMap<&'static str, u64>,
    /// A node whose disk is full.
    full: Option<usize>,
    /// Nodes that were killed or stand still, until they are woken.
    away: BTreeSet<usize>,
    /// Nodes that were cut off, until the links are mended.
    cut: BTreeSet<usize>,
    story: Story,
}

impl Faults {
    /// The same seed draws the same faults.
    pub(crate) fn new(seed: u64, story: Story) -> Faults {
        let (away, cut) = (BTreeSet::new(), BTreeSet::new());
        Faults { rng: Rng::new(seed), counts: BTreeMap::new(), full: None, away, cut, story }
    }

    /// Does something bad, or mends something, while a node may be about to be replaced. Returns
    /// how long to wait until the next time.
    pub(crate) fn strike(
        &mut self,
        hosts: &mut Hosts,
        replacing: Option<usize>,
    ) -> io::Result<Duration> {
        let node = self.victim(hosts);
        let drawn = self.rng.below(20);
        let hurt: BTreeSet<usize> =
            self.away.iter().chain(&self.cut).copied().chain(self.full).chain(replacing).collect();
        // Where no majority is left nothing happens that could go wrong: not for long.
        if 2 * hurt.len() >= hosts.len() && self.rng.chance(3, 4) {
            self.mend(hosts)?;
            self.wake(hosts)?;
            return Ok(Duration::from_millis(100 + self.rng.below(1_900)));
        }
        match drawn {
            0 | 1 => self.kill(hosts, node)?,
            2 => self.kill_all(hosts)?,
            3 => self.restart_in_order(hosts, node)?,
            4 | 5 => self.pause(hosts, node),
            6..=8 => self.isolate(hosts, node)?,
            9 => self.cut_from_peers_only(hosts, node)?,
            10 => self.fill(hosts, node)?,
            // The other half of the time things get better: where hardly anything works, little
            // can go wrong.
            11..=14 => self.mend(hosts)?,
            _ => self.wake(hosts)?,
        }
        Ok(Duration::from_millis(100 + self.rng.below(1_900)))
    }

    /// The end of trouble.
    pub(crate) fn heal(&mut self, hosts: &mut Hosts) -> io::Result<()> {
        self.mend(hosts)?;
        self.wake(hosts)
    }

    fn count(&mut self, what: &'static str, node: Option<usize>) {
        *self.counts.entry(what).or_default() += 1;
        let of = node.map(|node| format!("{}: ", hosts::name(node))).unwrap_or_default();
        self.story.note(&format!("{of}{what}"));
    }

    /// Any node, but the leader more often than others.
    fn victim(&mut self, hosts: &Hosts) -> usize {
        let drawn = self.rng.below(hosts.len() as u64) as usize;
        if self.rng.chance(1, 2) { hosts.leader().unwrap_or(drawn) } else { drawn }
    }

    fn kill(&mut self, hosts: &mut Hosts, node: usize) -> io::Result<()> {
        self.count("kill -9", Some(node));
        self.away.insert(node);
        hosts.kill(node)
    }

    fn kill_all(&mut self, hosts: &mut Hosts) -> io::Result<()> {
        self.count("kill -9 of all", None);
        self.away.clear();
        (0..hosts.len()).try_for_each(|node| hosts.kill(node))?;
        self.free(hosts)?;
        (0..hosts.len()).try_for_each(|node| hosts.spawn(node))
    }

    fn restart_in_order(&mut self, hosts: &mut Hosts, node: usize) -> io::Result<()> {
        self.count("restart", Some(node));
        self.away.remove(&node);
        hosts.terminate(node, STOP)?;
        self.free(hosts)?;
        hosts.spawn(node)
    }

    fn pause(&mut self, hosts: &mut Hosts, node: usize) {
        self.count("pause", Some(node));
        self.away.insert(node);
        hosts.pause(node);
    }

    /// A node is cut off from all others and the clients: both ways, or one.
    fn isolate(&mut self, hosts: &mut Hosts, node: usize) -> io::Result<()> {
        let (own, ways) = (Party::Node(node), self.rng.below(3));
        let what = ["cut off", "cut off, sends only", "cut off, hears only"][ways as usize];
        self.count(what, Some(node));
        self.cut.insert(node);
        let others = (0..hosts.len()).filter(|&other| other != node).map(Party::Node);
        for other in others.chain([Party::Clients]) {
            if ways != 1 {
                hosts.cut(other, own)?;
            }
            if ways != 2 {
                hosts.cut(own, other)?;
            }
        }
        Ok(())
    }

    /// A leader that its clients still reach is the one that could answer what is no longer true.
    fn cut_from_peers_only(&mut self, hosts: &mut Hosts, node: usize) -> io::Result<()> {
        self.count("cut off from peers", Some(node));
        self.cut.insert(node);
        for other in (0..hosts.len()).filter(|&other| other != node) {
            hosts.cut(Party::Node(other), Party::Node(node))?;
            hosts.cut(Party::Node(node), Party::Node(other))?;
        }
        Ok(())
    }

    /// Only of a node that serves: one that is about to finds the disk full, says so and ends.
    fn fill(&mut self, hosts: &mut Hosts, node: usize) -> io::Result<()> {
        if self.full.is_none() && hosts.serves(node) {
            self.count("full disk", Some(node));
            hosts.fill_disk(node)?;
            self.full = Some(node);
        }
        Ok(())
    }

    /// A node that was removed comes back with an empty disk, as somebody new.
    pub(crate) fn replace(&mut self, hosts: &mut Hosts, node: usize) -> io::Result<()> {
        self.count("lost disk", Some(node));
        self.away.remove(&node);
        hosts.wipe(node)?;
        if self.full == Some(node) { Ok(()) } else { hosts.spawn(node) }
    }

    fn mend(&mut self, hosts: &mut Hosts) -> io::Result<()> {
        self.story.note("all links are mended");
        self.cut.clear();
        hosts.mend()?;
        self.free(hosts)
    }

    /// Gives the space back. Nodes do not start on a full disk: they say so and end.
    fn free(&mut self, hosts: &mut Hosts) -> io::Result<()> {
        self.full.take().map_or(Ok(()), |node| hosts.free_disk(node))
    }

    fn wake(&mut self, hosts: &mut Hosts) -> io::Result<()> {
        self.story.note("all nodes are woken");
        self.away.clear();
        for node in 0..hosts.len() {
            hosts.resume(node);
            if !hosts.is_up(node) && self.full != Some(node) {
                hosts.spawn(node)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> =
            self.counts.iter().map(|(what, count)| format!("{count} × {what}")).collect();
        f.write_str(if parts.is_empty() { "none" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}
