//! `spsc` and `bytes`, killed, stopped and preempted at every instruction: push, take, pop, the
//! blocking forms with a sleeping peer, close; batches; a successor that attaches.
//!
//! Shown to fail (`.ci/mutants`): the index published before the message is written, or before all of a
//! batch are, a batch published one by one, the slot given back before it is read, a close that is not recorded, a sleep without an inner bound.
#![cfg(all(not(loom), target_os = "linux"))]

mod batches;
mod harness;
#[path = "../common/in_run.rs"]
mod in_run;
mod rings;

use batches::{Batch, batch_swept};
use harness::{Op, swept};
use rings::{Bytes, Spsc};

macro_rules! sweeps {
    ($($name:ident: $op:expr;)* -- $($batch:ident: $what:expr;)*) => {
        mod spsc {
            use super::*;
            $(#[test] fn $name() { swept::<Spsc>($op); })*
            $(#[test] fn $batch() { batch_swept::<Spsc>($what); })*
        }
        mod bytes {
            use super::*;
            $(#[test] fn $name() { swept::<Bytes>($op); })*
            $(#[test] fn $batch() { batch_swept::<Bytes>($what); })*
        }
    };
}

sweeps! {
    push_into_an_empty_ring: Op::Push { before: 0 };
    push_across_the_wrap: Op::Push { before: 2 };
    push_into_a_full_ring: Op::Push { before: 4 };
    take_and_release: Op::Take { before: 2 };
    take_from_a_full_ring: Op::Take { before: 4 };
    pop_by_value: Op::Pop { before: 2 };
    take_from_an_empty_ring: Op::Take { before: 0 };
    push_with_a_sleeping_consumer: Op::PushToSleeper;
    push_is_noticed_without_a_wake: Op::PushToSleeperAlone;
    take_with_a_sleeping_producer: Op::TakeWithSleeper;
    wait_for_a_message: Op::WaitForMessage;
    wait_for_room: Op::WaitForRoom;
    close_with_a_sleeping_consumer: Op::CloseProducer;
    close_with_a_sleeping_producer: Op::CloseConsumer;
    --
    batch_into_an_empty_ring: Batch::Push { before: 0 };
    batch_with_room_for_two_of_three: Batch::Push { before: 2 };
    batch_out_of_a_ring: Batch::Take { before: 3 };
    batch_out_of_an_empty_ring: Batch::Take { before: 0 };
    attach_in_place_of_the_dead: Batch::Attach;
}
