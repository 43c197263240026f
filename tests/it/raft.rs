//! The Raft core: stories, and a search for broken ones.
//!
//! Commands of a story (`N` names a node):
//!
//! ```text
//! cluster nodes=3 [spare=1] [leader=1] [window=BYTES] [lease=1]
//!                            a new group, and nodes that are none of it
//!                    yet; with a leader, once all is quiet
//! timeout N          the clock moves to N's deadline, and only N is told
//! clock +MS          the clock moves, nobody is told
//! time +MS           time passes: deadlines are kept, messages delivered        (prints news only)
//! settle             messages are delivered until none is left                  (prints news only)
//! deliver [N..] [reversed|twice] [only=WORD]   what is on its way now (to N..), not the answers
//! drop [N..] [only=WORD]                       loses it
//! propose N [ENTRIES]        N seals a batch
//! change N voters=1,2,4 [learners=5]           N begins a change of the membership
//! read N ID                  N is asked to confirm that it leads
//! lease N                    whether N may answer reads by its lease
//! transfer N M               N is asked to hand leadership over to M
//! slow N.. / flush N [WRITES] / fast N..       writes wait / the first become durable / go through
//! cold N.. / warm N [for=M]  batches to send are not in memory / are again, for M
//! cut N.. from M.. / isolate N.. / heal        links that lose everything, one way / both ways
//! unreachable N M            N learns that its connection to M broke
//! crash N.. [lands=WRITES] / restart N..       loses what is not durable / comes back
//! rot N LAST                 the disk of N, which is down, loses what is behind entry LAST
//! compact N / install N from=M                 N's log is a snapshot / N gets M's committed log
//! forge FROM TO TERM KIND ...                  a message that nobody sent; no cut link stops it
//! status [N..]
//! ```

mod babble;
mod cluster;
mod draw;
mod fuzz;
mod install;
mod restart;

use margay::raft::Configuration;
use margay::raft::message::{Body, Input, Message, RoleKind, Round};
use margay_log::id::{EntryId, Index, Micros, NodeId, Term};

use crate::script::{self, Command, Story};
use cluster::{Cluster, Envelope};

#[test]
fn stories() {
    script::run_all::<Play>("raft");
}

#[derive(Default)]
struct Play {
    cluster: Cluster,
}

impl Story for Play {
    fn run(&mut self, command: &Command) -> Result<Vec<String>, String> {
        self.cluster.trace.clear();
        let mut quiet = false;
        match command.name.as_str() {
            "cluster" => self.cluster(command)?,
            "timeout" | "clock" | "time" => quiet = self.pass(command)?,
            "settle" => {
                self.settle();
                quiet = true;
            }
            "deliver" | "drop" => self.deliver(command),
            "status" => return Ok(self.status(command)),
            "forge" => self.forge(command)?,
            _ => self.act(command)?,
        }
        let trace = self.cluster.trace.iter().filter(|(news, _)| *news || !quiet);
        Ok(trace.map(|(_, text)| text.clone()).collect())
    }
}

impl Play {
    fn cluster(&mut self, command: &Command) -> Result<(), String> {
        let number = |key, default| match command.value(key) {
            Some(text) => text.parse::<u64>().map_err(|_| format!("{key}={text}?")),
            None => Ok(default),
        };
        let nodes = u32::try_from(number("nodes", 3)?).map_err(|error| error.to_string())?;
        let lease = command.value("lease").is_some();
        let spare = u32::try_from(number("spare", 0)?).map_err(|error| error.to_string())?;
        self.cluster = Cluster::new(
            nodes,
            nodes + spare,
            number("seed", 1)?,
            number("window", 8 << 20)?,
            lease,
        );
        if let Some(leader) = command.value("leader") {
            let leader = leader.parse().map_err(|_| "who leads?")?;
            self.time_out(leader)?;
            self.settle();
            assert_eq!(self.cluster.leader(), Some(leader));
            self.cluster.trace.clear();
        }
        Ok(())
    }

    /// The commands that move the clock. Whether to print the news only.
    fn pass(&mut self, command: &Command) -> Result<bool, String> {
        if command.name == "timeout" {
            self.time_out(command.at(0)?)?;
            return Ok(false);
        }
        let span: u64 = command.at::<String>(0)?.trim_matches('+').parse().map_err(|_| "ms?")?;
        let end = self.cluster.now.after(Micros::from_millis(span));
        if command.name == "time" {
            self.cluster.run_until(end);
        }
        self.cluster.now = end;
        Ok(true)
    }

