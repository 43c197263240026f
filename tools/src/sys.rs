//! Signals and children: the few system calls the standard library does not have. The only unsafe
//! code of this package.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc::Sender;

/// What people and service managers end programs with.
const SIGNALS: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// A signal that has arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signal {
    pub(crate) number: i32,
    /// It is Ctrl-C, or the terminal is gone: the kernel tells the whole process group, not us
    /// alone, as whoever calls `kill` may.
    pub(crate) is_of_terminal: bool,
}

fn set() -> libc::sigset_t {
    // SAFETY: a sigset_t is plain data, and sigemptyset makes it a valid empty set before it is
    // used; the signal numbers are valid, so neither call can fail.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        SIGNALS.iter().for_each(|signal| {
            libc::sigaddset(&mut set, *signal);
        });
        set
    }
}

/// Whether whoever started us wants us to outlive the terminal, as `nohup` does.
fn hangup_is_ignored() -> bool {
    // SAFETY: all zeros is a valid sigaction, which is written to and not installed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let failed = libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut action);
        failed == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP do nothing but be sent to `sender`, wrapped by `wrap`; a
/// SIGHUP that is ignored stays so. Must be called before any other thread is started. Children
/// inherit the blocked signals: [`die_with_parent`] gives them theirs back.
pub(crate) fn divert_signals<T: Send + 'static>(
    sender: Sender<T>,
    wrap: impl Fn(Signal) -> T + Send + 'static,
) -> io::Result<()> {
    let mut set = set();
    if hangup_is_ignored() {
        // SAFETY: `set` is a valid set, and SIGHUP a signal.
        unsafe { libc::sigdelset(&mut set, libc::SIGHUP) };
    }
    // SAFETY: `set` is a valid set; the old mask is not asked for.
    let failed = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    if failed != 0 {
        return Err(io::Error::from_raw_os_error(failed));
    }
    let name = "margay-signals".to_string();
    std::thread::Builder::new().name(name).spawn(move || {
        loop {
            // SAFETY: all zeros is a valid siginfo_t; both point to live values of their types.
            let (number, code) = unsafe {
                let mut told: libc::siginfo_t = std::mem::zeroed();
                (libc::sigwaitinfo(&set, &mut told), told.si_code)
            };
            // Whatever a process has sent has a code of 0 or less.
            let signal = Signal { number, is_of_terminal: code > 0 };
            if number > 0 && sender.send(wrap(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Sends a signal to a process. Whether it is still there is not our concern.
pub(crate) fn signal(pid: u32, signal: i32) {
    let Ok(pid) = i32::try_from(pid) else { return };
    if pid > 0 {
        // SAFETY: no memory is involved.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Sends a signal to a process group that is led by a process.
pub(crate) fn signal_group(leader: u32, signal: i32) {
    let Ok(leader) = i32::try_from(leader) else { return };
    // 1 would be everybody.
    if leader > 1 {
        // SAFETY: no memory is involved.
        unsafe { libc::kill(-leader, signal) };
    }
}

/// The command's process gets `signal` when the thread that starts it ends, and so when this
/// process does, however it does. It starts with no signal blocked.
pub(crate) fn die_with_parent(command: &mut Command, signal: i32) {
    let (parent, diverted) = (std::process::id(), set());
    // SAFETY: between fork and exec only async-signal-safe functions are called: sigprocmask, prctl
    // and getppid, on values made before.
    unsafe {
        command.pre_exec(move || {
            libc::sigprocmask(libc::SIG_UNBLOCK, &diverted, std::ptr::null_mut());
            if libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have ended before that.
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

/// This thread runs on this CPU alone, before all that are not in its class.
///
/// # Errors
/// There is no such CPU for this process, or it may not have that class: see CAP_SYS_NICE.
pub(crate) fn run_first_on(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: all zeros is a valid empty set, the number fits into it, and the calls read as much
    // as they are told there is.
    let failed = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        let first = libc::sched_param { sched_priority: 1 };
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set) != 0
            || libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// This thread, and those that it starts from now on, run when nobody else wants to. Children
/// inherit it as well.
pub(crate) fn yield_to_others() {
    // SAFETY: no memory is involved. A failure leaves the priority as it was, which harms nobody.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}
