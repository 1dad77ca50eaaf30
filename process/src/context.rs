//! `Context`: how processes are started.

use std::ffi::CStr;
use std::path::Path;
use std::sync::Arc;

use multiprocess_shm::transfer::Parcel;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::SpawnError;
use crate::child;
use crate::entry::{self, Encoded, Target};
use crate::forkserver::Server;
use crate::named;
use crate::process::Process;
use crate::registry;
use crate::settings::Settings;
use crate::stdio;
use crate::sys::environ::c_string;
use crate::sys::fork;

mod method;
mod setters;
mod shared;
mod start;
mod travel;

pub use method::{StartMethod, UnknownStartMethod};
pub use shared::{Forkserver, set_forkserver_preload};

/// Starts processes, all in the same way.
///
/// The default is a forkserver that all default contexts of this process share; it is started
/// by the first spawn, and again if it died. Cheap to clone.
///
/// # Examples
///
/// ```
/// use multiprocess::{Context, StartMethod};
///
/// fn add((a, b): (u64, u64)) -> u64 { a + b }
///
/// for method in [StartMethod::Forkserver, StartMethod::Spawn] {
///     let process = Context::new(method)?.spawn(add, (20, 22))?;
///     assert_eq!(process.join().unwrap(), 42);
/// }
/// # Ok::<(), multiprocess::SpawnError>(())
/// ```
///
/// A function that captures does not compile: a child started afresh has nothing to capture.
///
/// ```compile_fail
/// let offset = 1;
/// multiprocess::Context::default().spawn(move |a: u64| a + offset, 41).unwrap();
/// ```
///
/// # Crash safety
///
/// A spawn that fails leaves no process behind. See [`Process`] for deaths afterwards.
///
/// # Fork
///
/// A forked child has a default context of its own. One that is to start processes through this
/// one's forkserver gets its context in `args`: contexts travel, and a server has any number of
/// clients.
#[derive(Debug, Clone)]
pub struct Context {
    method: Method,
    /// `None`: as this process.
    daemon: Option<bool>,
    name: Option<String>,
    settings: Settings,
    streams: stdio::Choice,
}

#[derive(Debug, Clone)]
enum Method {
    /// The server that all default contexts share.
    SharedServer,
    Server(Arc<Server>),
    Spawn {
        program: Arc<CStr>,
    },
    Fork {
        any_threads: bool,
    },
}

impl Default for Context {
    fn default() -> Self {
        Self::of(Method::SharedServer)
    }
}

impl Context {
    /// A context for `method`: the shared forkserver, [`spawn_exec`](Self::spawn_exec), or
    /// [`fork_single_threaded`](Self::fork_single_threaded).
    ///
    /// # Errors
    ///
    /// [`SpawnError::Threads`] for `Fork` in a process with several.
    pub fn new(method: StartMethod) -> Result<Self, SpawnError> {
        match method {
            StartMethod::Forkserver => Ok(Self::default()),
            StartMethod::Spawn => Ok(Self::spawn_exec()),
            StartMethod::Fork => Self::fork_single_threaded(),
        }
    }

    /// A forkserver of its own, started now. It ends with the last clone of the context and
    /// the last child.
    ///
    /// The server is this program, run again up to the start of `main`: environment and
    /// working directory of its children are those of this moment. [`Forkserver`] has choices.
    ///
    /// # Errors
    ///
    /// [`SpawnError::NotInitialised`], [`SpawnError::System`].
    pub fn forkserver() -> Result<Self, SpawnError> {
        Forkserver::new().start()
    }

    /// Runs this program again for each process.
    pub fn spawn_exec() -> Self {
        Self::of(Method::Spawn {
            program: this_program().into(),
        })
    }

    /// Runs `program` for each process: one that links this crate, too, and names its functions by
    /// [`entry!`](crate::entry!), for [`spawn_named`](Self::spawn_named).
    ///
    /// [`spawn`](Self::spawn) works if it is the same build as this program; another one is
    /// refused. A program that is none of ours runs as it would by itself, and is
    /// [`JoinError::Exited`](crate::JoinError::Exited) when it ends.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: the path has a NUL.
    pub fn spawn_program(program: impl AsRef<Path>) -> std::io::Result<Self> {
        let program = c_string(program.as_ref().as_os_str())?;
        Ok(Self::of(Method::Spawn {
            program: program.into(),
        }))
    }

    /// Forks, in a process with any number of threads.
    ///
    /// # Safety
    ///
    /// For every spawn through this context: in the child only the calling thread exists. What
    /// the child runs must not need a lock that another thread may hold at that moment, other
    /// than malloc's, those of the standard streams, and this crate's.
    pub unsafe fn fork() -> Self {
        Self::of(Method::Fork { any_threads: true })
    }