    fn time_out(&mut self, id: u32) -> Result<(), String> {
        let raft = self.cluster.raft(id).ok_or("it is down")?;
        let deadline = raft.deadline().ok_or("it has no deadline")?;
        self.cluster.now = self.cluster.now.max(deadline);
        self.cluster.tick(id);
        Ok(())
    }

    fn settle(&mut self) {
        self.cluster.settle();
    }

    fn deliver(&mut self, command: &Command) {
        let to: Vec<u32> = command.plain().filter_map(|word| word.parse().ok()).collect();
        let word = command.value("only").unwrap_or("");
        let chosen = |envelope: &Envelope| {
            let text = draw::message(&envelope.message);
            (to.is_empty() || to.contains(&envelope.to)) && text.contains(word)
        };
        let (mut taken, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.cluster.net).into_iter().partition(chosen);
        self.cluster.net = left;
        if command.name == "drop" {
            for lost in &taken {
                let text = draw::message(&lost.message);
                let (from, to) = (lost.from, lost.to);
                self.cluster.note(false, format_args!("n{from} ⇥ n{to} {text} lost"));
            }
            return;
        }
        if command.plain().any(|word| word == "twice") {
            taken.extend(taken.clone());
        }
        if command.plain().any(|word| word == "reversed") {
            taken.reverse();
        }
        taken.into_iter().for_each(|envelope| self.cluster.deliver(envelope));
    }

    /// The commands that one node obeys, and those for a list of nodes.
    fn act(&mut self, command: &Command) -> Result<(), String> {
        let first = command.at::<u32>(0);
        let cluster = &mut self.cluster;
        match command.name.as_str() {
            "propose" => {
                let id = first?;
                let raft = cluster.raft(id).ok_or("it is down")?;
                if raft.role() != RoleKind::Leader {
                    return Err(format!("n{id} does not lead"));
                }
                if !raft.may_propose() {
                    return Err(format!("n{id} hands over"));
                }
                cluster.propose(id, command.at(1).unwrap_or(1));
            }
            "rot" => cluster.rot(first?, Index(command.at(1)?)),
            "read" => cluster.read(first?, command.at(1)?),
            "lease" => {
                let id = first?;
                match cluster.read_by_lease(id) {
                    Some(index) => cluster.note(true, format_args!("n{id} reads at {index}")),
                    None => cluster.note(true, format_args!("n{id} has no lease")),
                }
            }
            "flush" => {
                let id = first?;
                let count = command.at(1).unwrap_or(usize::MAX);
                (0..count).take_while(|_| cluster.flush_one(id)).count();
            }
            "change" => {
                let list = |key| -> Result<Vec<NodeId>, String> {
                    let words = command.value(key).unwrap_or_default().split(',');
                    let ids = words.filter(|word| !word.is_empty()).map(str::parse);
                    ids.map(|id| id.map(NodeId).map_err(|_| format!("{key}?"))).collect()
                };
                let (voters, learners) = (list("voters")?, list("learners")?);
                cluster.change(first?, voters, learners).map_err(|why| format!("{why:?}"))?;
            }
            "warm" => {
                cluster.node(first.clone()?).cold = false;
                let to = command.value("for").ok_or("for whom?")?;
                let to = NodeId(to.parse().map_err(|_| "for whom?")?);
                cluster.step(first?, Input::Readable { to }, None);
            }
            "cut" => self.cut(command),
            "heal" => cluster.cut.clear(),
            "unreachable" => {
                let peer = NodeId(command.at(1)?);
                cluster.step(first?, Input::Unreachable { peer }, None);
            }
            "compact" => {
                let id = first?;
                cluster.node(id).snapshot = cluster.node(id).last();
            }
            "install" => {
                let from = command.value("from").ok_or("from whom?")?;
                let from: u32 = from.parse().map_err(|_| "from whom?")?;
                let (log, last) = (cluster.node(from).log.clone(), cluster.node(from).snapshot);
                cluster.node(first?).install(log, last);
            }
            "transfer" => {
                let to = NodeId(command.at(1)?);
                cluster.step(first?, Input::Transfer { to }, None);
            }
            _ => return self.act_each(command),
        }
        Ok(())
    }

