//! The process that holds a pod's namespaces while its containers come and go.
//!
//! It is process 1 of the pod's sandbox, and of the whole pod where the pod shares its process namespace. So it must end when it is
//! told to, which process 1 does only with handlers of its own, and orphans that end must not stay as zombies. Needs nothing but
//! the standard library, so that one call of `rustc` makes it a small static program (see `galley-cloud-local`).
#![allow(unsafe_code)] // Nothing in the standard library sets what a signal does.

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;
const SIG_IGN: usize = 1;

unsafe extern "C" {
    safe fn signal(number: i32, handler: usize) -> usize;
    safe fn _exit(code: i32) -> !;
}

extern "C" fn stop(_: i32) {
    _exit(0);
}

fn main() {
    let stop = stop as extern "C" fn(i32) as usize;
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    // The kernel then forgets children by itself (sigaction(2), SA_NOCLDWAIT).
    signal(SIGCHLD, SIG_IGN);
    loop {
        std::thread::park();
    }
}
