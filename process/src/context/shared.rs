//! Starts through forkservers: the one that all default contexts share, and others.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::SocketType;

use super::{Context, Method, is_disconnect, this_program};
use crate::SpawnError;
use crate::entry::{self, Entry};
use crate::forkserver::{Forked, Server};
use crate::process::Started;
use crate::registry::{self, ParentEnd};
use crate::sys::{environ::c_string, socket};

/// What the default contexts of this process share.
pub(super) struct Shared {
    /// The server, and the process that started it.
    server: Option<(u32, Arc<Server>)>,
    preload: Option<&'static Entry>,
}

static SHARED: Mutex<Shared> = Mutex::new(Shared {
    server: None,
    preload: None,
});

pub(super) fn shared_server() -> MutexGuard<'static, Shared> {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the default contexts' forkserver run `preload` before it serves, each time that it is
/// started: what takes long to make, and is the same for all children, is made once and forked. A
/// server that runs already is left alone: call this first. `preload` captures nothing, and must
/// leave no thread behind; if it does, panics or fails, starts are
/// [`SpawnError::Preload`](crate::SpawnError::Preload).
///
/// # Examples
///
/// ```
/// use std::sync::OnceLock;
/// use multiprocess::{Context, set_forkserver_preload};
///
/// static TABLE: OnceLock<Vec<u64>> = OnceLock::new();
///
/// set_forkserver_preload(|| TABLE.set((0..1000).map(|n| n * n).collect()).unwrap());
/// let look_up = |n: usize| TABLE.get().map(|table| table[n]);
/// assert_eq!(Context::default().spawn(look_up, 12)?.join()?, Some(144));
/// assert!(TABLE.get().is_none(), "made in the server");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn set_forkserver_preload(preload: impl Fn() + Copy + 'static) {
    shared_server().preload = Some(entry::of::<_, (), ()>(move |()| preload()));
}

/// A forkserver of one's own, before it is started.
///
/// # Examples
///
/// ```
/// use multiprocess::Forkserver;
///
/// let context = Forkserver::new().preload(|| eprintln!("once")).start()?;
/// assert_eq!(context.spawn(|n: u32| n + 1, 1)?.join()?, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Forkserver {
    program: Option<PathBuf>,
    preload: Option<&'static Entry>,
}

impl Forkserver {
    /// Of this program, without a preload.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another program, as for [`Context::spawn_program`].
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// What it runs before it serves; see [`set_forkserver_preload`].
    #[must_use]
    pub fn preload(mut self, preload: impl Fn() + Copy + 'static) -> Self {
        self.preload = Some(entry::of::<_, (), ()>(move |()| preload()));
        self
    }

    /// Starts it. It ends with the last clone of the context and the last child.
    ///
    /// # Errors
    ///
    /// [`SpawnError::NotInitialised`], [`SpawnError::Preload`], [`SpawnError::System`].
    pub fn start(self) -> Result<Context, SpawnError> {
        super::refuse_unclaimed()?;
        let program = self.program.map(|path| c_string(path.as_os_str()));
        let program = program.transpose()?;
        let program = program.as_deref().unwrap_or(this_program());
        let _starting = registry::starting();
        let server = Server::start(program, self.preload)?;
        Ok(Context::of(Method::Server(Arc::new(server))))
    }
}

/// A process forked by `server`, which waits for its call.
pub(super) fn start_through(server: &Server, daemon: bool) -> std::io::Result<Started> {
    let starting = registry::starting();
    let (ours, theirs) = socket::pair(SocketType::STREAM)?;
    let ours = ParentEnd::new(ours);
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
pub(super) fn start_through_shared(daemon: bool) -> Result<Started, SpawnError> {
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
pub(super) fn live_shared_server(dead: Option<&Arc<Server>>) -> Result<Arc<Server>, SpawnError> {
    let _starting = registry::starting();
    let mut shared = shared_server();
    let own = std::process::id();
    if let Some((starter, server)) = &shared.server
        && *starter == own
        && !dead.is_some_and(|dead| Arc::ptr_eq(dead, server))
        && server.is_alive()
    {
        return Ok(Arc::clone(server));
    }
    let server = Arc::new(Server::start(this_program(), shared.preload)?);
    let old = shared.server.replace((own, Arc::clone(&server)));
    drop(shared);
    drop(old); // may take the registry's lock: not under ours
    Ok(server)
}
