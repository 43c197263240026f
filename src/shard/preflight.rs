//! What this machine must offer, looked at before any executor is made: cause and remedy instead of
//! a panic.
//!
//! A server prints all findings, and starts unless one of them is a [`Level::Problem`].

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use io_uring::{IoUring, Probe, opcode};
use margay_log::buffer::Buffer;
use margay_log::format::BLOCK;

use super::sys::{self, Limit};
use crate::config;

/// How a finding matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// As it should be.
    Fine,
    /// The server runs, but somebody should know.
    Warning,
    /// The server does not start.
    Problem,
}

/// Something that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How it matters.
    pub level: Level,
    /// What is there.
    pub what: String,
    /// What to do about it; empty where nothing is to be done.
    pub remedy: String,
}

impl Finding {
    fn fine(what: String) -> Finding {
        Finding { level: Level::Fine, what, remedy: String::new() }
    }

    fn warning(what: String, remedy: &str) -> Finding {
        Finding { level: Level::Warning, what, remedy: remedy.to_owned() }
    }

    fn problem(what: String, remedy: &str) -> Finding {
        Finding { level: Level::Problem, what, remedy: remedy.to_owned() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; {}", self.remedy) }
    }
}

/// Looks at everything that does not depend on a data directory. Raises limits that may be raised.
#[must_use]
pub fn machine(shards: usize) -> Vec<Finding> {
    vec![kernel(), ring(), memlock(), files(), cpus(shards)]
}

fn kernel() -> Finding {
    let (major, minor, release) = sys::kernel();
    if (major, minor) >= config::KERNEL_MIN {
        return Finding::fine(format!("linux {release}"));
    }
    let (major, minor) = config::KERNEL_MIN;
    let what = format!("linux {release} is too old: {major}.{minor} or later is needed");
    Finding::problem(what, "update the kernel")
}

fn ring() -> Finding {
    let probe = match try_ring() {
        Ok(probe) => probe,
        Err(e) => return ring_problem(&e),
    };
    let needed = [
        (opcode::Accept::CODE, "accept"),
        (opcode::Connect::CODE, "connect"),
        (opcode::Recv::CODE, "recv"),
        (opcode::Send::CODE, "send"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::Timeout::CODE, "timeout"),
        (opcode::TimeoutRemove::CODE, "timeout update"),
        (opcode::AsyncCancel::CODE, "cancel"),
        (opcode::Read::CODE, "read"),
        (opcode::Write::CODE, "write"),
        (opcode::Fsync::CODE, "fsync"),
    ];
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(code, _)| !probe.is_supported(*code))
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        Finding::fine("io_uring works".to_owned())
    } else {
        let what = format!("io_uring lacks {}", missing.join(", "));
        Finding::problem(what, "update the kernel, or allow these operations")
    }
}

/// Makes a ring, enters it and asks what it can do: each of the three calls may be blocked alone.
fn try_ring() -> io::Result<Probe> {
    let ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .build(8)?;
    ring.submitter().submit()?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    Ok(probe)
}

/// Why no ring could be made. Containers block io_uring by default, and fleets switch it off.
fn ring_problem(error: &io::Error) -> Finding {
    let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    match (sysctl.as_deref().map(str::trim), error.raw_os_error()) {
        (Ok("2"), _) => Finding::problem(
            "io_uring is switched off on this machine (kernel.io_uring_disabled = 2)".to_owned(),
            "run: sysctl -w kernel.io_uring_disabled=0",
        ),
        (Ok("1"), Some(libc::EPERM)) => Finding::problem(
            "io_uring is allowed to one group only (kernel.io_uring_disabled = 1)".to_owned(),
            "add the user to the group of kernel.io_uring_group, or run: \
             sysctl -w kernel.io_uring_disabled=0",
        ),
        (_, Some(libc::EPERM | libc::ENOSYS | libc::EACCES)) => Finding::problem(
            format!("io_uring is blocked: {error}; a container's seccomp profile does that"),
            "allow io_uring_setup, io_uring_enter and io_uring_register in the profile, or run the \
             container with --security-opt seccomp=unconfined",
        ),
        (_, Some(libc::ENOMEM)) => Finding::problem(
            format!("io_uring gets no memory: {error}"),
            "raise the limit of locked memory: ulimit -l 8192, or LimitMEMLOCK=8M (systemd)",
        ),
        (_, Some(libc::EMFILE | libc::ENFILE)) => {
            Finding::problem(format!("no descriptor for a ring: {error}"), "run: ulimit -n 20000")
        }
        _ => Finding::problem(format!("io_uring does not work: {error}"), "update the kernel"),
    }
}

