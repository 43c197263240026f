//! Result codes: one number per way an operation can end, the same on the wire, in the log and in
//! programs.
//!
//! Numbers never change their meaning and are never used twice: 1xx bytes, 2xx content, 3xx
//! resources, 4xx sessions, 5xx load, 7xx cluster, 8xx storage.

use std::fmt;

/// How an operation ended. 0 is success; everything else says who has to do what (see
/// [`Code::text`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Code(pub u16);

/// What is known about an operation that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It has not changed anything and never will: it may be tried again.
    NotApplied,
    /// It took effect; only its reply is missing.
    Applied,
    /// It may have taken effect, or may still: look before trying again.
    Unknown,
}

macro_rules! codes {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident = $number:literal, $outcome:ident, $text:literal;
    )*) => {
        impl Code {
            $($(#[doc = $doc])+ pub const $name: Code = Code($number);)*

            /// Every code this version knows, rising.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The constant's name, or `"UNKNOWN"` for a number of a later version.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Code::$name => stringify!($name),)*
                    _ => "UNKNOWN",
                }
            }

            /// What it means and what helps, in one line, lower case.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self {
                    $(Code::$name => $text,)*
                    _ => "a code of a later version; update this program",
                }
            }

            /// What an operation that ended so has done.
            #[must_use]
            pub fn outcome(self) -> Outcome {
                match self {
                    $(Code::$name => Outcome::$outcome,)*
                    _ => Outcome::Unknown,
                }
            }
        }
    };
}

