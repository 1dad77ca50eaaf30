//! The participants of a sweep's run: the harness attests deaths.
#![allow(dead_code)] // each sweep uses some of it

use multiprocess_core::{ParticipantId, Peers};
use multiprocess_testkit::{Control, Env, Role};

pub(crate) fn peers<'a>(env: &Env<'a>) -> InRun<'a> {
    InRun {
        role: env.role,
        control: env.control,
    }
}

#[derive(Clone, Copy)]
pub(crate) struct InRun<'a> {
    role: Role,
    control: &'a Control,
}

pub(crate) fn id(role: Role) -> ParticipantId {
    ParticipantId::new(role as u16, 1)
}

/// Dead since before the run began.
pub(crate) const LONG_DEAD: ParticipantId = ParticipantId::new(77, 1);

// SAFETY: dead is only who the harness has killed: a recoverer is, once a second one runs.
unsafe impl Peers for InRun<'_> {
    fn me(&self) -> ParticipantId {
        id(self.role)
    }
    fn is_dead(&self, participant: ParticipantId) -> bool {
        let of = |roles: &[Role]| roles.iter().any(|role| participant == id(*role));
        let before_us = match self.role {
            // The harness says that the victim is dead when its recoverer has done.
            Role::Recoverer => of(&[Role::Victim]),
            Role::Checker => of(&[
                Role::Rival,
                Role::Helper,
                Role::Recoverer,
                Role::SecondRecoverer,
            ]),
            Role::SecondRecoverer => of(&[Role::Victim, Role::Recoverer]),
            _ => false,
        };
        let victim = participant == id(Role::Victim) && self.control.victim_is_dead();
        participant == LONG_DEAD || victim || before_us
    }
    fn table(&self) -> u32 {
        1
    }
    fn share_pid_namespace(&self) -> bool {
        true
    }
}

#[derive(Clone, Copy)]
pub(crate) struct LongDead;

// SAFETY: it is the id of nobody.
unsafe impl Peers for LongDead {
    fn me(&self) -> ParticipantId {
        LONG_DEAD
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