    /// Forks; each spawn fails unless this process has one thread.
    ///
    /// # Errors
    ///
    /// [`SpawnError::Threads`] if it has several already.
    pub fn fork_single_threaded() -> Result<Self, SpawnError> {
        refuse_threads()?;
        Ok(Self::of(Method::Fork { any_threads: false }))
    }

    fn of(method: Method) -> Self {
        Self {
            method,
            daemon: None,
            name: None,
            settings: Settings::default(),
            streams: [const { None }; 3],
        }
    }

    /// Which method it uses.
    pub fn start_method(&self) -> StartMethod {
        match self.method {
            Method::SharedServer | Method::Server(_) => StartMethod::Forkserver,
            Method::Spawn { .. } => StartMethod::Spawn,
            Method::Fork { .. } => StartMethod::Fork,
        }
    }

    /// Starts a process that calls `function(args)`; [`join`](Process::join) yields its result.
    ///
    /// `function` is a function or a closure that captures nothing. `args` and the result
    /// travel by serde; handles in them (shared values, ends of rings) travel along. All three
    /// methods behave the same: `args` are serialised even for a fork.
    ///
    /// The compiler refuses a closure that captures anything with a size. It cannot see a capture
    /// without one: such a value is made anew in the child, where what it stands for may not have
    /// happened. Do not let a function capture a zero-sized witness (a token that proves that an
    /// `init` has run in this process, say): its code may rely on that for its soundness.
    ///
    /// # Errors
    ///
    /// [`SpawnError`]. An end of a ring that was in `args` is closed by a failed spawn, and its
    /// peer disconnected.
    pub fn spawn<F, A, R>(&self, function: F, args: A) -> Result<Process<R>, SpawnError>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.prepare()?;
        let entry = entry::of::<F, A, R>(function);
        // Lost until somebody has got it: wherever a start fails, dropping it tells the peers.
        let arguments = entry::encode(&args).map_err(SpawnError::Arguments)?;
        drop(args);
        if let Method::Fork { .. } = self.method {
            return self.start_fork(arguments, entry.run);
        }
        self.start_call(entry.target().ok_or(SpawnError::ForeignImage)?, arguments)
    }

    /// As [`spawn`](Self::spawn), for the function to which the child's program gives this name by
    /// [`entry!`](crate::entry!). That may be another program, or another build of this one. `A` and
    /// `R` must have the same names there: those of std, or of a library that both programs use.
    /// Other types, and a name that the program does not know, are
    /// [`JoinError::Refused`](crate::JoinError::Refused).
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn spawn_named<A, R>(&self, name: &str, args: A) -> Result<Process<R>, SpawnError>
    where
        A: Serialize,
        R: DeserializeOwned,
    {
        self.prepare()?;
        let target = Target::Name {
            name: name.to_owned(),
            signature: named::signature::<A, R>().to_owned(),
        };
        let arguments = entry::encode(&args).map_err(SpawnError::Arguments)?;
        drop(args);
        if let Method::Fork { .. } = self.method {
            let run = move |bytes: &[u8], fds| (target.entry()?.run)(bytes, fds);
            return self.start_fork(arguments, run);
        }
        self.start_call(target, arguments)
    }

    /// Forks, and runs `work` in the child, captures and all; only the result is serialised.
    ///
    /// # Errors
    ///
    /// [`SpawnError::System`].
    ///
    /// # Safety
    ///
    /// As [`fork`](Self::fork). Besides, whatever `work` captures exists twice afterwards, and
    /// what is shared memory is the same memory in both: the child must not use lock guards,
    /// ends of rings, or other handles of which there may be one only, if its parent goes on
    /// using them.
    pub unsafe fn fork_closure<R>(&self, work: impl FnOnce() -> R) -> Result<Process<R>, SpawnError>
    where
        R: Serialize + DeserializeOwned,
    {
        refuse_unclaimed()?;
        registry::reap_detached();
        let nothing = Encoded {
            bytes: Vec::new(),
            parcel: Parcel::default(),
        };
        self.start_fork(nothing, move |_, _| {
            entry::encode(&work()).map_err(|error| format!("the result cannot be encoded: {error}"))
        })
    }

    fn prepare(&self) -> Result<(), SpawnError> {
        refuse_unclaimed()?;
        registry::reap_detached();
        match self.method {
            Method::Fork { any_threads: false } => refuse_threads(),
            _ => Ok(()),
        }
    }
}

/// `/proc/self/exe` names the file that runs, also after its path was overwritten.
fn this_program() -> &'static CStr {
    c"/proc/self/exe"
}

fn refuse_unclaimed() -> Result<(), SpawnError> {
    if child::is_unclaimed() {
        return Err(SpawnError::NotInitialised);
    }
    Ok(())
}

fn refuse_threads() -> Result<(), SpawnError> {
    match fork::thread_count()? {
        1 => Ok(()),
        count => Err(SpawnError::Threads(count)),
    }
}

fn is_disconnect(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset
    )
}
