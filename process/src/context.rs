//! `Context`: how processes are started.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use multiprocess_shm::transfer::Parcel;
use rustix::net::SocketType;
use rustix::process::getpid;
use rustix::thread::gettid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::child::{self, Leash, MARKER, ROLE_CHILD};
use crate::entry::{self, Encoded};
use crate::forkserver::{Forked, Server};
use crate::process::{Process, Started};
use crate::registry::{self, ParentSocket};
use crate::sys::{exec, fork, pidfd, socket};
use crate::{SpawnError, wire};

/// The three ways to start a process.
///
/// | method | start | what the child begins with |
/// |---|---|---|
/// | `Forkserver` | fast, whatever this process's size | the program, freshly started and forked before `main` |
/// | `Spawn` | a new program start | the program, freshly started |
/// | `Fork` | grows with this process's size | a copy of everything |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum StartMethod {
    /// Ask a small server process to fork.
    #[default]
    Forkserver,
    /// Run the program again.
    Spawn,
    /// Copy this process, which must have one thread.
    Fork,
}

impl StartMethod {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::Forkserver, Self::Spawn, Self::Fork];

    /// `"forkserver"`, `"spawn"` or `"fork"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forkserver => "forkserver",
            Self::Spawn => "spawn",
            Self::Fork => "fork",
        }
    }
}

impl fmt::Display for StartMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for StartMethod {
    type Err = UnknownStartMethod;

    fn from_str(name: &str) -> Result<Self, UnknownStartMethod> {
        Self::ALL
            .into_iter()
            .find(|method| method.name() == name)
            .ok_or_else(|| UnknownStartMethod(name.to_owned()))
    }
}

/// A name that is none of `forkserver`, `spawn`, `fork`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownStartMethod(String);

impl fmt::Display for UnknownStartMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a start method (forkserver, spawn, fork)",
            self.0
        )
    }
}

impl std::error::Error for UnknownStartMethod {}

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
/// A forked child has a default context of its own.
#[derive(Debug, Clone)]
pub struct Context {
    method: Method,
    daemon: bool,
    name: Option<String>,
}

#[derive(Debug, Clone)]
enum Method {
    /// The server that all default contexts share.
    SharedServer,
    Server(Arc<Server>),
    Spawn,
    Fork {
        any_threads: bool,
    },
}

/// The default contexts' server, and the process that started it.
static SHARED_SERVER: Mutex<Option<(u32, Arc<Server>)>> = Mutex::new(None);

