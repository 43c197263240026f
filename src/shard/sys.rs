//! The few calls of the operating system that std does not offer, each as a safe function.
//!
//! Nothing here decides anything. Every function returns `io::Result` with the error of the call.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use margay_log::id::Micros;

/// Connections that may wait for `accept`; the kernel clamps it to `net.core.somaxconn`.
const BACKLOG: c_int = 1024;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Microseconds on `CLOCK_BOOTTIME`: monotonic, and it goes on while the machine sleeps.
pub(crate) fn now() -> Micros {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the call to fill.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    assert_eq!(result, 0, "this clock exists since Linux 2.6.39");
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    Micros(seconds * 1_000_000 + nanos / 1_000)
}

/// What the calling thread has used so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Used {
    /// Time on a CPU, in the program and in the kernel.
    pub ran: Micros,
    /// Of that, in the kernel: an estimate of the kernel's, from samples.
    pub system: Micros,
    /// Pages of memory that had to be found first.
    pub faults: u64,
    /// Times that others were given its CPU.
    pub preempted: u64,
}

/// What the calling thread has used so far.
pub(crate) fn used() -> Used {
    // SAFETY: all zeros is a valid rusage, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    let (user, system) = (micros(usage.ru_utime), micros(usage.ru_stime));
    Used {
        ran: Micros(user + system),
        system: Micros(system),
        faults: usage.ru_minflt as u64,
        preempted: usage.ru_nivcsw as u64,
    }
}

/// Asks the scheduler to run the calling thread for `slice` at a time, and soon: who asks for
/// little at a time gets it earlier, and the same share of the CPU. Kernels before 6.12 take no
/// notice; a thread that somebody has put into another class stays there.
pub(crate) fn ask_for_slices(slice: Micros) -> io::Result<()> {
    // SAFETY: plain calls on the calling thread.
    let (class, nice) =
        unsafe { (libc::sched_getscheduler(0), libc::getpriority(libc::PRIO_PROCESS, 0)) };
    if class != libc::SCHED_OTHER {
        return Ok(());
    }
    // SAFETY: all zeros is a valid sched_attr.
    let mut wish: libc::sched_attr = unsafe { std::mem::zeroed() };
    wish.size = size_of::<libc::sched_attr>() as u32;
    wish.sched_nice = nice;
    wish.sched_runtime = slice.0 * 1_000;
    // SAFETY: the call reads as many bytes as `wish` says it has.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wish, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An eventfd with counter 0 that nobody blocks on.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: a plain call; the descriptor it returns is new and ours alone.
    unsafe {
        Ok(OwnedFd::from_raw_fd(check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?))
    }
}

/// Adds one to an eventfd: whoever reads it wakes up.
pub(crate) fn eventfd_signal(fd: BorrowedFd<'_>) {
    let one: u64 = 1;
    // SAFETY: eight readable bytes, as an eventfd wants them. The only possible failure is a
    // counter at its maximum, where the reader is awake anyway.
    unsafe { libc::write(fd.as_raw_fd(), (&raw const one).cast(), 8) };
}

/// Sets the counter of an eventfd back to 0.
pub(crate) fn eventfd_clear(fd: BorrowedFd<'_>) {
    let mut value = 0_u64;
    // SAFETY: eight writable bytes. It fails where the counter is 0 already.
    unsafe { libc::read(fd.as_raw_fd(), (&raw mut value).cast(), 8) };
}

/// A listening socket on `address`. Several of them may share the address (SO_REUSEPORT): the
/// kernel spreads new connections over them. Accepted sockets inherit TCP_NODELAY and keep-alive
/// from it.
pub(crate) fn listen(address: SocketAddr) -> io::Result<OwnedFd> {
    let fd = stream_socket(&address)?;
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    prepare_stream(&fd)?;
    bind(&fd, address)?;
    // SAFETY: a plain call on a descriptor that we own.
    check(unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) })?;
    Ok(fd)
}

/// Fails where somebody listens on `address`, even if they would share it.
pub(crate) fn probe_address(address: SocketAddr) -> io::Result<()> {
    let fd = stream_socket(&address)?;
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    bind(&fd, address)
}

/// Keeps an address for this process, without listening: whoever listens there with [`listen`]
/// shares it, and the kernel gives it to nobody else.
pub(crate) fn reserve(address: SocketAddr) -> io::Result<OwnedFd> {
    let fd = stream_socket(&address)?;
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    bind(&fd, address)?;
    Ok(fd)
}

