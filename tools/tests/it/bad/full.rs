//! Disks that are full, that fail, or that know no direct writes: file systems made for one node,
//! in a mount namespace of its own that goes with it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use margay::client::Group;
use margay::machine::{Code, Outcome};
use margay::resource::{Failure, Map};

use super::{One, connect, ends, serve};
use crate::harness::{Scratch, beside_others, run, until};
use crate::sys;

/// What an operation has that a full disk does not take, and is told so again and again. The others
/// need much less, also where the machine stands still meanwhile.
const TIME: Duration = Duration::from_secs(10);

/// Writes into a file until there is no space left.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a small file finds its place");
    let mut piece = 1 << 20;
    while piece >= 4_096 {
        let block = vec![0x55; piece];
        let more = file.write_all(&block).and_then(|()| file.sync_data());
        if more.is_err() {
            piece /= 2;
        }
    }
}

/// Whether what goes before a command works here. Where nobody may mount, that is said.
fn can_be_mounted(before: &[&str]) -> bool {
    let mut trial = Command::new(before[0]);
    trial.args(&before[1..]).arg("true");
    let may = run(trial);
    if may.code != Some(0) {
        println!("skipped: a file system cannot be mounted here: {}", may.err.trim());
    }
    may.code == Some(0)
}

/// A node whose data is on an ext4 of 64 MiB, in a file that lies in memory. What is at `path` in
/// its namespace others see below `/proc`.
struct Small {
    one: One,
    scratch: Scratch,
}

impl Small {
    /// `None` where this machine lets nobody mount: that is said, and nothing is tested.
    fn start(test: &str) -> Option<Small> {
        let scratch = Scratch::new(test);
        let (base, data) = (scratch.path().join("base"), scratch.path().join("data"));
        fs::create_dir_all(&base).expect("ours");
        fs::create_dir_all(&data).expect("ours");
        // $0 is the directory in memory, $1 where the file system goes.
        let script = "mount -t tmpfs -o size=96m none \"$0\" && truncate -s 64M \"$0/image\" && \
                      mkfs.ext4 -q \"$0/image\" && mount -o loop \"$0/image\" \"$1\" && \
                      rmdir \"$1/lost+found\" && chmod 700 \"$1\" && shift && exec \"$@\"";
        let (base, data) = (base.to_string_lossy(), data.to_string_lossy());
        let before = ["unshare", "--mount", "sh", "-c", script, &base, &data];
        if !can_be_mounted(&before) {
            return None;
        }
        let command = serve(&before, data.as_ref().as_ref(), &["--shards", "1"]);
        let one = One::launch(command, scratch.path());
        Some(Small { one, scratch })
    }

    /// A path of the node's namespace.
    fn seen(&self, path: &str) -> PathBuf {
        self.seen_by(&self.one.child, path)
    }

    fn seen_by(&self, process: &Child, path: &str) -> PathBuf {
        let path = self.scratch.path().join(path);
        let inner = path.strip_prefix("/").expect("an absolute path");
        PathBuf::from(format!("/proc/{}/root", process.id())).join(inner)
    }

    /// Kills the node, fills its disk and starts it again.
    fn restart_on_a_full_disk(&mut self) {
        let enter = |process: &Child| {
            let target = process.id().to_string();
            ["nsenter", "--mount", "--target"].map(str::to_owned).into_iter().chain([target])
        };
        // A namespace lasts as long as somebody is in it.
        let mut stays = Command::new("nsenter");
        stays.args(enter(&self.one.child).skip(1)).args(["sleep", "600"]);
        sys::die_with_parent(&mut stays, libc::SIGKILL);
        let mut stays = stays.spawn().expect("somebody stays there");
        until("somebody to be there", || self.seen_by(&stays, "data/node").exists());
        self.one.child.kill().expect("it runs");
        assert_eq!(self.one.wait(), None, "it was alive until now: {}", self.one.said());
        fill(&self.seen_by(&stays, "data/balloon"));
        let before: Vec<String> = enter(&stays).collect();
        let before: Vec<&str> = before.iter().map(String::as_str).collect();
        let data = self.scratch.path().join("data");
        let command = serve(&before, &data, &["--shards", "1"]);
        self.one = One::listen(command, self.scratch.path());
        stays.kill().expect("it sleeps");
        stays.wait().expect("it was ours");
    }
}

