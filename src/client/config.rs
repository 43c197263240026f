//! What a session can be told, with defaults and bounds.

use margay_log::id::{ClusterId, GroupId, Micros};

use crate::wire::client::NOTICES_MAX;

/// Operations of one session under way, at most: asked for and not answered. Unit: operations.
pub const IN_FLIGHT_MAX: usize = 1_024;

/// Subscriptions of one session, at most.
pub(super) const SUBSCRIPTIONS_MAX: usize = 1_024;

/// Encoding stops while this many bytes wait to be sent; the rest is encoded as they go.
pub(super) const OUT_HIGH: usize = 1 << 20;

/// Holdings mirrored, at most. More than any node lists when the session attaches: what is not
/// mirrored would look as if it had timed out, a session that has too many is ended and told so.
pub(super) const HOLDINGS_MAX: usize = 65_536;

const _: () = assert!(HOLDINGS_MAX > NOTICES_MAX);

/// What a client does when its session has expired, after telling what was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Recovery {
    /// The next command begins a new session, which holds nothing.
    #[default]
    NewSession,
    /// The client's part in this group is closed: every call fails. For programs that must not go
    /// on as somebody else.
    Close,
}

/// How one client speaks to one group. Times are in microseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionConfig {
    /// The group.
    pub group: GroupId,
    /// The cluster; 0 takes the first that answers, and no other after that.
    pub cluster: ClusterId,
    /// Addresses of nodes, at least one. The others are learned from refusals that name the leader.
    pub endpoints: Vec<String>,
    /// Seeds the jitter of back-off. Two sessions should not have the same.
    pub seed: u64,
    /// Random and secret: makes registering idempotent, and whoever knows it can attach.
    pub key: [u8; 16],
    /// The session expires when the cluster has not heard of it for this long. Default 10 s; 1 to
    /// 300 s.
    pub timeout: Micros,
    /// An attempt to connect, and the wait for an answer to the hello, take no longer than this.
    /// Default 1 s.
    pub connect_timeout: Micros,
    /// A connection on which an answer is due and nothing at all was heard for this long is given
    /// up. Default 2 s; well below `timeout`, so that there is time to try another node.
    pub silence: Micros,
    /// First pause after all endpoints have failed, or after a refusal for load. Default 20 ms.
    pub backoff_min: Micros,
    /// Longest pause. Default 100 ms: a fail-over should not wait for its clients.
    pub backoff_max: Micros,
    /// What comes after an expired session. Default [`Recovery::NewSession`].
    pub recovery: Recovery,
    /// Begin with any of the endpoints, drawn from the seed, or with the first. Default any, so
    /// that many clients do not all begin at one node.
    pub shuffle: bool,
    /// Operations under way, at most. Default and upper bound: [`IN_FLIGHT_MAX`].
    pub in_flight_max: usize,
}

impl SessionConfig {
    /// Defaults for `group` behind `endpoints`. `key` and `seed` come from the caller's random
    /// source.
    #[must_use]
    pub fn new(group: GroupId, endpoints: Vec<String>, key: [u8; 16], seed: u64) -> SessionConfig {
        SessionConfig {
            group,
            cluster: ClusterId(0),
            endpoints,
            seed,
            key,
            timeout: Micros::from_millis(10_000),
            connect_timeout: Micros::from_millis(1_000),
            silence: Micros::from_millis(2_000),
            backoff_min: Micros::from_millis(20),
            backoff_max: Micros::from_millis(100),
            recovery: Recovery::NewSession,
            shuffle: true,
            in_flight_max: IN_FLIGHT_MAX,
        }
    }

    /// The key of the session's `life`-th life: an expired one must not be found again by its
    /// successor.
    pub(super) fn key_of(&self, life: u64) -> [u8; 16] {
        (u128::from_le_bytes(self.key).wrapping_add(u128::from(life))).to_le_bytes()
    }
}
