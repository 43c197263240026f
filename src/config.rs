//! Every bound of the server: unit, range and reason. What is reached gives a clear error to who
//! caused it.
//!
//! Bounds of the parts that also run without a server are beside their code
//! (`raft::message::Config`, `replica::ReplicaConfig`, `margay_log::Options`, `wire::FRAME_MAX`,
//! `machine::session`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use margay_log::id::Micros;

/// Port for clients and peers where none is given.
pub const PORT: u16 = 5150;
/// Where a server listens if it is not told: this machine only, because nothing authenticates
/// anybody.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);

/// Founders of a cluster, at most. Larger quorums cost latency and give nothing.
pub const FOUNDERS_MAX: usize = 9;
/// Members of a group, learners among them, at most.
pub const MEMBERS_MAX: usize = 32;
/// Groups of a cluster, at most: each has a log directory and two connections per pair of nodes.
pub const GROUPS_MAX: u32 = 256;
/// Shards of a node, at most.
pub const SHARDS_MAX: usize = 128;
/// Bytes of a node's name, at most: ASCII letters, digits, `-`, `_` and `.`.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of a peer's address, at most.
pub const ADDRESS_BYTES_MAX: usize = 255;

/// How long a node that is no member any more can still be told so.
pub const LINGER: Micros = Micros::from_millis(2_000);

/// Oldest kernel that has all we use (SINGLE_ISSUER and DEFER_TASKRUN came with 6.1).
pub const KERNEL_MIN: (u32, u32) = (6, 1);
/// Locked memory that each executor needs, in bytes: glommio refuses to start with less.
pub const MEMLOCK_MIN: u64 = 512 << 10;
/// Registered I/O memory of an executor, in bytes. Ours goes through the shard's own ring, so the
/// least.
pub const EXECUTOR_IO_MEMORY: usize = 64 << 10;
/// Depth of an executor's own rings: they only carry the timer of its warm-up.
pub const EXECUTOR_RING_DEPTH: usize = 16;
/// An executor's preempt timer: never. If it fires before the first task has run, glommio 0.9 goes
/// to sleep with that task ready, and nothing wakes it (3 of 10 runs on a busy machine with 1 ms; 0
/// of 10 without).
pub const EXECUTOR_PREEMPT: Micros = Micros::from_millis(24 * 3_600_000);

/// Submission queue of a shard's ring; what does not fit waits in order.
pub const RING_ENTRIES: u32 = 1_024;
/// Completion queue. A turn takes [`REAP_MAX`], and repeating receives must not overflow it.
pub const RING_COMPLETIONS: u32 = 8_192;
/// Fewer completions than this in one enter: no more are waiting (Linux runs about 20 deferred
/// works).
pub const REAP_FEW: usize = 20;
/// Completions handled in one turn, about.
pub const REAP_MAX: usize = 512;
/// Time spent collecting in one turn, in microseconds.
pub const REAP_MICROS: u64 = 100;

/// Receive buffers of a shard, a power of two. Given back within the turn that filled them; few, so
/// that they stay in the cache.
pub const POOL_BUFFERS: u16 = 128;
/// Bytes of a receive buffer; larger frames are put together elsewhere. Measured with 16
/// connections: 128 of 32 KiB echo 139 k frames of 64 B a second and 67 k of 16 KiB; 512 of 8 KiB
/// 102 k and 63 k.
pub const POOL_BUFFER_BYTES: u32 = 32 << 10;
/// Bytes of incomplete frames that a shard keeps for all its connections, at most.
pub const PARTIAL_BYTES_MAX: usize = 256 << 20;

/// Connections of a node, at most; fewer where descriptors are short.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Descriptors kept for log segments, peers, rings and what we do not know of.
pub const FILES_RESERVED: u64 = 512;
/// Connections from one address, at most. This machine itself is exempt.
pub const CONNECTIONS_PER_ADDRESS_MAX: u32 = 256;
/// Connections from one address that have not said hello, at most. This machine itself is exempt.
pub const HALF_OPEN_PER_ADDRESS_MAX: u32 = 64;

/// A connection says hello within this time.
pub const HELLO_TIME: Micros = Micros::from_millis(5_000);
/// A frame is complete within this time of its first byte: 2 MiB at 70 KB/s.
pub const FRAME_TIME: Micros = Micros::from_millis(30_000);
/// A client that sends nothing for this long is gone: sessions keep themselves alive far more
/// often.
pub const IDLE_TIME: Micros = Micros::from_millis(310_000);
/// A mebibyte leaves within this time, or the receiver is stuck.
pub const SEND_TIME: Micros = Micros::from_millis(10_000);
/// A connection that is being closed politely gets this time to read the last words.
pub const CLOSING_TIME: Micros = Micros::from_millis(1_000);
/// Bytes waiting to be sent to one client, at most.
pub const OUT_BYTES_MAX: usize = 8 << 20;