/// Puts values of 256 KiB under rising numbers until one is refused; returns how many went in and
/// why the next did not.
fn put_until_refused(map: &Map<Group>) -> (u32, Failure) {
    for number in 0..2_000_u32 {
        let value = vec![number as u8; 256 << 10];
        if let Err(failure) = map.put(&number.to_le_bytes(), &value).wait() {
            return (number, failure);
        }
    }
    panic!("a disk of 64 MiB took 500 MiB");
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_resumes() {
    let _beside = beside_others();
    let Some(mut small) = Small::start("bad-full") else { return };
    let balloon = small.seen("data/balloon");
    fill(&balloon);
    let client = connect(&small.one.address).with_timeout(TIME);
    let map = client.map("full").wait().expect("opens");
    let (count, failure) = put_until_refused(&map);
    assert_eq!((failure.code, failure.outcome()), (Code::DISK_FULL, Outcome::NotApplied));
    assert!(failure.to_string().contains("disk full"), "{failure}");
    assert_eq!(map.size().wait().expect("reads go on"), u64::from(count));
    fs::remove_file(&balloon).expect("ours");
    // Nobody restarts anything.
    until("writes to resume", || map.put(&count.to_le_bytes(), b"again").wait().is_ok());
    small.one.serves();
    drop((map, client));
    small.one.child.kill().expect("it runs");
    assert_eq!(small.one.wait(), None, "it was alive until now: {}", small.one.said());
}

/// It takes nothing, and goes on when there is space: whoever watches it need not start it again.
#[test]
fn a_node_starts_on_a_full_disk_and_waits_for_space() {
    let _beside = beside_others();
    let Some(mut small) = Small::start("bad-full-start") else { return };
    let client = connect(&small.one.address);
    client.value("kept").wait().expect("opens").set(b"kept").wait().expect("sets");
    drop(client);
    small.restart_on_a_full_disk();
    let said = small.one.said();
    assert!(said.contains("has no space left"), "{said}");
    fs::remove_file(small.seen("data/balloon")).expect("ours");
    small.one.serves();
    let value = connect(&small.one.address).value("kept").wait().expect("opens");
    assert_eq!(*value.get().wait().expect("reads").expect("is there").value, *b"kept");
}

#[test]
fn a_write_that_fails_stops_the_node_with_file_and_offset() {
    let _beside = beside_others();
    let Some(mut small) = Small::start("bad-eio") else { return };
    let client = connect(&small.one.address).with_timeout(TIME);
    let value = client.value("kept").wait().expect("opens");
    value.set(b"kept").wait().expect("sets");
    // The prepared space loses what backs it, and nothing is left to back it anew.
    let (image, balloon) = (small.seen("base/image"), small.seen("base/balloon"));
    let punched = run({
        let mut command = Command::new("fallocate");
        command.args(["--punch-hole", "--offset", "0", "--length", "64MiB"]).arg(&image);
        command
    });
    punched.with(0);
    fill(&balloon);
    let failure = value.set(b"lost").wait().expect_err("nothing can be durable");
    assert_ne!(failure.outcome(), Outcome::Applied, "{failure}");
    let code = small.one.wait();
    let said = small.one.said();
    assert_eq!(code, Some(6), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    // Whichever was written first.
    let names = |line: &str| ["segment-", "hard-state"].iter().any(|file| line.contains(file));
    let fits = |line: &str| line.contains("error: ") && line.contains(" at offset ") && names(line);
    assert!(said.lines().any(fits), "{said}");
}

/// The system would end it with a signal, and nobody would know why. A limit that comes in the way
/// later is like a full disk, but that it does not pass.
#[test]
fn a_limit_on_the_size_of_files_is_named() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-file-size");
    // In blocks of 512 bytes: no room for a first segment, then room for that alone.
    let limited = |blocks: u32, data: &str| {
        let script = format!("ulimit -f {blocks} && exec \"$@\"");
        let before = ["sh", "-c", &script, "sh"];
        serve(&before, &scratch.path().join(data), &["--shards", "1"])
    };
    ends(limited(4_000, "none"), scratch.path()).because(6, &["segment-", "File too large"]);
    let one = One::launch(limited(12_288, "one"), scratch.path());
    let client = connect(&one.address).with_timeout(TIME);
    let map = client.map("large").wait().expect("opens");
    let (count, failure) = put_until_refused(&map);
    assert_eq!((failure.code, failure.outcome()), (Code::DISK_FULL, Outcome::NotApplied));
    assert_eq!(map.size().wait().expect("reads go on"), u64::from(count));
    let said = one.said();
    assert!(said.contains("no space for the log") && said.contains("File too large"), "{said}");
    drop((map, client));
    assert_eq!(one.stop(), Some(0));
}

#[test]
fn a_directory_without_direct_writes_works_and_says_so() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-indirect");
    let data = scratch.path().join("data");
    fs::create_dir_all(&data).expect("ours");
    let script = "mount -t ramfs none \"$0\" && chmod 700 \"$0\" && exec \"$@\"";
    let place = data.to_string_lossy();
    let before = ["unshare", "--mount", "sh", "-c", script, &place];
    if !can_be_mounted(&before) {
        return;
    }
    let one = One::launch(serve(&before, &data, &["--shards", "1"]), scratch.path());
    one.serves();
    assert!(one.said().contains("no O_DIRECT here"), "{}", one.said());
    assert_eq!(one.stop(), Some(0));
}

#[test]
fn a_read_only_file_system_is_named_with_the_remedy() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-read-only");
    let place = scratch.path().join("place");
    fs::create_dir_all(&place).expect("ours");
    let script = "mount -t tmpfs none \"$0\" && mkdir -m 700 \"$0/data\" && \
                  mount -o remount,ro \"$0\" && exec \"$@\"";
    let shown = place.to_string_lossy();
    let before = ["unshare", "--mount", "sh", "-c", script, &shown];
    if !can_be_mounted(&before) {
        return;
    }
    let node = serve(&before, &place.join("data"), &["--shards", "1"]);
    ends(node, scratch.path()).because(1, &["place/data", "read-only", "remount it"]);
}
