//! One thing to wait on for many queues.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Remembers that something came, until that is cleared.
#[derive(Debug, Default)]
pub(super) struct Wake {
    came: Mutex<bool>,
    changed: Condvar,
}

impl Wake {
    /// Something came. Called by the client's threads while they hold their queue, so it must
    /// not do more than this.
    pub(super) fn notify(&self) {
        *self.came.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    /// To be called before the queues are looked at: what comes after it ends the next wait.
    pub(super) fn clear(&self) {
        *self.came.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Waits until something has come since `clear`, at most for `wait`.
    pub(super) fn wait(&self, wait: Duration) {
        let came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        // The outcome is not needed: the caller looks at its queues either way.
        drop(
            self.changed
                .wait_timeout_while(came, wait, |came| !*came)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}