codes! {
    /// Done.
    OK = 0, Applied, "done";

    /// A frame declares more bytes than are allowed.
    FRAME_TOO_LARGE = 101, NotApplied, "frame too large";
    /// A frame is shorter than its header or not well formed.
    BAD_FRAME = 102, NotApplied, "not a well-formed frame";
    /// The bytes of another protocol.
    FOREIGN = 103, NotApplied, "this is a margay port; another protocol was spoken";
    /// Another version of the protocol.
    VERSION = 104, NotApplied, "the other side speaks another protocol version; update the older";
    /// A checksum does not match.
    CORRUPT = 105, NotApplied, "checksum mismatch; the bytes were damaged on their way";
    /// No such kind or schema of operation in this version.
    BAD_KIND = 106, NotApplied, "unknown operation; the server is older than the client";
    /// The payload is not what its kind and schema say.
    BAD_PAYLOAD = 107, NotApplied, "the operation's bytes are not valid";

    /// A resource name that is empty, longer than 256 bytes, not UTF-8, or holds control
    /// characters.
    BAD_NAME = 201, NotApplied, "names are 1 to 256 bytes of UTF-8 without control characters";
    /// The resource exists with another type.
    WRONG_TYPE = 202, NotApplied, "the name belongs to a resource of another type";
    /// The counter would leave the range of a signed 64-bit integer; it is unchanged.
    OVERFLOW = 203, NotApplied, "the counter would overflow; it is unchanged";
    /// A time-out or time to live out of range.
    BAD_TIME = 204, NotApplied, "the time span is out of range: 1 ms to 10 years";
    /// The operations of one transaction belong to different groups.
    CROSS_GROUP = 206, NotApplied, "the names belong to different groups; add the same @digits";
    /// More operations in a transaction than are allowed.
    TOO_MANY_OPERATIONS = 207, NotApplied, "too many operations in one transaction";
    /// A key named twice in one transaction.
    DUPLICATE_KEY = 208, NotApplied, "a key is named twice in one transaction";
    /// A value over 1 MiB, or several values of one operation that are over 1 MiB together.
    VALUE_TOO_LARGE = 209, NotApplied, "values are at most 1 MiB, all of one operation together";
    /// The events asked for are no longer kept.
    LAGGED = 210, NotApplied, "the events asked for are no longer kept; read the state, then go on";
    /// A key over 4 KiB.
    KEY_TOO_LARGE = 211, NotApplied, "keys are at most 4 KiB";
    /// Options over 4 KiB.
    OPTIONS_TOO_LARGE = 212, NotApplied, "options are at most 4 KiB";
    /// A subscription's filter that is not well formed.
    BAD_FILTER = 213, NotApplied, "the event filter is not valid";
    /// More keys in one operation than are allowed.
    TOO_MANY_KEYS = 214, NotApplied, "at most 1,000 keys in one operation";
    /// A path of a document tree that is not one.
    BAD_PATH = 215, NotApplied, "paths are / or /a/b: no empty names, dots, control characters";
    /// A number of permits, parties or tasks that is 0 or more than there can be.
    BAD_AMOUNT = 216, NotApplied, "the number asked for is out of range";

    /// No resource with this id or name: never created, or deleted.
    NO_SUCH_RESOURCE = 301, NotApplied, "no such resource; it was deleted or never created";
    /// The resource's waiting list is full.
    TOO_MANY_WAITERS = 302, NotApplied, "too many waiters; try again later";
    /// Release of something the session does not hold under this token.
    NOT_HOLDER = 303, NotApplied, "not held by this session under this token";
    /// A token older than one already seen.
    STALE_TOKEN = 304, NotApplied, "a newer holder has been here; this token is stale";
    /// Permits given back that are not held, or not so many.
    BAD_RELEASE = 305, NotApplied, "these permits are not held; nothing was given back";
    /// The lease had ended before the acknowledgement came.
    LEASE_EXPIRED = 306, NotApplied, "the lease had ended; it is somebody else's now";
    /// The session already holds or waits under this request number.
    ALREADY_HELD = 307, NotApplied, "this request already holds or waits; use another number";
    /// No more resources fit into the group.
    TOO_MANY_RESOURCES = 308, NotApplied, "the group holds as many resources as it may";
    /// A wait was ended by somebody else: the resource was deleted or reset, the candidate evicted.
    WAIT_LOST = 309, NotApplied, "the wait was ended by somebody else";
    /// No more tasks, or bytes of tasks, fit into the queue.
    QUEUE_FULL = 311, NotApplied, "the queue is full; take tasks out, then try again";
    /// No such candidate in the election: it was never there, or is out.
    NO_SUCH_CANDIDATE = 310, NotApplied, "no such candidate; it has never entered, or is out";

    /// The parent of a path is not there.
    NO_PARENT = 320, NotApplied, "the node above is not there; create it first";
    /// A node with others below it cannot be deleted.
    HAS_CHILDREN = 321, NotApplied, "there are nodes below; delete them first";
    /// A node that ends with its session cannot have others below it.
    EPHEMERAL_PARENT = 322, NotApplied, "the node above ends with its session: nothing below it";
    /// A position of a log that is not kept any more.
    TRIMMED = 330, NotApplied, "the log does not keep that position any more; begin at its first";
    /// No more records, or bytes of records, fit into a log that keeps everything.
    LOG_FULL = 331, NotApplied, "the log is full; trim it, or create one that keeps less";

    /// No such member in the group, or nobody there: never joined, or has left.
    NO_SUCH_MEMBER = 340, NotApplied, "no such member; it has never joined, or has left";
    /// Another session is in the group under this id.
    MEMBER_EXISTS = 341, NotApplied, "another session is a member under this id";
    /// The group has as many members as it may have.
    TOO_MANY_MEMBERS = 342, NotApplied, "the group has as many members as it may";
    /// No more messages fit: into the member's inbox, any inbox, or the group.
    INBOX_FULL = 343, NotApplied, "too many messages wait there; try again when some are answered";
    /// The message is not this member's any more: answered, withdrawn, its time over.
    NO_SUCH_MESSAGE = 344, NotApplied, "no such message here: answered, withdrawn or too late";
    /// Whoever got the message says that it could not do what was asked.
    MESSAGE_FAILED = 345, Unknown, "the member that got the message has failed";

    /// The session is not known: expired, closed, or never registered. What it sent before may
    /// have been applied.
    SESSION_EXPIRED = 401, Unknown, "the session has expired; what it held is released";
    /// The command was applied, its reply is no longer kept or was too large to keep.
    REPLY_GONE = 402, Applied, "applied, but its reply is no longer kept";
    /// A command's sequence is not the next one.
    SEQUENCE_GAP = 403, NotApplied, "a command before this one is missing";
    /// Another connection has attached to the session.
    SESSION_MOVED = 404, Unknown, "the session was attached from another connection";
    /// The key of an attach is not the session's.
    SESSION_KEY = 405, NotApplied, "wrong key for this session";
    /// A session time-out out of range.
    BAD_TIMEOUT = 406, NotApplied, "session time-outs are 1 to 300 seconds";
    /// The connection has not registered or attached a session.
    NO_SESSION = 407, NotApplied, "register or attach a session first";
    /// The session holds and waits for as much as it may: 10,000 locks, permits, memberships and so
    /// on, in one group.
    TOO_MANY_HOLDINGS = 408, NotApplied, "the session holds and waits for too much; release some";

    /// No more connections.
    TOO_MANY_CONNECTIONS = 501, NotApplied, "too many connections; close some or raise the limit";
    /// No more sessions.
    TOO_MANY_SESSIONS = 502, NotApplied, "too many sessions; close some or raise the limit";
    /// More work than can be taken on.
    OVERLOADED = 503, NotApplied, "overloaded; wait and try again";
    /// More subscriptions than a session may have.
    TOO_MANY_SUBSCRIPTIONS = 504, NotApplied, "too many subscriptions; end some";

    /// Connections to this node are encrypted.
    TLS_REQUIRED = 601, NotApplied, "this node takes encrypted connections only; use --tls";
    /// The certificate does not give the right to do this.
    DENIED = 602, NotApplied, "the certificate shown does not allow this";

    /// Another cluster, or another group.
    CLUSTER_MISMATCH = 701, NotApplied, "this node belongs to another cluster";
    /// A node of this name is known with another disk.
    DUPLICATE_NODE = 702, NotApplied, "known with another disk; remove it, then use --join";
    /// This node does not lead the group.
    NOT_LEADER = 703, NotApplied, "not the leader; ask the one named here";
    /// The group has no leader at the moment.
    NO_LEADER = 704, NotApplied, "no leader at the moment; try again";
    /// A change of the membership that could cost availability or data.
    UNSAFE_CHANGE = 705, NotApplied, "unsafe membership change";
    /// The node does not serve this group.
    NO_SUCH_GROUP = 706, NotApplied, "the node does not serve this group";
    /// The leader stepped down with the operation under way.
    LEADER_CHANGED = 707, Unknown, "the leader changed while the operation was under way";
    /// The time-out passed before an answer.
    TIMEOUT = 708, Unknown, "no answer in time";
    /// The client was closed with the operation under way.
    CLIENT_CLOSED = 709, Unknown, "the client was closed while the operation was under way";
    /// A new leader that has not applied its first entry yet.
    NOT_READY = 710, NotApplied, "the leader is new and not ready yet; try again";
    /// Another change of the membership has not ended.
    CHANGE_UNDER_WAY = 711, NotApplied, "another membership change is under way; try again";
    /// A learner that is to vote lacks too much of the log.
    NOT_CAUGHT_UP = 712, NotApplied, "the node has not caught up; try again later";
    /// A change of the membership that makes no sense.
    BAD_CHANGE = 713, NotApplied, "this membership change is not possible";
    /// The node was removed from the group.
    REMOVED = 714, NotApplied, "this node was removed; empty its directory, then use --join";

    /// No space for the log.
    DISK_FULL = 801, NotApplied, "disk full; reads go on, writes resume when there is space";
    /// The group has halted.
    HALTED = 802, Unknown, "the group has halted; see the node's report";
    /// The files are of a later version.
    FORMAT_TOO_NEW = 803, NotApplied, "files of a newer version; update this program";
    /// Another process has the directory.
    LOCKED = 804, NotApplied, "another process uses this directory";
}

impl Code {
    /// Whether this is success.
    #[must_use]
    pub fn is_ok(self) -> bool {
        self == Code::OK
    }
}

impl std::error::Error for Code {}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "E{:04} {}", self.0, self.text())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}