/// Of an out-buffer that was sent, this much is kept for the next turn; twice per connection.
pub const OUT_BYTES_KEPT: usize = 32 << 10;

/// A connection to a peer is made within this time.
pub const CONNECT_TIME: Micros = Micros::from_millis(2_000);
/// First pause after a failed connection to a peer; doubles up to [`BACKOFF_MAX`].
pub const BACKOFF_MIN: Micros = Micros::from_millis(50);
/// Longest pause.
pub const BACKOFF_MAX: Micros = Micros::from_millis(1_000);
/// What a peer does not acknowledge for this long breaks the connection, in milliseconds.
pub const PEER_SILENT_MILLIS: i32 = 5_000;
/// Pause of accepting when descriptors have run out.
pub const ACCEPT_PAUSE: Micros = Micros::from_millis(100);
/// Connections that wait to be taken over by another shard, at most.
pub const HANDOVERS_MAX: usize = 4_096;

/// What a shard asks the scheduler to be run for at a time. The shortest possible is 100 us; with
/// this one and three nodes on two CPUs the longest turn took 5.7 ms, with the default of 2.8 ms or
/// more 8.4 ms.
pub const SHARD_SLICE: Micros = Micros(300);

/// Pieces of TLS handshakes that are looked at in a turn, each some 0.1 ms.
pub const SHAKES_PER_TURN: u32 = 4;
/// Bytes of such a piece, at most. One of each connection may wait for its turn; a hello or a
/// certificate and its proof are 2 KiB.
pub const SHAKE_BYTES: u32 = 4 << 10;
/// A turn that has taken this long applies no more: what is committed waits for the next one.
pub const TURN_LONG: Micros = Micros::from_millis(2);
/// Turns longer than this are counted, and said at log level debug.
pub const TURN_ALARM: Micros = Micros::from_millis(5);
/// The longest turn is told of this period and the one before it.
pub const PACE_PERIOD: Micros = Micros::from_millis(5_000);
/// A wake-up this much after its deadline is late.
pub const LATE: Micros = Micros::from_millis(5);
/// A shard looks around at least this often.
pub const SLEEP_MAX: Micros = Micros::from_millis(10_000);
/// A node that stops in order has this long to hand leadership over: two attempts, and an election.
pub const RETIRE_TIME: Micros = Micros::from_millis(2_000);
/// And then this long to write down how far its logs are durable.
pub const REST_TIME: Micros = Micros::from_millis(1_000);
/// Stopping waits this long for what is in flight.
pub const STOP_TIME: Micros = Micros::from_millis(5_000);

/// A port that is taken is tried again for so long: the kernel takes down what a killed process had
/// after the process itself.
pub const LISTEN_TIME: Micros = Micros::from_millis(2_000);
/// Pause between two tries.
pub const LISTEN_PAUSE: Micros = Micros::from_millis(20);

/// Founders ask each other this often.
pub const FORMING_PAUSE: Micros = Micros::from_millis(100);
/// An exchange between founders is over within this time.
pub const FORMING_TIME: Micros = Micros::from_millis(2_000);
/// Bytes of an offer or of a founding record, at most.
pub const FORMING_BYTES_MAX: usize = 16 << 10;

/// Pause between two pieces of 256 KiB of a group's log that are looked through for rot: 2 MiB a
/// second, which no disk notices.
pub const SCRUB_PAUSE: Micros = Micros::from_millis(125);
/// Files of a group's log that is no longer needed, kept for later segments, in bytes: as many as
/// one snapshot of a small state sets free, or one of a larger state if that is more. Beyond that
/// it would be disk space that nobody else can use.
pub const SPARE_BYTES: u64 = 128 << 20;
/// Bytes of log on disk since the last snapshot at which the next is due, unless the state is
/// larger: 64 MiB, what a restart replays in a second or so.
pub const SNAPSHOT_AFTER: u64 = 64 << 20;
/// The least that may be said instead of [`SNAPSHOT_AFTER`]: with less, a group would do nothing
/// but write snapshots.
pub const SNAPSHOT_AFTER_MIN: u64 = 64 << 10;

const _: () = assert!(REAP_MAX <= RING_COMPLETIONS as usize / 4);
const _: () = assert!(POOL_BUFFERS.is_power_of_two() && POOL_BUFFER_BYTES.is_multiple_of(4_096));
const _: () = assert!(BACKOFF_MIN.0 < BACKOFF_MAX.0 && BACKOFF_MAX.0 < CONNECT_TIME.0 * 2);
const _: () = assert!(CLOSING_TIME.0 < STOP_TIME.0 && SEND_TIME.0 < FRAME_TIME.0);
const _: () = assert!(HALF_OPEN_PER_ADDRESS_MAX <= CONNECTIONS_PER_ADDRESS_MAX);
const _: () =
    assert!(FORMING_BYTES_MAX >= FOUNDERS_MAX * (NAME_BYTES_MAX + ADDRESS_BYTES_MAX + 32) + 64);
