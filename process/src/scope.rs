//! `scope`: processes that are all joined at its end.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Context, JoinError, Process, SpawnError};

/// Runs `body` with a [`Scope`] of the default context; see [`Context::scope`].
///
/// # Errors
///
/// As [`Context::scope`].
pub fn scope<T>(body: impl FnOnce(&Scope) -> T) -> Result<T, ScopeError> {
    Context::default().scope(body)
}

impl Context {
    /// Runs `body`, and then waits for all processes that it started through the scope: those it
    /// did not join are joined, and their results dropped, even if `body` panics. Processes cannot
    /// borrow from their parent, as scoped threads do; what they share travels in `args`.
    ///
    /// # Examples
    ///
    /// ```
    /// use multiprocess::{RawArray, scope};
    ///
    /// let squares = RawArray::<u64>::zeroed(4)?;
    /// scope(|scope| -> Result<(), multiprocess::SpawnError> {
    ///     for i in 0..4 {
    ///         let square = |(squares, i): (RawArray<u64>, usize)| {
    ///             squares.set(i, (i * i) as u64).unwrap();
    ///         };
    ///         scope.spawn(square, (squares.clone(), i))?;
    ///     }
    ///     Ok(())
    /// })??;
    /// assert_eq!(squares.to_vec(), [0, 1, 4, 9]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ScopeError`]: one that `body` did not join has failed. All have ended.
    ///
    /// # Panics
    ///
    /// If `body` does, once all have ended.
    pub fn scope<T>(&self, body: impl FnOnce(&Scope) -> T) -> Result<T, ScopeError> {
        let scope = Scope {
            context: self.clone(),
            left: Mutex::new(Vec::new()),
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| body(&scope)));
        let left = scope.left.into_inner();
        let mut first = None;
        for process in left.unwrap_or_else(PoisonError::into_inner) {
            if let Err(error) = process.finish() {
                first.get_or_insert(error);
            }
        }
        match (outcome, first) {
            (Err(panic), _) => resume_unwind(panic),
            (Ok(_), Some(error)) => Err(error),
            (Ok(value), None) => Ok(value),
        }
    }
}

/// Where processes are started that [`scope`] waits for.
pub struct Scope {
    context: Context,
    /// Those whose handles were dropped without a join.
    left: Mutex<Vec<Box<dyn Left>>>,
}

impl Scope {
    /// As [`Context::spawn`]. Dropping the handle leaves the process to the end of the scope.
    ///
    /// # Errors
    ///
    /// As [`Context::spawn`].
    pub fn spawn<F, A, R>(&self, function: F, args: A) -> Result<ScopedProcess<'_, R>, SpawnError>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.spawn_with(&self.context, function, args)
    }

    /// As [`spawn`](Self::spawn), with another context than the scope's: another name, say.
    ///
    /// # Errors
    ///
    /// As [`Context::spawn`].
    pub fn spawn_with<F, A, R>(
        &self,
        context: &Context,
        function: F,
        args: A,
    ) -> Result<ScopedProcess<'_, R>, SpawnError>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned + 'static,
    {
        Ok(ScopedProcess {
            process: Some(context.spawn(function, args)?),
            scope: self,
        })
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let context = &self.context;
        f.debug_struct("Scope")
            .field("context", context)
            .finish_non_exhaustive()
    }
}

/// A process of a [`Scope`]: a [`Process`] that the scope joins if nobody else does.
#[derive(Debug)]
pub struct ScopedProcess<'scope, R: DeserializeOwned + 'static> {
    /// Taken by a join or by drop.
    process: Option<Process<R>>,
    scope: &'scope Scope,
}

impl<R: DeserializeOwned + 'static> ScopedProcess<'_, R> {
    /// As [`Process::join`].
    ///
    /// # Errors
    ///
    /// As [`Process::join`].
    pub fn join(mut self) -> Result<R, JoinError> {
        match self.process.take() {
            Some(process) => process.join(),
            None => Err(JoinError::AlreadyJoined),
        }
    }
}

const THERE: &str = "taken by `join` and `drop` only, which end the handle";

impl<R: DeserializeOwned + 'static> Deref for ScopedProcess<'_, R> {
    type Target = Process<R>;

    fn deref(&self) -> &Process<R> {
        self.process.as_ref().expect(THERE)
    }
}

impl<R: DeserializeOwned + 'static> DerefMut for ScopedProcess<'_, R> {
    fn deref_mut(&mut self) -> &mut Process<R> {
        self.process.as_mut().expect(THERE)
    }
}

impl<R: DeserializeOwned + 'static> Drop for ScopedProcess<'_, R> {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            let mut left = self
                .scope
                .left
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            left.push(Box::new(process));
        }
    }
}

/// A process whatever its result.
trait Left: Send {
    fn finish(self: Box<Self>) -> Result<(), ScopeError>;
}

impl<R: DeserializeOwned> Left for Process<R> {
    fn finish(self: Box<Self>) -> Result<(), ScopeError> {
        let name = self.name().to_owned();
        match self.join() {
            // Taken by an earlier `join_timeout`.
            Ok(_) | Err(JoinError::AlreadyJoined) => Ok(()),
            Err(error) => Err(ScopeError { name, error }),
        }
    }
}

/// A process of a [`scope`] that was not joined within has failed; if several have, the
/// one that was let go first.
#[derive(Debug)]
pub struct ScopeError {
    name: String,
    error: JoinError,
}

impl ScopeError {
    /// The process's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was wrong.
    pub fn into_inner(self) -> JoinError {
        self.error
    }
}

impl fmt::Display for ScopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.error)
    }
}

impl std::error::Error for ScopeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