    fn act_each(&mut self, command: &Command) -> Result<(), String> {
        let cluster = &mut self.cluster;
        let lands = command.value("lands").map_or(Ok(0), str::parse).map_err(|_| "lands?")?;
        for id in command.plain().filter_map(|word| word.parse::<u32>().ok()) {
            match command.name.as_str() {
                "slow" => cluster.node(id).slow = true,
                "fast" => {
                    cluster.node(id).slow = false;
                    while cluster.flush_one(id) {}
                }
                "cold" => cluster.node(id).cold = true,
                "isolate" => {
                    let others: Vec<u32> = cluster.nodes.keys().copied().collect();
                    for other in others.into_iter().filter(|other| *other != id) {
                        cluster.cut.extend([(id, other), (other, id)]);
                    }
                }
                "crash" => cluster.crash(id, lands),
                "restart" => cluster.restart(id),
                "abstain" | "vote" => {
                    let abstains = command.name == "abstain";
                    cluster.node(id).raft.as_mut().ok_or("it is down")?.abstain(abstains);
                }
                name => return Err(format!("what is {name:?}?")),
            }
        }
        Ok(())
    }

    /// `cut 1 2 from 3`: what 3 sends to 1 and 2 is lost.
    fn cut(&mut self, command: &Command) {
        let words: Vec<&str> = command.plain().collect();
        let mut sides = words.split(|word| *word == "from");
        let mut side = || -> Vec<u32> {
            sides.next().unwrap_or_default().iter().filter_map(|word| word.parse().ok()).collect()
        };
        let (to, from) = (side(), side());
        for from in from {
            self.cluster.cut.extend(to.iter().map(|to| (from, *to)));
        }
    }

    /// `forge FROM TO TERM vote LAST`, `append PREV COMMIT`, `ack MATCHED`, `reject PREV HINT`, …
    fn forge(&mut self, command: &Command) -> Result<(), String> {
        let entry = |at: usize| -> Result<EntryId, String> {
            let text: String = command.at(at)?;
            let (index, term) = text.split_once('@').ok_or("an entry is INDEX@TERM")?;
            let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
            Ok(EntryId::new(Term(number(term)?), Index(number(index)?)))
        };
        let index = |at: usize| command.at(at).map(Index);
        let round = Round(command.value("round").map_or(Ok(0), str::parse).map_err(|_| "round?")?);
        let body = match command.at::<String>(3)?.as_str() {
            "pre-vote" => Body::PreVote { last: entry(4)? },
            "pre-vote-yes" => Body::PreVoteReply { granted: true },
            "vote" => {
                let handed_over = command.plain().any(|word| word == "handed-over");
                Body::Vote { last: entry(4)?, handed_over }
            }
            "vote-yes" => Body::VoteReply { granted: true },
            "append" => Body::Append { prev: entry(4)?, batch: None, commit: index(5)?, round },
            // Of a batch that exists nowhere: fit for appends that must be refused.
            "batch" => {
                let (prev, batch, commit) = (entry(4)?, Some(entry(5)?), index(6)?);
                Body::Append { prev, batch, commit, round }
            }
            "ack" => Body::AppendAck { matched: index(4)?, round },
            "reject" => Body::AppendReject { prev: index(4)?, hint: entry(5)?, round },
            "timeout-now" => Body::TimeoutNow,
            kind => return Err(format!("what is {kind:?}?")),
        };
        let message = Message { term: Term(command.at(2)?), body };
        let from = NodeId(command.at(0)?);
        let input = Input::Message { from, message, configuration: None };
        self.cluster.forged = true;
        self.cluster.step(command.at(1)?, input, None);
        Ok(())
    }

    fn status(&self, command: &Command) -> Vec<String> {
        let chosen: Vec<u32> = command.plain().filter_map(|word| word.parse().ok()).collect();
        let nodes = self.cluster.nodes.iter();
        let nodes = nodes.filter(|(id, _)| chosen.is_empty() || chosen.contains(id));
        let founding = self.cluster.founding();
        nodes.map(|(id, node)| describe(*id, node, founding)).collect()
    }
}

fn describe(id: u32, node: &cluster::Node, founding: &Configuration) -> String {
    let Some(raft) = &node.raft else { return format!("n{id} down, log {}", node.last()) };
    let role = match (raft.role(), raft.leader()) {
        (RoleKind::Follower, Some(leader)) => format!("follower of n{}", leader.0),
        (role, _) => draw::role(role).to_string(),
    };
    let (term, last, durable, commit) = (raft.term(), raft.last(), raft.durable(), raft.commit());
    let serves = if raft.may_serve() { " serves" } else { "" };
    let members = match raft.configuration() {
        same if same == founding => String::new(),
        other => format!(" {}", draw::configuration(other)),
    };
    format!("n{id} {role} {term} log {last} durable {durable} commit {commit}{serves}{members}")
}
