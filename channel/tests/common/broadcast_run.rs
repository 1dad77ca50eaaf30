//! Who shares a broadcast ring in a run of a sweep.

use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use multiprocess_channel::broadcast::{
    Config as Shape, LosslessReceiver, Receiver, Ring, Sender, Start,
};
use multiprocess_core::{ParticipantId, Peers, Place, Region, View};
use multiprocess_testkit::{Control, Env, Role};

pub(crate) const SHAPE: Shape = Shape::new(4).readers(2);
/// Where the tail lies (channel/README.md).
const TAIL: usize = 0x80;

pub(crate) type Words = [u64; 3];

pub(crate) fn words(number: u64) -> Words {
    std::array::from_fn(|i| {
        number
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(i as u32)
    })
}

/// Panics, which is a violation, if the message is torn.
pub(crate) fn number(words: &Words) -> u64 {
    let number = words[0].wrapping_mul(0xf1de_83e1_9937_733d);
    assert_eq!(*words, self::words(number), "torn");
    number
}

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
            Role::Checker => of(&[
                Role::Rival,
                Role::Helper,
                Role::Recoverer,
                Role::SecondRecoverer,
            ]),
            Role::SecondRecoverer => of(&[Role::Recoverer]),
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

pub(crate) fn region<'a>(env: &Env<'a>) -> Region<'a> {
    let size = Ring::<Words>::layout(&SHAPE).unwrap().size();
    // SAFETY: as large as `size` says, mapped as long as the run lasts, accessed through rings only.
    unsafe { Region::new(NonNull::new(env.segment).unwrap(), size) }
}

pub(crate) fn peers<'a>(env: &Env<'a>) -> InRun<'a> {
    InRun {
        role: env.role,
        control: env.control,
    }
}

pub(crate) type Tx<'a> = Sender<Words, Region<'a>, InRun<'a>>;
pub(crate) type Rx<'a> = LosslessReceiver<Words, Region<'a>, InRun<'a>>;

pub(crate) fn sender<'a>(env: &Env<'a>) -> Tx<'a> {
    // SAFETY: nobody else sends when this is called: the former one is dead, or has forgotten that it
    // was.
    let mut sender = unsafe { Sender::take_over(region(env), peers(env)).unwrap() };
    sender.set_spin_cap(0);
    sender
}

pub(crate) fn lossless<'a>(env: &Env<'a>) -> Rx<'a> {
    let mut receiver = LosslessReceiver::attach(region(env), peers(env)).unwrap();
    receiver.set_spin_cap(0);
    receiver
}

pub(crate) fn lossy<'a>(env: &Env<'a>, start: Start) -> Receiver<Words, View<'a>> {
    Receiver::attach(View::from(region(env)), start).unwrap()
}

pub(crate) fn tail<'a>(env: &Env<'a>) -> &'a AtomicU64 {
    // SAFETY: inside the region, aligned, accessed atomically by all.
    unsafe { region(env).base().add(TAIL).cast::<AtomicU64>().as_ref() }
}
