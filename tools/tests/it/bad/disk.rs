//! Files of a stopped node that were damaged, mixed up or taken away.
//!
//! What was acknowledged is never given up in silence: the next start names the file, the place
//! and the remedy, ends with 6, and leaves what there is as it is; or it says nothing because
//! nothing is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crc32c::crc32c;
use margay_log::snapshot::SNAPSHOT_HEADER;

use super::{One, connect, ends, serve};
use crate::harness::{Ended, Scratch, beside_others, margay_alone, until};

const BLOCK: usize = 4_096;
const HARD_STATE: &str = "group-0/hard-state";
const SEGMENT: &str = "group-0/segment-0000000000000001.log";

/// A stopped node with twenty acknowledged values, one batch each.
struct Stopped {
    scratch: Scratch,
    data: PathBuf,
}

impl Stopped {
    fn new(test: &str) -> Stopped {
        let scratch = Scratch::new(test);
        let one = One::start(scratch.path());
        let client = connect(&one.address);
        let value = client.value("kept").wait().expect("opens");
        for number in 0..20_u8 {
            value.set(&[number; 2_000]).wait().expect("sets");
        }
        drop((value, client));
        assert_eq!(one.stop(), Some(0));
        let data = scratch.path().join("data");
        Stopped { scratch, data }
    }

    fn change(&self, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.data.join(file);
        let mut bytes = fs::read(&path).expect("it is there");
        change(&mut bytes);
        fs::write(&path, bytes).expect("ours");
    }

    /// Where the value of this number begins in the segment.
    fn place(&self, number: u8) -> usize {
        let bytes = fs::read(self.data.join(SEGMENT)).expect("it is there");
        let found = bytes.windows(2_000).position(|window| window == [number; 2_000]);
        found.expect("the segment holds it")
    }

    fn start(&self) -> Ended {
        ends(serve(&[], &self.data, &["--shards", "1"]), self.scratch.path())
    }

    /// Asserts that the node does not start, twice, for this reason, and that no segment and no
    /// identity has changed by that.
    #[track_caller]
    fn refuses(&self, code: i32, words: &[&str]) {
        let before = files(&self.data);
        self.start().because(code, words);
        self.start().because(code, words);
        let after = files(&self.data);
        for (path, bytes) in &before {
            let same = after.get(path) == Some(bytes);
            assert!(same || is_volatile(path), "{} was changed", path.display());
        }
    }

    /// Asserts that the node starts and has everything.
    #[track_caller]
    fn recovers(&self) -> One {
        let one = One::start(self.scratch.path());
        let value = connect(&one.address).value("kept").wait().expect("opens");
        let kept = value.get().wait().expect("reads").expect("is there");
        assert_eq!(*kept.value, [19; 2_000]);
        one
    }
}

/// What a start may write even where it refuses: who has the directory, and that there is damage.
fn is_volatile(path: &Path) -> bool {
    path.ends_with("lock") || path.ends_with("hard-state")
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("ours").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = fs::read(&path).expect("ours");
            found.insert(path, bytes);
        }
    }
    found
}

