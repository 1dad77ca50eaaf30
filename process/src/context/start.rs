//! How the three methods start a process.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::net::SocketType;
use rustix::process::getpid;
use rustix::thread::gettid;
use serde::de::DeserializeOwned;

use super::shared::{shared_server, start_through, start_through_shared};
use super::{Context, Method, is_disconnect, this_program};
use crate::child::{self, Birth, Leash, ROLE_CHILD};
use crate::current::{Identity, current_process};
use crate::entry::{Call, Encoded, Refusal, Target};
use crate::logging::Log;
use crate::process::{Process, Started};
use crate::registry::{self, ParentEnd};
use crate::settings::Changes;
use crate::stdio::Plumbing;
use crate::sys::image::Image;
use crate::sys::{exec, fork, pidfd, socket};
use crate::{SpawnError, at_fork, wire};

impl Context {
    /// Starts a process afresh, and sends it a call.
    pub(super) fn start_call<R: DeserializeOwned>(
        &self,
        target: Target,
        arguments: Encoded,
    ) -> Result<Process<R>, SpawnError> {
        let Encoded { bytes, parcel } = arguments;
        let plumbing = Plumbing::new(&self.streams)?;
        let mut birth = self.birth(&plumbing)?;
        let environment = match self.method {
            // Exec brings it along.
            Method::Spawn { .. } => std::mem::take(&mut birth.settings.environment),
            _ => Changes::default(),
        };
        let name = birth.identity.name.clone();
        let call = Call {
            target,
            birth,
            log: Log::to_inherit(),
            arguments: bytes,
        };
        let call =
            postcard::to_stdvec(&call).map_err(|error| SpawnError::Arguments(error.to_string()))?;
        let parent = pidfd::own()?;
        let process = {
            let started = self.start_fresh(&environment)?;
            Process::new(name, self.is_daemon(), plumbing.ours, started)
        };
        let streams = plumbing.theirs.iter().flatten().map(AsFd::as_fd);
        let fds: Vec<_> = std::iter::once(parent.as_fd())
            .chain(streams)
            .chain(parcel.fds())
            .collect();
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

    fn is_daemon(&self) -> bool {
        self.daemon.unwrap_or_else(|| current_process().is_daemon())
    }

    /// What a process started by this thread, now, is to be told.
    fn birth(&self, plumbing: &Plumbing) -> std::io::Result<Birth> {
        let is_main_thread = || gettid() == getpid();
        let by_kernel = match self.method {
            Method::SharedServer | Method::Server(_) => false,
            Method::Spawn { .. } | Method::Fork { .. } => is_main_thread(),
        };
        let mut settings = self.settings.clone();
        if let Some(directory) = &mut settings.directory {
            // A forkserver has its own idea of what is relative to what.
            let path = std::path::absolute(OsStr::from_bytes(directory))?;
            *directory = path.into_os_string().into_vec();
        }
        let daemon = self.is_daemon();
        Ok(Birth {
            identity: Identity::of_next_child(self.name.as_deref(), daemon),
            leash: daemon.then_some(Leash { by_kernel }),
            settings,
            streams: plumbing.streams(),
        })
    }

    /// A process that waits for its call.
    fn start_fresh(&self, environment: &Changes) -> Result<Started, SpawnError> {
        match &self.method {
            Method::SharedServer => start_through_shared(self.is_daemon()),
            Method::Server(server) => Ok(start_through(server, self.is_daemon())?),
            Method::Spawn { .. } | Method::Fork { .. } => {
                let program = match &self.method {
                    Method::Spawn { program } => program,
                    _ => this_program(),
                };
                let environment = child::environment(ROLE_CHILD, environment.applied())?;
                let _starting = registry::starting();
                let (ours, theirs) = socket::pair(SocketType::STREAM)?;
                let ours = ParentEnd::new(ours);
                let pid = exec::run(program, theirs.as_fd(), &environment)?;
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

    /// Forks a child that does `work` with `arguments`.
    pub(super) fn start_fork<R: DeserializeOwned>(
        &self,
        arguments: Encoded,
        work: impl FnOnce(&[u8], Vec<OwnedFd>) -> Result<Encoded, Refusal>,
    ) -> Result<Process<R>, SpawnError> {
        let Encoded { bytes, parcel } = arguments;
        let plumbing = Plumbing::new(&self.streams)?;
        let birth = self.birth(&plumbing)?;
        let name = birth.identity.name.clone();
        let environ = birth.settings.environment.environ()?;
        let parent = pidfd::own()?;
        let forked = child::Forked {
            birth,
            parent,
            environ,
        };
        let hooks = at_fork::before_fork();
        // Found out now, or by another thread that would be within it at the fork for ever.
        Image::own();
        // None is left locked in the child by a thread that does not exist there. In the order
        // that `registry` lays down.
        let (streams, quiet) = (fork::Streams::hold(), registry::quiet());
        let (ours, theirs) = socket::pair(SocketType::STREAM)?;
        let ours = ParentEnd::new(ours);
        let (server, held) = (shared_server(), registry::hold());
        // SAFETY: `fork` and `fork_closure` make it their caller's contract; the safe way here
        // is `fork_single_threaded`, whose check (in `prepare`) leaves no other thread that
        // could hold a lock.
        let pid = unsafe { fork::fork() };
        drop((held, server, quiet, streams));
        if let Ok(0) = pid {
            let work = move || work(&bytes, parcel.into_fds());
            child::run_forked(theirs, forked, &plumbing.theirs, hooks, work)
        }
        let process = pid.and_then(|pid| {
            drop(theirs);
            let started = Started {
                pid,
                pidfd: pidfd::open_child(pid)?,
                control: ours,
                status: None,
            };
            // It waits for this, so that it cannot have ended, and been reaped by others, before there
            // was a pidfd of it. If it was killed meanwhile, join will tell.
            let _ = socket::send(started.control.as_fd(), &[0], &[]);
            parcel.into_fds(); // the child has copies
            Ok(Process::new(name, self.is_daemon(), plumbing.ours, started))
        });
        hooks.in_parent(); // may panic: the process is one that nobody has kept
        Ok(process?)
    }
}
