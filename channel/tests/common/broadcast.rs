//! Who shares a broadcast ring in tests, and what it lies in.
#![allow(dead_code)]

use multiprocess_channel::broadcast::{LosslessReceiver, ReadMemory, Receiver, Sender, Start};
use multiprocess_core::{Memory, ParticipantId, Peers, Region, View};

use crate::common::Heap;

/// A participant by number; those from 90 on are dead.
#[derive(Clone, Copy)]
pub(crate) struct Process(pub(crate) u16);

// SAFETY: those from 90 on run no more when others ask.
unsafe impl Peers for Process {
    fn me(&self) -> ParticipantId {
        ParticipantId::new(self.0, 1)
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        participant.slot() >= 90
    }
    fn table(&self) -> u32 {
        1
    }
    fn share_pid_namespace(&self) -> bool {
        true
    }
}

/// Memory that a receiver may write, or may not.
pub(crate) struct Shared(pub(crate) Heap, pub(crate) bool);

// SAFETY: as `Heap` for `Memory`.
unsafe impl ReadMemory for Shared {
    fn view(&self) -> View<'_> {
        self.0.region().into()
    }
    fn region(&self) -> Option<Region<'_>> {
        self.1.then(|| self.0.region())
    }
}

pub(crate) fn sender(heap: &Heap) -> Sender<u64, Heap, Process> {
    Sender::attach(heap.clone(), Process(1)).unwrap()
}

pub(crate) fn lossy(heap: &Heap, start: Start) -> Receiver<u64, Shared> {
    Receiver::attach(Shared(heap.clone(), false), start).unwrap()
}

pub(crate) fn lossless(heap: &Heap, number: u16) -> LosslessReceiver<u64, Heap, Process> {
    LosslessReceiver::attach(heap.clone(), Process(number)).unwrap()
}