/// Gives a header another format version and the checksum that belongs to it.
fn newer(header: &mut [u8]) {
    header[4..6].copy_from_slice(&2_u16.to_le_bytes());
    let end = header.len() - 4;
    let crc = crc32c(&header[..end]);
    header[end..].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_flipped_byte_in_what_was_acknowledged_is_refused() {
    let _beside = beside_others();
    let node = Stopped::new("bad-flip");
    let at = node.place(7);
    node.change(SEGMENT, |bytes| bytes[at + 1_000] ^= 1);
    let offset = format!("offset {}", at / BLOCK * BLOCK);
    let file = "segment-0000000000000001.log";
    node.refuses(6, &["group 0", file, &offset, "restore"]);
    // The report is not the end of it: the byte is put back, and everything is there.
    node.change(SEGMENT, |bytes| bytes[at + 1_000] ^= 1);
    node.recovers().serves();
}

#[test]
fn a_zeroed_block_in_what_was_acknowledged_is_refused() {
    let _beside = beside_others();
    let node = Stopped::new("bad-zero");
    let at = node.place(7) / BLOCK * BLOCK;
    node.change(SEGMENT, |bytes| bytes[at..at + BLOCK].fill(0));
    let offset = format!("offset {at}");
    node.refuses(6, &["group 0", "segment-0000000000000001.log", &offset, "restore"]);
}

#[test]
fn swapped_blocks_are_refused() {
    let _beside = beside_others();
    let node = Stopped::new("bad-swap");
    let (a, b) = (node.place(7) / BLOCK * BLOCK, node.place(9) / BLOCK * BLOCK);
    node.change(SEGMENT, |bytes| {
        let block = bytes[a..a + BLOCK].to_vec();
        bytes.copy_within(b..b + BLOCK, a);
        bytes[b..b + BLOCK].copy_from_slice(&block);
    });
    node.refuses(6, &["segment-0000000000000001.log is damaged at", "restore"]);
}

#[test]
fn a_cut_or_missing_segment_is_refused() {
    let _beside = beside_others();
    let node = Stopped::new("bad-cut");
    let segment = node.data.join(SEGMENT);
    let whole = fs::read(&segment).expect("it is there");
    let file = "segment-0000000000000001.log";
    for size in [node.place(7) / BLOCK * BLOCK, node.place(7), BLOCK, 0] {
        let cut = OpenOptions::new().write(true).open(&segment).expect("ours");
        cut.set_len(size as u64).expect("ours");
        drop(cut);
        node.refuses(6, &["group 0", file, &format!("{size} bytes"), "restore"]);
        fs::write(&segment, &whole).expect("ours");
    }
    fs::remove_file(&segment).expect("ours");
    node.refuses(6, &["group 0", file, "missing", "restore"]);
    fs::write(&segment, &whole).expect("ours");
    node.recovers().serves();
}

#[test]
fn files_of_a_newer_version_are_not_touched() {
    let _beside = beside_others();
    let node = Stopped::new("bad-newer");
    let segment = fs::read(node.data.join(SEGMENT)).expect("it is there");
    node.change(SEGMENT, |bytes| newer(&mut bytes[..BLOCK]));
    let file = "segment-0000000000000001.log";
    node.refuses(6, &["group 0", file, "format version 2", "newer margay"]);
    fs::write(node.data.join(SEGMENT), &segment).expect("ours");
    let hard_state = fs::read(node.data.join(HARD_STATE)).expect("it is there");
    node.change(HARD_STATE, |bytes| bytes.chunks_mut(BLOCK).for_each(newer));
    let changed = fs::read(node.data.join(HARD_STATE)).expect("it is there");
    node.refuses(6, &["group 0", "hard-state", "format version 2", "newer margay"]);
    assert_eq!(fs::read(node.data.join(HARD_STATE)).expect("it is there"), changed);
    fs::write(node.data.join(HARD_STATE), hard_state).expect("ours");
    node.recovers().serves();
}

#[test]
fn a_lost_or_rotten_hard_state_is_refused() {
    let _beside = beside_others();
    let node = Stopped::new("bad-hard-state");
    let path = node.data.join(HARD_STATE);
    let whole = fs::read(&path).expect("it is there");
    fs::remove_file(&path).expect("ours");
    let remedy = "restore it as it was, or, if others have its data, remove the node";
    node.refuses(6, &["group 0", "hard-state is missing", remedy]);
    assert!(!path.exists(), "none is made in its place");
    fs::write(&path, [0; 4 * BLOCK]).expect("ours");
    node.refuses(6, &["group 0", "hard-state", "none of four copies", remedy]);
    fs::write(&path, []).expect("ours");
    node.refuses(6, &["group 0", "hard-state", remedy]);
    fs::write(&path, &whole).expect("ours");
    // One rotten copy of each pair is none: there is another.
    let file = OpenOptions::new().write(true).open(&path).expect("ours");
    file.write_all_at(&[0xff; 64], 0).expect("ours");
    file.write_all_at(&[0xff; 64], 2 * BLOCK as u64).expect("ours");
    drop(file);
    node.recovers().serves();
}

/// A node that forgot what it has acknowledged in a group, and whom it voted for, could have the
/// others forget it too.
#[test]
fn a_group_whose_log_is_gone_does_not_begin_anew() {
    let _beside = beside_others();
    let node = Stopped::new("bad-gone");
    let (path, away) = (node.data.join("group-0"), node.data.join("group-0-away"));
    fs::rename(&path, &away).expect("ours");
    node.refuses(6, &["group-0", "is gone", "restore it as it was", "remove the node"]);
    assert!(!path.join("hard-state").exists(), "none is made in its place");
    fs::remove_dir_all(&path).expect("ours");
    fs::rename(&away, &path).expect("ours");
    node.recovers().serves();
}

#[test]
fn a_damaged_identity_is_refused() {
    let _beside = beside_others();
    let node = Stopped::new("bad-identity");
    let (identity, founding) = (node.data.join("node"), node.data.join("founding"));
    let whole = fs::read(&identity).expect("it is there");
    node.change("node", |bytes| bytes[20] ^= 1);
    node.refuses(6, &["node is damaged", "restore it as it was", "remove the node"]);
    fs::remove_file(&identity).expect("ours");
    node.refuses(6, &["node is damaged", "holds a cluster", "restore it as it was"]);
    fs::write(&identity, &whole).expect("ours");

    let record = fs::read(&founding).expect("it is there");
    node.change("founding", |bytes| bytes.fill(0));
    node.refuses(6, &["founding is damaged", "no copy is whole", "restore it as it was"]);
    fs::remove_file(&founding).expect("ours");
    // Without it the node would found another cluster over the logs of this one.
    node.refuses(6, &["founding", "group-0"]);
    fs::write(&founding, &record).expect("ours");
    node.change("founding", |bytes| bytes[0] ^= 1);
    let one = node.recovers();
    one.serves();
    assert!(one.said().contains("founding: one of two copies"), "{}", one.said());
    assert_eq!(fs::read(&founding).expect("it is there"), record, "it is put back");
}

/// A write that was cut off and never acknowledged is no damage.
#[test]
fn a_torn_end_is_cut_off_and_said() {
    let _beside = beside_others();
    let node = Stopped::new("bad-torn");
    node.change(SEGMENT, |bytes| {
        let end = bytes.chunks(BLOCK).rposition(|block| block.iter().any(|byte| *byte != 0));
        let next = (end.expect("it holds something") + 1) * BLOCK;
        bytes[next..next + 700].fill(0x5a);
    });
    let one = node.recovers();
    one.serves();
    assert!(one.said().contains("a write was cut off here by the last stop"), "{}", one.said());
}

/// The files of a group's directory whose names begin so, rising; temporary ones left out.
fn named(group: &Path, prefix: &str) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(group).expect("it is there").flatten();
    let names = entries.map(|entry| PathBuf::from(entry.file_name()));
    let is_whole = |name: &PathBuf| name.extension().is_none_or(|extension| extension != "tmp");
    names.filter(is_whole).filter(|name| name.to_string_lossy().starts_with(prefix)).collect()
}

