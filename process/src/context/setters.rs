//! What a `Context` sets of the processes that it starts.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Context;
use crate::stdio::Stdio;

/// Settings of the processes that it starts. Each child applies them before its call; one that it
/// cannot have (a directory that is not there) is [`JoinError::Refused`](crate::JoinError::Refused).
impl Context {
    /// Whether processes end when this process ends, however it ends. If nothing is said, the
    /// children of a daemon are daemons, and those of others are not.
    ///
    /// A daemon has a thread that watches its parent, and so cannot itself use
    /// [`fork_single_threaded`](Self::fork_single_threaded). It exits with 143 at once, without
    /// running destructors, or is killed.
    ///
    /// A daemon that is *stopped* when its parent ends (SIGSTOP, a debugger) runs no thread. It is
    /// killed by its forkserver, or, spawned or forked, by the kernel if the parent's main thread
    /// started it; that thread must then not end before its process (`pthread_exit` in `main`).
    /// Spawned or forked by another thread, or once its forkserver has died, it goes when it is
    /// continued.
    #[must_use]
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.daemon = Some(daemon);
        self
    }

    /// The name of the processes it starts.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets an environment variable. Without any of these, a child has the environment that its
    /// start gives it: that of this process, or the forkserver's, of when that was started.
    ///
    /// A start fails with `InvalidInput` if the key is empty or has a `=`, or either has a NUL.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let changes = &mut self.settings.environment;
        changes.set(key.as_ref(), Some(value.as_ref()));
        self
    }

    /// Removes an environment variable.
    #[must_use]
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.settings.environment.set(key.as_ref(), None);
        self
    }

    /// Begins with an empty environment.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.settings.environment.clear();
        self
    }

    /// The working directory; if relative, to that of this process at the start.
    #[must_use]
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        let bytes = directory.as_ref().as_os_str().as_bytes();
        self.settings.directory = Some(bytes.to_vec());
        self
    }

    /// Standard input. If nothing is said, a child shares that of this process, or its
    /// forkserver's.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.streams[0] = Some(stdin.into());
        self
    }

    /// Standard output; as [`stdin`](Self::stdin).
    #[must_use]
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.streams[1] = Some(stdout.into());
        self
    }

    /// Standard error; as [`stdin`](Self::stdin).
    #[must_use]
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.streams[2] = Some(stderr.into());
        self
    }

    /// The processors that it may run on, counted from 0.
    #[must_use]
    pub fn affinity(mut self, processors: impl IntoIterator<Item = usize>) -> Self {
        self.settings.processors = Some(processors.into_iter().collect());
        self
    }

    /// Adds to its niceness, as `nice(1)` does: 19 is the nicest. Below 0 takes privileges.
    #[must_use]
    pub fn nice(mut self, increment: i32) -> Self {
        self.settings.nice = Some(increment);
        self
    }
}
