//! The ends that can be waited for by tasks, and their operations.

use std::sync::Arc;

use multiprocess_core::{AttachError, Memory, Peers};
use multiprocess_sync::Source;

use super::Async;
use super::keep::{Keep, SideKeep};
use crate::broadcast::{self, ReadError, TryReadError};
use crate::bytes::{self, Record};
use crate::endpoint::{ConsumerSide, ProducerSide, Side};
use crate::spsc::{self, Message};
use crate::{
    Home, RecvError, ReserveError, SendError, TryRecvError, TryReserveError, TrySendError, mpmc,
};

mod sealed {
    pub trait Sealed {}
}

/// An end of a ring, for [`Async`]. Those of this crate; the lossy receiver of `broadcast` in memory that it may
/// write.
pub trait End: Source + sealed::Sealed {
    #[doc(hidden)]
    fn keep(&self) -> Result<Arc<dyn Keep>, AttachError>;
}

/// Of an end of a single-writer ring.
fn side<S: Side + 'static, M: Memory + Send + Sync + 'static>(
    memory: M,
) -> Result<Arc<dyn Keep>, AttachError> {
    Ok(Arc::new(SideKeep::<S, M>::new(memory)?))
}

impl<T: Message, M: Memory, P: Peers> sealed::Sealed for spsc::Producer<T, M, P> {}
impl<T: Message, M: Memory + Clone + Send + Sync + 'static, P: Peers> End
    for spsc::Producer<T, M, P>
{
    fn keep(&self) -> Result<Arc<dyn Keep>, AttachError> {
        side::<ProducerSide, M>(self.memory().clone())
    }
}

impl<T: Message, M: Memory, P: Peers> sealed::Sealed for spsc::Consumer<T, M, P> {}
impl<T: Message, M: Memory + Clone + Send + Sync + 'static, P: Peers> End
    for spsc::Consumer<T, M, P>
{
    fn keep(&self) -> Result<Arc<dyn Keep>, AttachError> {
        side::<ConsumerSide, M>(self.memory().clone())
    }
}

impl<M: Memory, P: Peers> sealed::Sealed for bytes::Producer<M, P> {}
impl<M: Memory + Clone + Send + Sync + 'static, P: Peers> End for bytes::Producer<M, P> {
    fn keep(&self) -> Result<Arc<dyn Keep>, AttachError> {
        side::<ProducerSide, M>(self.memory().clone())
    }
}

impl<M: Memory, P: Peers> sealed::Sealed for bytes::Consumer<M, P> {}
impl<M: Memory + Clone + Send + Sync + 'static, P: Peers> End for bytes::Consumer<M, P> {
    fn keep(&self) -> Result<Arc<dyn Keep>, AttachError> {
        side::<ConsumerSide, M>(self.memory().clone())
    }
}

impl<T: Message, M: Memory, P: Peers> sealed::Sealed for mpmc::Sender<T, M, P> {}
impl<T: Message, M: Memory + Clone + Send + Sync + 'static, P: Peers> End
    for mpmc::Sender<T, M, P>
{
    fn keep(&self) -> Result<Arc<dyn Keep>, AttachError> {
        mpmc::keep::<T, M>(self.memory().clone(), true)
    }
}

impl<T: Message, M: Memory, P: Peers> sealed::Sealed for mpmc::Receiver<T, M, P> {}
impl<T: Message, M: Memory + Clone + Send + Sync + 'static, P: Peers> End
    for mpmc::Receiver<T, M, P>
{
    fn keep(&self) -> Result<Arc<dyn Keep>, AttachError> {
        mpmc::keep::<T, M>(self.memory().clone(), false)
    }
}

impl<T: Message, M: Memory, P: Peers> sealed::Sealed for broadcast::Sender<T, M, P> {}
impl<T: Message, M: Memory + Clone + Send + Sync + 'static, P: Peers> End
    for broadcast::Sender<T, M, P>
{
    fn keep(&self) -> Result<Arc<dyn Keep>, AttachError> {
        broadcast::keep::<T, M>(self.memory().clone(), true)
    }
}

impl<T: Message, M: Memory, P: Peers> sealed::Sealed for broadcast::LosslessReceiver<T, M, P> {}
impl<T: Message, M: Memory + Clone + Send + Sync + 'static, P: Peers> End
    for broadcast::LosslessReceiver<T, M, P>
{
    fn keep(&self) -> Result<Arc<dyn Keep>, AttachError> {
        broadcast::keep::<T, M>(self.memory().clone(), false)
    }
}

impl<T: Message> sealed::Sealed for broadcast::Receiver<T> {}
impl<T: Message> End for broadcast::Receiver<T> {
    fn keep(&self) -> Result<Arc<dyn Keep>, AttachError> {
        broadcast::keep::<T, Home>(self.memory().clone(), false)
    }
}

/// What a try to receive says, unless it is to wait.
fn received<T>(result: Result<T, TryRecvError>) -> Option<Result<T, RecvError>> {
    match result {
        Err(TryRecvError::Empty) => None,
        other => Some(other.map_err(RecvError::from)),
    }
}

