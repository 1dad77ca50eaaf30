//! Monotonic time: how long a caller is ready to wait, and until when that is.

use core::fmt;
use core::time::Duration;

use crate::sys;

const NEVER: u64 = u64::MAX;

/// How long a waiting call may take, as its caller says it: relative, or for ever.
///
/// Every waiting call of this toolkit takes `impl Into<Timeout>`, so a [`Duration`] or an
/// `Option<Duration>` (`None` waits for ever) will do. Zero means *try once*. There are no
/// negative timeouts; one too long to be counted in nanoseconds (584 years) waits for ever.
///
/// # Examples
///
/// ```
/// use multiprocess_core::Timeout;
/// use std::time::Duration;
///
/// assert_eq!(Timeout::from(None), Timeout::Never);
/// assert_eq!(Timeout::from(Duration::ZERO), Timeout::TRY);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Timeout {
    /// Wait until it happens.
    #[default]
    Never,
    /// Give up after this long.
    After(Duration),
}

impl Timeout {
    /// Try once, do not wait.
    pub const TRY: Self = Self::After(Duration::ZERO);
}

impl From<Duration> for Timeout {
    fn from(duration: Duration) -> Self {
        Self::After(duration)
    }
}

impl From<Option<Duration>> for Timeout {
    fn from(duration: Option<Duration>) -> Self {
        duration.map_or(Self::Never, Self::After)
    }
}

/// A point in time on `CLOCK_MONOTONIC`, in nanoseconds; never the wall clock.
///
/// A loop that waits several times converts its [`Timeout`] once, at its start, and passes the
/// deadline on: the total is then bounded, however often it is woken.
///
/// # Examples
///
/// ```
/// use multiprocess_core::Deadline;
/// use std::time::Duration;
///
/// assert!(Deadline::after(Duration::ZERO).has_passed());
/// assert!(!Deadline::NEVER.has_passed());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(u64);

impl Deadline {
    /// Later than every other deadline.
    pub const NEVER: Self = Self(NEVER);

    /// The present moment.
    pub fn now() -> Self {
        Self(sys::now())
    }

    /// `timeout` from now. A timeout of zero or "never" costs no look at the clock.
    pub fn after(timeout: impl Into<Timeout>) -> Self {
        match timeout.into() {
            Timeout::Never => Self::NEVER,
            Timeout::After(Duration::ZERO) => Self(0),
            Timeout::After(duration) => Self(sys::now()).plus(duration),
        }
    }

    /// This much later; saturates at [`NEVER`](Self::NEVER).
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(NEVER);
        Self(self.0.saturating_add(nanos))
    }

    /// Nanoseconds since the epoch of `CLOCK_MONOTONIC`; `None` if it never comes.
    pub fn nanos(self) -> Option<u64> {
        (self != Self::NEVER).then_some(self.0)
    }

    /// Whether it lies in the past. Costs a look at the clock unless the answer is fixed.
    pub fn has_passed(self) -> bool {
        self.0 == 0 || (self.0 != NEVER && sys::now() >= self.0)
    }

    /// Time left; zero if it has passed, `None` if it never comes.
    pub fn remaining(self) -> Option<Duration> {
        self.nanos()
            .map(|at| Duration::from_nanos(at.saturating_sub(sys::now())))
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nanos() {
            None => f.write_str("Deadline::NEVER"),
            Some(nanos) => write!(f, "Deadline({nanos} ns)"),
        }
    }
}
