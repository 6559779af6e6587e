//! Threads whose work may take its time: checkpoints, the parity check, queries of the state. Their priority, and what they have worked.

use std::time::Duration;

/// Lets every other thread go before this one on a machine that is busy: a decision may not wait.
pub fn yield_to_others() {
    const NICENESS: libc::c_int = 10;
    // SAFETY: plain numbers go in and out. On Linux 0 names the calling thread alone.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
    if done != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "a thread in the background stays at full priority");
    }
}

/// Has this thread run only where a core has nothing else to do, on Linux: there even a thread of low priority
/// keeps one that wakes waiting for some milliseconds.
pub fn run_when_idle() {
    yield_to_others();
    #[cfg(target_os = "linux")]
    {
        let priority = libc::sched_param { sched_priority: 0 };
        // SAFETY: the place is valid for the call. 0 names the calling thread alone.
        let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &priority) };
        if done != 0 {
            tracing::debug!(error = %std::io::Error::last_os_error(), "a thread does not wait for a core to be idle");
        }
    }
}

/// How long this thread has worked so far.
pub fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the place is valid for the call.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(done, 0, "the machine has a clock for each thread");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