/// What a try to send says, unless it is to wait.
fn sent<T>(result: Result<(), TrySendError<T>>) -> Option<Result<(), SendError<T>>> {
    match result {
        Ok(()) => Some(Ok(())),
        Err(TrySendError::Full(_)) => None,
        Err(TrySendError::Disconnected(message)) => Some(Err(SendError::Disconnected(message))),
        Err(TrySendError::Corrupt(message)) => Some(Err(SendError::Corrupt(message))),
    }
}

impl<T: Message, M: Memory, P: Peers> Async<spsc::Producer<T, M, P>>
where
    spsc::Producer<T, M, P>: End,
{
    /// Sends `message`, waiting for room. Dropped before it is done, it has sent nothing.
    ///
    /// # Errors
    ///
    /// [`SendError`]; `Timeout` and `System` never.
    pub async fn push(&mut self, message: T) -> Result<(), SendError<T>> {
        self.until(|end| sent(end.try_push(message))).await
    }
}

impl<T: Message, M: Memory, P: Peers> Async<spsc::Consumer<T, M, P>>
where
    spsc::Consumer<T, M, P>: End,
{
    /// Takes a message, waiting for one. Dropped before it is done, it has taken nothing.
    ///
    /// # Errors
    ///
    /// [`RecvError`]; `Timeout` and `System` never.
    pub async fn pop(&mut self) -> Result<T, RecvError> {
        self.until(|end| received(end.try_pop())).await
    }
}

impl<M: Memory, P: Peers> Async<bytes::Producer<M, P>>
where
    bytes::Producer<M, P>: End,
{
    /// Sends a copy of `record`, waiting for room. Dropped before it is done, it has sent nothing.
    ///
    /// # Errors
    ///
    /// [`ReserveError`]; `Timeout` and `System` never.
    pub async fn push(&mut self, record: &[u8]) -> Result<(), ReserveError> {
        self.until(|end| match end.try_push(record) {
            Ok(()) => Some(Ok(())),
            Err(TryReserveError::Full) => None,
            Err(TryReserveError::TooLarge { max }) => Some(Err(ReserveError::TooLarge { max })),
            Err(TryReserveError::Disconnected) => Some(Err(ReserveError::Disconnected)),
            Err(TryReserveError::Corrupt) => Some(Err(ReserveError::Corrupt)),
        })
        .await
    }
}

impl<M: Memory, P: Peers> Async<bytes::Consumer<M, P>>
where
    bytes::Consumer<M, P>: End,
{
    /// The next record, waiting for one; it stays in the ring until it is released.
    ///
    /// # Errors
    ///
    /// [`RecvError`]; `Timeout` and `System` never.
    pub async fn peek(&mut self) -> Result<Record<'_, M, P>, RecvError> {
        let there = |end: &mut bytes::Consumer<M, P>| received(end.try_peek().map(drop));
        self.until(there).await?;
        Ok(self.get_mut().try_peek()?)
    }
}

impl<T: Message, M: Memory, P: Peers> Async<mpmc::Sender<T, M, P>>
where
    mpmc::Sender<T, M, P>: End,
{
    /// Sends `message`, waiting for room. Dropped before it is done, it has sent nothing.
    ///
    /// # Errors
    ///
    /// [`SendError`]; `Timeout` and `System` never.
    pub async fn send(&mut self, message: T) -> Result<(), SendError<T>> {
        self.until(|end| sent(end.try_send(message))).await
    }
}

impl<T: Message, M: Memory, P: Peers> Async<mpmc::Receiver<T, M, P>>
where
    mpmc::Receiver<T, M, P>: End,
{
    /// Receives a message, waiting for one. Dropped before it is done, it has taken nothing. To keep a message
    /// until it is worked on: [`ready`](Self::ready), then [`try_take`](mpmc::Receiver::try_take).
    ///
    /// # Errors
    ///
    /// [`RecvError`]; `Timeout` and `System` never.
    pub async fn recv(&mut self) -> Result<T, RecvError> {
        self.until(|end| received(end.try_recv())).await
    }
}

impl<T: Message, M: Memory, P: Peers> Async<broadcast::Sender<T, M, P>>
where
    broadcast::Sender<T, M, P>: End,
{
    /// Sends `message`, waiting for the slowest living lossless receiver. Dropped before it is done, it has
    /// sent nothing.
    ///
    /// # Errors
    ///
    /// [`SendError`]; `Timeout` and `System` never.
    pub async fn send(&mut self, message: T) -> Result<(), SendError<T>> {
        self.until(|end| sent(end.try_send(message))).await
    }
}

impl<T: Message, M: Memory, P: Peers> Async<broadcast::LosslessReceiver<T, M, P>>
where
    broadcast::LosslessReceiver<T, M, P>: End,
{
    /// Receives a message, waiting for one. Dropped before it is done, it has taken nothing.
    ///
    /// # Errors
    ///
    /// [`RecvError`]; `Timeout` and `System` never.
    pub async fn recv(&mut self) -> Result<T, RecvError> {
        self.until(|end| received(end.try_recv())).await
    }
}

impl<T: Message> Async<broadcast::Receiver<T>> {
    /// Receives a message, waiting for one. Dropped before it is done, it has taken nothing.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; `Timeout` and `System` never.
    pub async fn recv(&mut self) -> Result<T, ReadError> {
        self.until(|end| match end.try_recv() {
            Err(TryReadError::Empty) => None,
            other => Some(other.map_err(ReadError::from)),
        })
        .await
    }
}
