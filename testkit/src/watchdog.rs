//! A test that hangs is a test that fails.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

/// Aborts the whole test process if it is not dropped in time.
///
/// Not an assertion about speed: the limit is for hangs, and generous. The environment
/// variable `TESTKIT_TIMEOUT_SCALE` multiplies it.
///
/// # Examples
///
/// ```
/// let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(60);
/// // ... what could hang
/// ```
#[derive(Debug)]
pub struct Watchdog {
    /// Dropped: the test is over.
    _over: Sender<()>,
}

impl Watchdog {
    /// Starts watching; `limit` is multiplied by `TESTKIT_TIMEOUT_SCALE`.
    pub fn seconds(limit: u64) -> Self {
        let (sender, receiver) = mpsc::channel::<()>();
        let limit = Duration::from_secs(limit).mul_f64(scale());
        let name = std::thread::current()
            .name()
            .unwrap_or("unnamed")
            .to_owned();
        std::thread::spawn(move || {
            if receiver.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                bark(&name, limit);
            }
        });
        Self { _over: sender }
    }
}

fn scale() -> f64 {
    let scale = std::env::var("TESTKIT_TIMEOUT_SCALE").ok();
    scale.and_then(|text| text.parse().ok()).unwrap_or(1.0)
}

fn bark(test: &str, limit: Duration) -> ! {
    eprintln!("WATCHDOG: {test} hangs, after {limit:?}. Threads of this process:");
    for task in std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let read = |file: &str| {
            let text = std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            text.trim().to_owned()
        };
        eprintln!("  {}: in {}", read("comm"), read("wchan"));
    }
    std::process::abort();
}
