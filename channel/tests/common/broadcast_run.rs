//! Who shares a broadcast ring in a run of a sweep.

use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use multiprocess_channel::broadcast::{
    Config as Shape, LosslessReceiver, Receiver, Ring, Sender, Start,
};
use multiprocess_core::{Place, Region, View};
use multiprocess_testkit::Env;

#[path = "in_run.rs"]
mod in_run;
pub(crate) use in_run::{InRun, LongDead, peers};

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

pub(crate) fn region<'a>(env: &Env<'a>) -> Region<'a> {
    let size = Ring::<Words>::layout(&SHAPE).unwrap().size();
    // SAFETY: as large as `size` says, mapped as long as the run lasts, accessed through rings only.
    unsafe { Region::new(NonNull::new(env.segment).unwrap(), size) }
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
