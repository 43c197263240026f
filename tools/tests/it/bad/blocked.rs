//! A machine that keeps programs from io_uring, as containers do by default.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};

use super::{ends, serve};
use crate::harness::{MARGAY, Scratch, beside_others, run};

/// All the calls there are. Profiles may block them one by one.
const CALLS: [libc::c_long; 3] =
    [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Has the command's process get EPERM from these calls; from one, where it is named thrice.
fn without(calls: [libc::c_long; 3], command: &mut Command) {
    let step = |code: u32, jump: u8, k: u32| sock_filter { code: code as u16, jt: jump, jf: 0, k };
    let is = |call: libc::c_long, jump| step(BPF_JMP | BPF_JEQ | BPF_K, jump, call as u32);
    let program = [
        // The number of the call is the first field of what a filter sees.
        step(BPF_LD | BPF_W | BPF_ABS, 0, 0),
        is(calls[0], 3),
        is(calls[1], 2),
        is(calls[2], 1),
        step(BPF_RET | BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        step(BPF_RET | BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
    ];
    // SAFETY: between fork and exec prctl alone is called; what it is given points to the program,
    // which the closure owns, and the kernel copies it.
    unsafe {
        command.pre_exec(move || {
            let filter =
                sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
            let failed = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter)
                    != 0;
            if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
    }
}

#[test]
fn io_uring_that_is_blocked_is_named_with_the_remedy() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-blocked");
    let data = scratch.path().join("data");
    for calls in [CALLS, [CALLS[0]; 3], [CALLS[1]; 3], [CALLS[2]; 3]] {
        let mut node = serve(&[], &data, &["--shards", "1"]);
        without(calls, &mut node);
        ends(node, scratch.path()).because(1, &["io_uring is blocked", "seccomp=unconfined"]);
        assert!(!data.exists(), "nothing is made where nothing can run");
    }
    let mut demo = Command::new(MARGAY);
    demo.arg("demo");
    without(CALLS, &mut demo);
    let ended = run(demo).with(1);
    assert!(ended.err.contains("io_uring is blocked"), "{ended:?}");
    assert!(!ended.err.contains("panicked"), "{ended:?}");
}
