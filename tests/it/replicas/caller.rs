//! A client of the group: the session that ships, connected by hand.

use std::collections::{BTreeMap, BTreeSet};

use margay::client::session::{Call, CallId, Output, Session, SessionConfig, SessionState};
use margay::machine::{Level, Notice, ResourceId, kind};
use margay::replica::ConnId;
use margay::resource::codec::Encode;
use margay::resource::counter::{AddV1, GetV1};
use margay::resource::registry::OpenV1;
use margay::resource::value::CompareAndSetV1;
use margay::resource::{Answer, Failure};
use margay::wire::{self, Hello};
use margay_log::id::{GroupId, Index, Micros, NodeId};

use super::group::{CLUSTER, Group, address};

/// How long a call may take.
const PATIENCE: Micros = Micros::from_millis(20_000);

pub(crate) struct Caller {
    pub(crate) session: Session,
    conn: Option<ConnId>,
    /// Sent and not yet whole frames.
    sent: Vec<u8>,
    greeted: bool,
    /// Nodes it does not reach.
    pub(crate) cut: BTreeSet<u32>,
    results: BTreeMap<CallId, Result<Answer, Failure>>,
    /// Events, notices, states.
    pub(crate) told: Vec<Output>,
    /// Where it has tried to connect, in order.
    pub(crate) tried: Vec<u32>,
}

impl Caller {
    /// One that begins with the first of `nodes`; its session lives for `timeout` milliseconds.
    pub(crate) fn new(group: &Group, name: u8, nodes: &[u32], timeout: u64) -> Caller {
        let endpoints = nodes.iter().map(|n| address(*n)).collect();
        let config = SessionConfig::new(GroupId(0), endpoints, [name; 16], u64::from(name));
        let timeout = Micros::from_millis(timeout);
        let config = SessionConfig { timeout, shuffle: false, ..config };
        Caller {
            session: Session::new(config, group.now),
            conn: None,
            sent: Vec::new(),
            greeted: false,
            cut: BTreeSet::new(),
            results: BTreeMap::new(),
            told: Vec::new(),
            tried: Vec::new(),
        }
    }

    /// Carries everything there is to carry, both ways.
    pub(crate) fn carry(&mut self, group: &mut Group) {
        let now = group.now;
        if self.session.deadline().is_some_and(|due| due <= now) {
            self.session.on_tick(now);
        }
        loop {
            let heard = self.listen(group);
            let mut idle = !heard;
            while let Some(output) = self.session.poll() {
                idle = false;
                self.take(group, output);
            }
            if idle & !self.speak(group) {
                return;
            }
        }
    }

    /// Whether it reaches the node that it is connected to, and that is awake.
    fn reaches(&self, group: &mut Group) -> Option<(ConnId, u32)> {
        let conn = self.conn?;
        let n = *group.links.get(&conn)?;
        (!self.cut.contains(&n) && !group.node(n).paused).then_some((conn, n))
    }

    fn listen(&mut self, group: &mut Group) -> bool {
        let gone = self.conn.filter(|conn| !group.links.contains_key(conn));
        if gone.is_some() {
            self.conn = None;
            self.session.on_disconnected(group.now);
            return true;
        }
        let Some((conn, _)) = self.reaches(group) else { return false };
        let bytes = group.heard(conn);
        self.session.on_bytes(group.now, &bytes);
        !bytes.is_empty()
    }

    fn speak(&mut self, group: &mut Group) -> bool {
        let Some((conn, n)) = self.reaches(group) else { return false };
        let bytes = std::mem::take(self.session.outgoing());
        self.sent.extend_from_slice(&bytes);
        if !self.greeted && !self.sent.is_empty() {
            let length = Hello::peek(&self.sent).expect("ours").expect("whole");
            let asked = Hello::decode(&self.sent[..length]).expect("a hello");
            let answer = Hello { cluster: CLUSTER, node: NodeId(n), groups: 1, ..asked };
            self.sent.drain(..length);
            self.greeted = true;
            self.session.on_bytes(group.now, &answer.encode());
        }
        while let Some(length) = wire::peek(&self.sent).expect("frames") {
            if length > self.sent.len() {
                break;
            }
            let frame: Vec<u8> = self.sent.drain(..length).collect();
            group.say(conn, &frame);
        }
        !bytes.is_empty()
    }

    fn take(&mut self, group: &mut Group, output: Output) {
        match output {
            Output::Connect(to) => {
                let n = (1..).find(|n| address(*n) == to).expect("an address of ours");
                self.tried.push(n);
                self.conn = if self.cut.contains(&n) { None } else { group.connect(n) };
                (self.greeted, self.sent) = (false, Vec::new());
                match self.conn {
                    Some(_) => self.session.on_connected(group.now, &to),
                    None => self.session.on_failed(group.now, "connection refused"),
                }
            }
            Output::Disconnect => {
                if let Some(conn) = self.conn.take() {
                    group.disconnect(conn);
                }
            }
            Output::Finished(id, result) => {
                self.results.insert(id, result);
            }
            other => self.told.push(other),
        }
    }