fn memlock() -> Finding {
    let remedy =
        "run: ulimit -l 8192 · LimitMEMLOCK=8M (systemd) · --ulimit memlock=8388608 (docker)";
    match sys::raise_limit(Limit::Memlock) {
        Ok(bytes) if bytes >= config::MEMLOCK_MIN => {
            Finding::fine(format!("locked memory: {}", bytes_text(bytes)))
        }
        Ok(bytes) => {
            let (have, need) = (bytes_text(bytes), bytes_text(config::MEMLOCK_MIN));
            Finding::problem(format!("locked memory: {have} allowed, {need} needed"), remedy)
        }
        Err(e) => Finding::warning(format!("locked memory: limit unknown: {e}"), remedy),
    }
}

fn files() -> Finding {
    let remedy = "run: ulimit -n 20000 · LimitNOFILE=20000 (systemd)";
    match sys::raise_limit(Limit::Files) {
        Ok(files) if files >= config::FILES_RESERVED + config::CONNECTIONS_MAX as u64 => {
            Finding::fine(format!("open files: {files}"))
        }
        Ok(files) if files >= config::FILES_RESERVED + 64 => {
            let connections = files - config::FILES_RESERVED;
            Finding::warning(format!("open files: {files}, so {connections} connections"), remedy)
        }
        Ok(files) => {
            let need = config::FILES_RESERVED + 64;
            Finding::problem(format!("open files: {files} allowed, {need} needed"), remedy)
        }
        Err(e) => Finding::warning(format!("open files: limit unknown: {e}"), remedy),
    }
}

fn cpus(shards: usize) -> Finding {
    match sys::cpus_available() {
        Ok(cpus) if cpus.len() >= shards => {
            Finding::fine(format!("{} cpus for {shards} shards", cpus.len()))
        }
        Ok(cpus) => Finding::warning(
            format!("{} cpus for {shards} shards: threads are not pinned", cpus.len()),
            "use fewer --shards for better latency",
        ),
        Err(e) => Finding::warning(format!("cpus unknown: {e}"), "check the cpuset"),
    }
}

/// Looks at the directory that will hold the logs.
#[must_use]
pub fn directory(path: &Path) -> Finding {
    let shown = path.display();
    let probe = path.join(format!(".probe-{}", std::process::id()));
    let result = try_direct(&probe);
    // A probe that cannot be removed is reported by the next one.
    let _ = std::fs::remove_file(&probe);
    match result {
        Ok(true) => match File::open(path) {
            Ok(dir) if sys::is_tmpfs(dir.as_fd()) => Finding::warning(
                format!("{shown} is in memory: nothing survives a restart of the machine"),
                "use a directory on a disk",
            ),
            _ => Finding::fine(format!("{shown}: writes go straight to the disk (O_DIRECT)")),
        },
        Ok(false) => Finding::warning(
            format!("{shown}: no O_DIRECT here, writes go through the page cache and a sync"),
            "use ext4 or xfs for speed",
        ),
        Err(e) if e.raw_os_error() == Some(libc::EROFS) => {
            Finding::problem(format!("{shown} is read-only"), "remount it, or use another --data")
        }
        // A node whose logs are there serves what they hold, and goes on when there is space.
        Err(e) if matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            let what = format!("{shown} has no space left: nothing is taken");
            Finding::warning(what, "free some, writes go on by themselves then")
        }
        Err(e) => Finding::problem(
            format!("{shown} cannot be written to: {e}"),
            "check owner, mode and free space, or use another --data",
        ),
    }
}

/// Writes a block the way logs are written. `false`: it works, but not directly.
fn try_direct(path: &Path) -> io::Result<bool> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let block = Buffer::zeroed(BLOCK);
    let flags = libc::O_DIRECT | libc::O_DSYNC;
    let direct =
        options.clone().custom_flags(flags).open(path).and_then(|mut f| f.write_all(&block));
    match direct {
        Ok(()) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            options.open(path)?.write_all(&block)?;
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

fn bytes_text(bytes: u64) -> String {
    match bytes {
        u64::MAX => "unlimited".to_owned(),
        _ if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_of_a_ring_has_its_remedy() {
        for errno in [libc::EPERM, libc::ENOSYS, libc::ENOMEM, libc::EMFILE, libc::EINVAL] {
            let finding = ring_problem(&io::Error::from_raw_os_error(errno));
            assert_eq!(finding.level, Level::Problem);
            assert!(!finding.remedy.is_empty(), "{finding}");
        }
    }
}