/// A repair of a node's log loses what it says: what snapshots hold stays, and the node goes on.
#[test]
fn a_repaired_group_keeps_its_snapshots() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-repaired");
    let (data, group) = (scratch.path().join("data"), scratch.path().join("data/group-0"));
    let args = ["--shards", "1", "--snapshot-after", "64KiB"];
    let start = || One::launch(serve(&[], &data, &args), scratch.path());
    let snapshots = || named(&group, "snapshot-");
    let one = start();
    let map = connect(&one.address).map("kept").wait().expect("opens");
    let put = |number: u32| map.put(&number.to_be_bytes(), &[7; 2_000]).wait().expect("puts");
    let mut count = 0;
    until("the second snapshot", || {
        put(count);
        count += 1;
        snapshots().len() == 2
    });
    // Behind both of them; a gap in here is a gap that no snapshot fills.
    for number in count..count + 40 {
        put(number);
    }
    drop(map);
    assert_eq!(one.stop(), Some(0));
    let kept = snapshots();

    // What a newer version has made is no damage, and stays.
    let newest = group.join(kept.last().expect("there are two"));
    let whole = fs::read(&newest).expect("it is there");
    let mut other = whole.clone();
    newer(&mut other[..SNAPSHOT_HEADER]);
    fs::write(&newest, &other).expect("ours");
    let words = ["snapshot-", "format version 2", "newer margay"];
    ends(serve(&[], &data, &args), scratch.path()).because(6, &words);
    assert!(fs::read(&newest).expect("it is there") == other, "it was changed");
    fs::write(&newest, whole).expect("ours");

    let segments = named(&group, "segment-");
    let harmed = segments.iter().rev().find(|name| flip(&group.join(name), Which::LastButOne));
    let harmed = harmed.expect("a segment with batches");
    let repair = |words: &str| {
        ends(serve(&[], &data, &args), scratch.path()).because(6, &["damaged", "restore"]);
        let place = group.to_string_lossy();
        let repaired = margay_alone(&["log", "repair", "--yes", &place]).with(0);
        assert!(repaired.out.contains(words), "{repaired:?}");
    };
    repair("repaired; ");
    assert_eq!(snapshots(), kept);
    // A node writes over files that it uses again.
    let inode = |dir: &Path| fs::metadata(dir.join(harmed)).expect("it is there").ino();
    assert_ne!(inode(&group), inode(&data.join("group-0.damaged")));
    assert_eq!(fs::metadata(&group).expect("it is there").mode() & 0o777, 0o700);

    let size = || {
        let one = start();
        let map = connect(&one.address).map("kept").wait().expect("opens");
        let size = map.size().wait().expect("reads");
        drop(map);
        assert_eq!(one.stop(), Some(0));
        size
    };
    let left = size();
    assert!((u64::from(count)..=u64::from(count) + 40).contains(&left), "{left} of {count} + 40");

    // All of the log is lost, and the newest snapshot leads further than where it begins.
    for name in named(&group, "segment-") {
        flip(&group.join(name), Which::All);
    }
    repair("begin behind snapshot-");
    assert!(size() > 0);
    assert!(size() > 0, "and once more");
}

#[derive(Clone, Copy)]
enum Which {
    All,
    LastButOne,
}

/// Flips a byte in the headers of batches of a segment. Returns whether it has as many.
fn flip(path: &Path, which: Which) -> bool {
    let mut bytes = fs::read(path).expect("it is there");
    let is_frame = |at: &usize| bytes[*at..*at + 4] == *b"MGYF";
    let frames: Vec<usize> = (BLOCK..bytes.len()).step_by(BLOCK).filter(is_frame).collect();
    let chosen = match (which, &frames[..]) {
        (Which::All, frames) => frames,
        (Which::LastButOne, [.., frame, _]) => std::slice::from_ref(frame),
        (Which::LastButOne, _) => return false,
    };
    for at in chosen {
        bytes[at + 100] ^= 1;
    }
    fs::write(path, bytes).expect("ours");
    true
}