fn shared_server() -> MutexGuard<'static, Option<(u32, Arc<Server>)>> {
    SHARED_SERVER.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// working directory of its children are those of this moment.
    ///
    /// # Errors
    ///
    /// [`SpawnError::NotInitialised`], [`SpawnError::System`].
    pub fn forkserver() -> Result<Self, SpawnError> {
        refuse_unclaimed()?;
        let _starting = registry::starting();
        let server = Server::start(&this_program())?;
        Ok(Self::of(Method::Server(Arc::new(server))))
    }

    /// Runs this program again for each process.
    pub fn spawn_exec() -> Self {
        Self::of(Method::Spawn)
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
            daemon: false,
            name: None,
        }
    }

    /// Whether processes end when this process ends, however it ends; `false` at first.
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
        self.daemon = daemon;
        self
    }

    /// The name of the processes it starts.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Which method it uses.
    pub fn start_method(&self) -> StartMethod {
        match self.method {
            Method::SharedServer | Method::Server(_) => StartMethod::Forkserver,
            Method::Spawn => StartMethod::Spawn,
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
        let arguments = entry::encode(&args).map_err(SpawnError::Arguments)?;
        drop(args);
        // Lost until somebody has got it: wherever a start fails, dropping it tells the peers.
        let Encoded { bytes, parcel } = arguments;
        if let Method::Fork { .. } = self.method {
            return self.start_fork(parcel, move |fds| (entry.run)(&bytes, fds));
        }
        let call = entry
            .call(self.leash(), bytes)
            .ok_or(SpawnError::ForeignImage)?;
        let call =
            postcard::to_stdvec(&call).map_err(|error| SpawnError::Arguments(error.to_string()))?;
        let parent = self.parent_to_watch()?;
        let fds: Vec<_> = parent.iter().map(AsFd::as_fd).chain(parcel.fds()).collect();
        let started = self.start_fresh()?;
        let process = Process::new(self.next_name(), started);
        match wire::send(process.control(), &call, &fds) {
            Ok(()) => {
                parcel.into_fds();
                Ok(process)
            }
            // It died before it read all of its call: join will tell how.
            Err(error) if is_disconnect(&error) => Ok(process),
            Err(error) => {
                let _ = process.kill();
                Err(error.into())
            }
        }
    }

    /// How a process started by this thread, now, is tied to this process.
    fn leash(&self) -> Option<Leash> {
        let is_main_thread = || gettid() == getpid();
        let by_kernel = match self.method {
            Method::SharedServer | Method::Server(_) => false,
            Method::Spawn | Method::Fork { .. } => is_main_thread(),
        };
        self.daemon.then_some(Leash { by_kernel })
    }

    /// What a daemon watches.
    fn parent_to_watch(&self) -> Result<Option<OwnedFd>, SpawnError> {
        Ok(if self.daemon {
            Some(pidfd::own()?)
        } else {
            None
        })
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
        self.start_fork(Parcel::default(), move |_| {
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

    fn next_name(&self) -> String {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        self.name
            .clone()
            .unwrap_or_else(|| format!("Process-{}", COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// A process that waits for its call.
    fn start_fresh(&self) -> Result<Started, SpawnError> {
        match &self.method {
            Method::SharedServer => start_through_shared(self.daemon),
            Method::Server(server) => Ok(start_through(server, self.daemon)?),
            Method::Spawn | Method::Fork { .. } => {
                let _starting = registry::starting();
                let (ours, theirs) = socket::pair(SocketType::STREAM)?;
                let ours = ParentSocket::new(ours);
                let pid = exec::run(&this_program(), theirs.as_fd(), MARKER, ROLE_CHILD)?;
                drop(theirs); // makes room for the pidfd, too
                Ok(Started {
                    pid,
                    pidfd: pidfd::open_child(pid)?,
                    control: ours,
                    status: None,
                })
            }
        }
    }

    /// Forks a child that does `work` with the descriptors of `parcel`.
    fn start_fork<R>(
        &self,
        parcel: Parcel,
        work: impl FnOnce(Vec<OwnedFd>) -> Result<Encoded, entry::Refusal>,
    ) -> Result<Process<R>, SpawnError> {
        let parent = self.leash().zip(self.parent_to_watch()?);
        let name = self.next_name();
        // None is left locked in the child by a thread that does not exist there. In the order
        // that `registry` lays down.
        let (streams, quiet) = (fork::Streams::hold(), registry::quiet());
        let (ours, theirs) = socket::pair(SocketType::STREAM)?;
        let ours = ParentSocket::new(ours);
        let (server, held) = (shared_server(), registry::hold());
        // SAFETY: `fork` and `fork_closure` make it their caller's contract; the safe way here
        // is `fork_single_threaded`, whose check (in `prepare`) leaves no other thread that
        // could hold a lock.
        let pid = unsafe { fork::fork() }?;
        drop((held, server, quiet, streams));
        if pid == 0 {
            child::run_forked(theirs, parent, move || work(parcel.into_fds()))
        }
        drop(theirs);
        let started = Started {
            pid,
            pidfd: pidfd::open_child(pid)?,
            control: ours,
            status: None,
        };
        parcel.into_fds(); // the child has copies
        Ok(Process::new(name, started))
    }
}

/// `/proc/self/exe` names the file that runs, also after its path was overwritten.
fn this_program() -> CString {
    c"/proc/self/exe".into()
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

/// A process forked by `server`, which waits for its call.
fn start_through(server: &Server, daemon: bool) -> std::io::Result<Started> {
    let starting = registry::starting();
    let (ours, theirs) = socket::pair(SocketType::STREAM)?;
    let ours = ParentSocket::new(ours);
    let request = server.request(theirs.as_fd(), daemon)?;
    drop((theirs, starting)); // a stopped server holds up this start, and no fork
    let Forked { pid, pidfd, status } = request.answer()?;
    Ok(Started {
        pid,
        pidfd,
        control: ours,
        status: Some(status),
    })
}

/// As [`start_through`] the shared server; through a new one if the one we knew dies meanwhile.
/// A child that the dying one did fork sees its control socket closed, and exits: the second
/// attempt has a socket of its own.
fn start_through_shared(daemon: bool) -> Result<Started, SpawnError> {
    let server = live_shared_server(None)?;
    match start_through(&server, daemon) {
        Err(error) if is_disconnect(&error) => {
            let next = live_shared_server(Some(&server))?;
            Ok(start_through(&next, daemon)?)
        }
        started => Ok(started?),
    }
}

/// The shared server, started if there is none, or it died, or it is our parent's, or `dead`.
fn live_shared_server(dead: Option<&Arc<Server>>) -> Result<Arc<Server>, SpawnError> {
    let _starting = registry::starting();
    let mut shared = shared_server();
    let own = std::process::id();
    if let Some((starter, server)) = &*shared
        && *starter == own
        && !dead.is_some_and(|dead| Arc::ptr_eq(dead, server))
        && server.is_alive()
    {
        return Ok(Arc::clone(server));
    }
    let server = Arc::new(Server::start(&this_program())?);
    let old = shared.replace((own, Arc::clone(&server)));
    drop(shared);
    drop(old); // may take the registry's lock: not under ours
    Ok(server)
}

fn is_disconnect(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset
    )
}
