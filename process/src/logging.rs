//! Children log where their parent does, by the `log` crate.

use serde::{Deserialize, Serialize};

use crate::entry::{Refusal, Target};

/// What a process that starts afresh does first, so that it logs as its parent does. (A forked one
/// has its parent's logger.)
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Log {
    install: Target,
    /// `log::LevelFilter` as a number.
    level: u8,
}

impl Log {
    pub(crate) fn inherit(&self) -> Result<(), Refusal> {
        // Another program, called by name, has its own ways.
        let Ok(entry) = self.install.entry() else {
            return Ok(());
        };
        (entry.run)(&[self.level], Vec::new()).map(drop)
    }
}

#[cfg(not(feature = "log"))]
impl Log {
    pub(crate) fn to_inherit() -> Option<Self> {
        None
    }
}

#[cfg(feature = "log")]
pub use with_log::{inherit_logger, log_to_stderr};

#[cfg(feature = "log")]
mod with_log {
    use std::io::Write;
    use std::sync::OnceLock;

    use log::{LevelFilter, Metadata, Record, SetLoggerError};

    use super::Log;
    use crate::current_process;
    use crate::entry::{self, Entry};

    /// What a fresh child runs.
    static INSTALL: OnceLock<&'static Entry> = OnceLock::new();

    impl Log {
        /// What children that are started now are told.
        pub(crate) fn to_inherit() -> Option<Self> {
            Some(Self {
                install: INSTALL.get()?.target()?,
                level: log::max_level() as u8,
            })
        }
    }

    /// Has processes that this one starts by spawn or a forkserver run `install` before their
    /// function, with the level that this process has then: it sets their logger. Forked ones have
    /// their parent's logger. `install` captures nothing. Only the first call counts, as only the
    /// first logger does; a child hands it on to its own children by calling this in `install`.
    ///
    /// # Examples
    ///
    /// ```
    /// fn install(level: log::LevelFilter) {
    ///     # struct Logger;
    ///     # impl log::Log for Logger {
    ///     #     fn enabled(&self, _: &log::Metadata<'_>) -> bool { true }
    ///     #     fn log(&self, _: &log::Record<'_>) {}
    ///     #     fn flush(&self) {}
    ///     # }
    ///     let _ = log::set_logger(&Logger); // any logger
    ///     log::set_max_level(level);
    ///     multiprocess::inherit_logger(install);
    /// }
    ///
    /// install(log::LevelFilter::Debug);
    /// let level = |()| log::max_level() as usize;
    /// let child = multiprocess::Context::default().spawn(level, ())?;
    /// assert_eq!(child.join()?, log::LevelFilter::Debug as usize);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn inherit_logger(install: impl Fn(LevelFilter) + Copy + 'static) {
        let _ = INSTALL.set(entry::of::<_, u8, ()>(move |level| install(filter(level))));
    }

    fn filter(level: u8) -> LevelFilter {
        LevelFilter::iter()
            .find(|filter| *filter as u8 == level)
            .unwrap_or(LevelFilter::Trace)
    }

    /// Logs to standard error, here and in the processes that this one starts from now on:
    /// `[INFO/Process-1] message`.
    ///
    /// # Errors
    ///
    /// `SetLoggerError`: the program has a logger already, which stays.
    pub fn log_to_stderr(level: LevelFilter) -> Result<(), SetLoggerError> {
        log::set_logger(&ToStderr)?;
        log::set_max_level(level);
        inherit_logger(|level| {
            // A forkserver's preload may have set one, which stays.
            let _ = log_to_stderr(level);
        });
        Ok(())
    }

    struct ToStderr;

    impl log::Log for ToStderr {
        fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
            true // by the crate's level alone
        }

        fn log(&self, record: &Record<'_>) {
            let name = current_process().name();
            // One write for the line: those of several processes do not mix. A stream that is
            // closed is no reason to panic.
            let line = format!("[{}/{name}] {}\n", record.level(), record.args());
            let _ = std::io::stderr().write_all(line.as_bytes());
        }

        fn flush(&self) {}
    }
}
