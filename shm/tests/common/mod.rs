//! What several tests share.
#![allow(dead_code)] // each uses some of it

use multiprocess_core::{ParticipantId, Peers};
use multiprocess_testkit::{Control, Env, Role};

/// A participant by decree, none of whose peers dies.
pub(crate) struct Decreed(pub(crate) u16);

// SAFETY: nobody dies, and the ids are the test's own.
unsafe impl Peers for Decreed {
    fn me(&self) -> ParticipantId {
        match self.0 {
            0 => ParticipantId::ANONYMOUS,
            slot => ParticipantId::new(slot, 1),
        }
    }

    fn is_dead(&self, _: ParticipantId) -> bool {
        false
    }

    fn table(&self) -> u32 {
        1
    }

    fn share_pid_namespace(&self) -> bool {
        true
    }
}

/// A participant of a sweep's run: the harness attests deaths.
pub(crate) struct InRun<'a> {
    role: Role,
    control: &'a Control,
}

/// A participant of a sweep's run that died before it.
pub(crate) const GHOST: u16 = 9;

pub(crate) fn peers<'a>(env: &Env<'a>) -> InRun<'a> {
    InRun {
        role: env.role,
        control: env.control,
    }
}

pub(crate) fn id(role: Role) -> ParticipantId {
    ParticipantId::new(role as u16, 1)
}

// SAFETY: dead is only who the harness has killed: a recoverer is, once a second one runs.
unsafe impl Peers for InRun<'_> {
    fn me(&self) -> ParticipantId {
        id(self.role)
    }

    fn is_dead(&self, participant: ParticipantId) -> bool {
        let victim = participant == id(Role::Victim) && self.control.victim_is_dead();
        // Whoever judges comes after all others; a second recoverer after the first.
        let others = match self.role {
            Role::Checker => [
                Role::Rival,
                Role::Helper,
                Role::Recoverer,
                Role::SecondRecoverer,
            ]
            .iter()
            .any(|role| participant == id(*role)),
            Role::SecondRecoverer => participant == id(Role::Recoverer),
            _ => false,
        };
        victim || others || participant == ParticipantId::new(GHOST, 1)
    }

    fn table(&self) -> u32 {
        1
    }

    fn share_pid_namespace(&self) -> bool {
        true
    }
}

/// Small and fast.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