    pub(crate) fn command<O: Encode>(
        &mut self,
        group: &Group,
        resource: ResourceId,
        operation: &O,
    ) -> CallId {
        let (kind, schema, payload) = (O::KIND, O::SCHEMA, operation.encode());
        let call = Call::Command { kind, schema, resource, payload };
        self.session.submit(group.now, call, group.now.after(PATIENCE))
    }

    pub(crate) fn query<O: Encode>(
        &mut self,
        group: &Group,
        level: Level,
        resource: ResourceId,
        operation: &O,
    ) -> CallId {
        let (kind, schema, payload) = (O::KIND, O::SCHEMA, operation.encode());
        let call = Call::Query { level, kind, schema, resource, payload };
        self.session.submit(group.now, call, group.now.after(PATIENCE))
    }

    /// Asks for the events of a resource behind an index.
    pub(crate) fn watch(&mut self, group: &Group, resource: ResourceId, after: Index) -> CallId {
        let (after, filter) = (Some((after, u32::MAX)), Vec::new());
        let call = Call::Subscribe { resource, after, filter };
        self.session.submit(group.now, call, Micros(u64::MAX))
    }

    /// Its connection breaks.
    pub(crate) fn hang_up(&mut self, group: &mut Group) {
        if let Some(conn) = self.conn.take() {
            group.disconnect(conn);
            self.session.on_disconnected(group.now);
        }
    }

    /// The node it is connected to.
    pub(crate) fn node(&self, group: &Group) -> Option<u32> {
        group.links.get(&self.conn?).copied()
    }

    /// What has come of a call, if it has ended.
    pub(crate) fn result(&mut self, id: CallId) -> Option<Result<Answer, Failure>> {
        self.results.remove(&id)
    }

    /// Waits for the end of a call.
    #[track_caller]
    pub(crate) fn finish(&mut self, group: &mut Group, id: CallId) -> Result<Answer, Failure> {
        group.until("an answer", |group| {
            self.carry(group);
            self.results.contains_key(&id)
        });
        self.result(id).expect("just seen")
    }

    /// Opens a resource.
    #[track_caller]
    pub(crate) fn open(&mut self, group: &mut Group, name: &str, kind: u8) -> ResourceId {
        let open = OpenV1 { name: name.into(), kind, options: Vec::new() };
        let id = self.command(group, ResourceId(0), &open);
        let answer = self.finish(group, id).expect("it opens");
        ResourceId(number(&answer.payload, 0) as u64)
    }

    /// Adds one to a counter, and returns what it is then.
    #[track_caller]
    pub(crate) fn add(&mut self, group: &mut Group, counter: ResourceId) -> i64 {
        let id = self.command(group, counter, &AddV1 { delta: 1 });
        number(&self.finish(group, id).expect("it counts").payload, 8)
    }

    /// What a counter is, read linearizably.
    #[track_caller]
    pub(crate) fn count(&mut self, group: &mut Group, counter: ResourceId) -> i64 {
        let id = self.query(group, Level::Linearizable, counter, &GetV1 {});
        number(&self.finish(group, id).expect("it can be read").payload, 0)
    }

    /// Fills the log with so many commands of a KiB that change nothing.
    #[track_caller]
    pub(crate) fn fill(&mut self, group: &mut Group, times: u32) {
        let resource = self.open(group, "filler", kind::VALUE);
        for n in 0..times {
            let (expected, value) = (Some(b"nobody sets this".to_vec()), vec![n as u8; 1_024]);
            let swap = CompareAndSetV1 { expected, value, ephemeral: false, ttl_ms: 0 };
            let id = self.command(group, resource, &swap);
            self.finish(group, id).expect("it is answered");
        }
    }

    /// The session's states, in the order in which they were told.
    pub(crate) fn states(&self) -> Vec<SessionState> {
        let states = self.told.iter().filter_map(|told| match told {
            Output::State(state) => Some(*state),
            _ => None,
        });
        states.collect()
    }

    pub(crate) fn notices(&self) -> Vec<Notice> {
        let notices = self.told.iter().filter_map(|told| match told {
            Output::Notice(notice) => Some(*notice),
            _ => None,
        });
        notices.collect()
    }
}

/// The number at a place of a reply.
pub(crate) fn number(payload: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(payload[at..at + 8].try_into().expect("eight bytes"))
}
