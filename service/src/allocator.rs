//! Memory of the whole process.

use libmimalloc_sys::{mi_option_set_default, mi_option_t};
use mimalloc::MiMalloc;

/// What a batch needs is allocated on one thread and freed on another, many times a millisecond, which the
/// system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_purge_delay` of `mimalloc.h`: milliseconds until freed memory goes back to the system; -1 for never.
const PURGE_DELAY: mi_option_t = 15;

/// Has memory that is freed stay with the process, unless `MIMALLOC_PURGE_DELAY` says otherwise. What a
/// checkpoint lets go is wanted again at the next one, and a page fault for each four kilobytes of it makes
/// decisions wait.
pub fn keep_freed_memory() {
    // SAFETY: sets a number, which may be done at any time.
    unsafe { mi_option_set_default(PURGE_DELAY, -1) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_memory_is_kept_once_asked_for() {
        // SAFETY: reads a number.
        let delay_ms = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        // That this default is found shows that the option's number is the right one.
        assert_eq!(delay_ms(), 1000);
        keep_freed_memory();
        assert_eq!(delay_ms(), -1);
    }
}
