//! Ends a run that hangs: a side that lost its other half would spin for ever.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// While it lives, the measurement has [`PATIENCE`] to end.
pub(crate) struct Watchdog {
    _alive: SyncSender<()>,
}

impl Watchdog {
    pub(crate) fn watch(what: String) -> Self {
        let (alive, ended) = sync_channel(0);
        thread::spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                eprintln!("error: {what} hangs");
                // Children die with us.
                std::process::exit(3);
            }
        });
        Self { _alive: alive }
    }
}