/// A TCP socket for connecting to `address`.
pub(crate) fn stream_socket(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: a plain call; the descriptor it returns is new and ours alone.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(family, kind, 0))?)) }
}

/// No delay for small segments; a peer whose host has vanished is noticed within half a minute.
pub(crate) fn prepare_stream(fd: &OwnedFd) -> io::Result<()> {
    set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 15)?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 5)?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3)
}

/// The connection breaks when sent data stays unacknowledged for `millis`.
pub(crate) fn set_user_timeout(fd: &OwnedFd, millis: c_int) -> io::Result<()> {
    set(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, millis)
}

fn set(fd: &OwnedFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let size = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: `value` is a readable c_int of the given size.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), size)
    })
    .map(drop)
}

fn bind(fd: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let raw = RawAddress::new(address);
    // SAFETY: `raw` holds an initialised address of the length it says.
    check(unsafe { libc::bind(fd.as_raw_fd(), raw.as_ptr(), raw.length()) }).map(drop)
}

/// A socket address as the kernel reads it.
pub(crate) struct RawAddress {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl RawAddress {
    pub(crate) fn new(address: SocketAddr) -> RawAddress {
        // SAFETY: all zeros is a valid sockaddr_storage.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let length = match address {
            SocketAddr::V4(v4) => {
                let inner = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is larger than, and aligned for, every socket address.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(inner) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let inner = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(inner) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        RawAddress { storage, length: length as libc::socklen_t }
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub(crate) fn length(&self) -> libc::socklen_t {
        self.length
    }
}

/// The address at the other end of a connected socket.
pub(crate) fn peer_address(fd: &OwnedFd) -> io::Result<SocketAddr> {
    // SAFETY: all zeros is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: `storage` is writable for `length` bytes.
    check(unsafe { libc::getpeername(fd.as_raw_fd(), (&raw mut storage).cast(), &mut length) })?;
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that a sockaddr_in was written.
            let inner = unsafe { (&raw const storage).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(u32::from_be(inner.sin_addr.s_addr));
            Ok((ip, u16::from_be(inner.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that a sockaddr_in6 was written.
            let inner = unsafe { (&raw const storage).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(inner.sin6_addr.s6_addr).to_canonical();
            Ok((ip, u16::from_be(inner.sin6_port)).into())
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Takes a connection that waits on `listener`, without blocking if there is none.
pub(crate) fn accept_now(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let (none, no_length) = (std::ptr::null_mut(), std::ptr::null_mut());
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd, no waiting.
    if check(unsafe { libc::poll(&mut poll, 1, 0) })? == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    // SAFETY: accept4 may be told not to report the address; the descriptor it returns is new and
    // ours alone.
    unsafe {
        let fd = check(libc::accept4(listener.as_raw_fd(), none, no_length, flags))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Sends what the socket takes at once. For last words: nobody waits for the rest.
pub(crate) fn send_now(fd: &OwnedFd, bytes: &[u8]) {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `bytes` is readable for its length.
    unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
}

/// Ends one or both directions of a connection. An error means that it is gone already.
pub(crate) fn shutdown(fd: &OwnedFd, how: std::net::Shutdown) {
    let how = match how {
        std::net::Shutdown::Read => libc::SHUT_RD,
        std::net::Shutdown::Write => libc::SHUT_WR,
        std::net::Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: a plain call on a descriptor that we own.
    unsafe { libc::shutdown(fd.as_raw_fd(), how) };
}

/// Takes over a descriptor that a ring completion has handed to us.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "a descriptor from the kernel is not negative");
    // SAFETY: called with the result of an accept only: the descriptor is new and has no other
    // owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A lock on a file of its own: released by the kernel when the process ends. `false`: somebody
/// else holds it.
pub(crate) fn try_lock(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: a plain call.
    match check(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EWOULDBLOCK) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Random bytes from the kernel.
pub(crate) fn random_u64() -> io::Result<u64> {
    let mut value = 0_u64;
    // SAFETY: eight writable bytes; requests up to 256 bytes are never cut short.
    let got = unsafe { libc::getrandom((&raw mut value).cast(), 8, 0) };
    if got == 8 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// A resource limit that matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Limit {
    /// Memory that may be locked, in bytes.
    Memlock,
    /// Open descriptors.
    Files,
}

/// Raises a soft limit to the hard one and returns what holds then.
pub(crate) fn raise_limit(limit: Limit) -> io::Result<u64> {
    let resource = match limit {
        Limit::Memlock => libc::RLIMIT_MEMLOCK,
        Limit::Files => libc::RLIMIT_NOFILE,
    };
    let mut value = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `value` is a valid rlimit to fill.
    check(unsafe { libc::getrlimit(resource, &mut value) })?;
    if value.rlim_cur < value.rlim_max {
        let raised = libc::rlimit { rlim_cur: value.rlim_max, rlim_max: value.rlim_max };
        // SAFETY: `raised` is a valid rlimit. Where it is refused the old limit stays.
        if unsafe { libc::setrlimit(resource, &raised) } == 0 {
            value = raised;
        }
    }
    Ok(value.rlim_cur)
}

/// CPUs that this process may use, by number.
pub(crate) fn cpus_available() -> io::Result<Vec<usize>> {
    // SAFETY: all zeros is an empty cpu set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is writable for the size given.
    check(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) })?;
    // SAFETY: CPU_ISSET reads a bit inside the set.
    Ok((0..libc::CPU_SETSIZE as usize)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect())
}

/// Kernel release as (major, minor), and as text.
pub(crate) fn kernel() -> (u32, u32, String) {
    // SAFETY: all zeros is a valid utsname for the call to fill.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is writable. uname fails for a bad address only.
    unsafe { libc::uname(&mut name) };
    let bytes = name.release.iter().take_while(|c| **c != 0).map(|c| *c as u8);
    let text = String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned();
    let mut numbers =
        text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0), text)
}

/// Whether a file system keeps its files in memory only.
pub(crate) fn is_tmpfs(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: all zeros is a valid statfs for the call to fill.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is writable.
    let result = unsafe { libc::fstatfs(fd.as_raw_fd(), &mut stat) };
    result == 0 && (stat.f_type == libc::TMPFS_MAGIC || stat.f_type == 0x8584_58f6)
}

/// The user this process runs as.
pub(crate) fn user() -> u32 {
    // SAFETY: a plain call that cannot fail.
    unsafe { libc::geteuid() }
}

/// A write behind the allowed size of a file fails with EFBIG from now on. By default the system
/// ends the process there, without a word. A handler of the program's own stays.
pub(crate) fn outlive_file_size_limit() -> io::Result<()> {
    // SAFETY: all zeros is a valid sigaction; the calls fill it and read it, and to ignore a signal
    // runs no code of ours.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        check(libc::sigaction(libc::SIGXFSZ, std::ptr::null(), &mut action))?;
        if action.sa_sigaction == libc::SIG_DFL {
            action.sa_sigaction = libc::SIG_IGN;
            check(libc::sigaction(libc::SIGXFSZ, &action, std::ptr::null_mut()))?;
        }
    }
    Ok(())
}

/// SIGINT and SIGTERM as a descriptor to read from.
pub(crate) struct Signals(OwnedFd);

/// The mask a thread had before [`block_signals`]; dropping it restores that.
pub(crate) struct SignalMask(libc::sigset_t);

/// Blocks SIGINT and SIGTERM for the calling thread and all that it starts.
pub(crate) fn block_signals() -> io::Result<(SignalMask, Signals)> {
    // SAFETY: all zeros is a valid sigset_t; the calls write inside the sets.
    let (set, before, result) = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::sigaddset(&mut set, libc::SIGTERM);
        let result = libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut before);
        (set, before, result)
    };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result));
    }
    let mask = SignalMask(before);
    // SAFETY: `set` is initialised; the descriptor is new and ours alone.
    let signals = unsafe {
        let fd = check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Signals(OwnedFd::from_raw_fd(fd))
    };
    Ok((mask, signals))
}

impl Signals {
    /// Takes the next signal, without waiting. `false`: there is none.
    pub(crate) fn take(&self) -> bool {
        // SAFETY: all zeros is a valid signalfd_siginfo for the read to fill.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: `info` is writable for `size` bytes.
        let got = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size) };
        got == size as isize
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        // SAFETY: `0` is the mask that this thread had.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

/// Ends the process without running anything else.
pub(crate) fn exit_now(code: c_int) -> ! {
    // SAFETY: a plain call that does not return.
    unsafe { libc::_exit(code) }
}

/// Waits until one of the descriptors can be read or `millis` have passed (negative: for ever).
/// Says which can.
pub(crate) fn wait_readable(fds: &[BorrowedFd<'_>], millis: c_int) -> Vec<bool> {
    let mut polls: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    // SAFETY: an array of valid pollfds of the length given. Errors (EINTR) are an early return.
    unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, millis) };
    polls.iter().map(|poll| poll.revents != 0).collect()
}
