//! Semantics of `mpmc`, within one process.
#![cfg(all(not(loom), feature = "std"))]

use std::mem::forget;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use multiprocess_channel::mpmc::{self, Config, Orphans, Receiver, Ring, Sender, WaitDoneError};
use multiprocess_channel::{RecvError, SendError, TryRecvError, TrySendError};
use multiprocess_core::{AttachError, CreateError, Place, Region};
use multiprocess_testkit::watchdog::Watchdog;

type Ends = (Sender<u64>, Receiver<u64>);

/// Of 8 slots, for 4 endpoints.
fn small() -> Ends {
    mpmc::channel_with(&Config::new(8).endpoints(4)).unwrap()
}

#[test]
fn messages_come_in_order_and_full_and_empty_are_told() {
    let (mut sender, mut receiver) = small();
    for lap in 0..5 {
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert!(receiver.is_empty());
        for i in 0..8 {
            sender.try_send(lap * 10 + i).unwrap();
        }
        assert_eq!(sender.try_send(99), Err(TrySendError::Full(99)));
        assert_eq!((sender.len(), sender.capacity()), (8, 8));
        for i in 0..8 {
            assert_eq!(receiver.try_recv(), Ok(lap * 10 + i));
        }
    }
    let all = sender.statistics();
    assert_eq!((all.endpoints, all.messages, all.quarantines), (2, 80, 0));
    assert!(all.high_water >= 7, "{all:?}");
}

#[test]
fn one_step_takes_the_same_messages() {
    let (mut sender, mut receiver) = small();
    receiver.set_one_step(true);
    for i in 0..100 {
        sender.try_send(i).unwrap();
        assert_eq!(receiver.try_recv(), Ok(i));
    }
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn slices_go_as_far_as_there_is_room() {
    let (mut sender, mut receiver) = small();
    let out: Vec<u64> = (0..20).collect();
    assert_eq!(sender.try_send_slice(&out), Ok(8));
    assert_eq!(sender.try_send_slice(&out), Err(TrySendError::Full(())));
    let mut back = [0; 5];
    assert_eq!(receiver.try_recv_slice(&mut back), Ok(5));
    assert_eq!(back, [0, 1, 2, 3, 4]);
    assert_eq!(receiver.try_recv_slice(&mut back), Ok(3));
    assert_eq!(back[..3], [5, 6, 7]);
    assert_eq!(receiver.try_recv_slice(&mut back), Err(TryRecvError::Empty));
}

#[test]
fn a_message_in_hand_is_stepped_over_lap_after_lap() {
    let (mut sender, mut first) = small();
    let mut second = first.try_clone().unwrap();
    for i in 0..8 {
        sender.try_send(i).unwrap();
    }
    let held = first.try_take().unwrap();
    for i in 1..8 {
        assert_eq!(second.try_recv(), Ok(i));
    }
    // Its slot is passed over; seven are left.
    for lap in 0..100 {
        for i in 0..7 {
            sender.send_timeout(i, Duration::from_secs(20)).unwrap();
        }
        assert_eq!(sender.try_send(99), Err(TrySendError::Full(99)), "{lap}");
        for i in 0..7 {
            assert_eq!(second.try_recv(), Ok(i));
        }
    }
    assert_eq!(held.get(), 0);
    held.release();
    assert_eq!(second.try_recv(), Err(TryRecvError::Empty));
    // After at most a lap all eight are there again.
    for lap in 0..2 {
        let sent = (0..8).take_while(|&i| sender.try_send(i).is_ok()).count();
        assert!(sent == 8 || lap == 0, "{sent}");
        assert_eq!(second.drain().count(), sent);
    }
    assert!(sender.statistics().quarantines >= 1);
}

#[test]
fn a_message_that_is_given_up_goes_to_another_receiver_once() {
    let (mut sender, mut first) = small();
    let mut second = first.try_clone().unwrap();
    sender.send(1).unwrap();
    sender.send(2).unwrap();
    let taken = first.take().unwrap();
    assert_eq!(second.recv(), Ok(2));
    taken.give_up();
    assert_eq!(second.recv(), Ok(1));
    assert_eq!(second.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(first.try_recv(), Err(TryRecvError::Empty));
    for i in 0..30 {
        sender.try_send(i).unwrap();
        assert_eq!(first.try_recv(), Ok(i));
    }
}

#[test]
fn an_orphan_is_stepped_over_by_senders_and_found_in_its_place() {
    let (mut sender, mut first) = small();
    for i in 0..8 {
        sender.try_send(i).unwrap();
    }
    first.take().unwrap().give_up();
    // Nobody looks for orphans while messages come.
    let mut seen = Vec::new();
    for i in 8..40 {
        seen.push(first.recv().unwrap());
        sender.try_send(i).unwrap();
    }
    seen.extend(first.drain());
    seen.sort_unstable();
    assert_eq!(seen, (0..40).collect::<Vec<_>>());
}

#[test]
fn the_last_one_to_leave_disconnects_the_other_side() {
    let (mut sender, mut receiver) = small();
    let second = sender.try_clone().unwrap();
    sender.send(1).unwrap();
    drop(sender);
    assert!(!receiver.is_disconnected());
    drop(second);
    assert!(receiver.is_disconnected());
    assert_eq!(receiver.recv(), Ok(1));
    assert_eq!(receiver.recv(), Err(RecvError::Disconnected));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));

    // Somebody comes again.
    let home = receiver.memory().clone();
    let mut sender = Sender::<u64>::attach(home.clone(), home).unwrap();
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    sender.send(2).unwrap();
    assert_eq!(receiver.recv(), Ok(2));

    drop(receiver);
    assert!(sender.is_disconnected());
    assert_eq!(sender.try_send(3), Err(TrySendError::Disconnected(3)));
    assert_eq!(sender.send(3), Err(SendError::Disconnected(3)));
}

#[test]
fn a_closed_ring_is_emptied_and_then_disconnected() {
    let (mut sender, mut receiver) = small();
    sender.send(1).unwrap();
    receiver.close_ring();
    assert_eq!(sender.try_send(2), Err(TrySendError::Disconnected(2)));
    assert_eq!(receiver.try_recv(), Ok(1));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
}

#[test]
fn closing_wakes_who_sleeps() {
    let _watchdog = Watchdog::seconds(60);
    let (sender, mut receiver) = small();
    let mut second = receiver.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(receiver.recv(), Err(RecvError::Disconnected)));
        scope.spawn(|| assert_eq!(second.recv(), Err(RecvError::Disconnected)));
        std::thread::sleep(Duration::from_millis(30));
        drop(sender);
    });
}

#[test]
fn a_waiting_one_times_out_and_gets_what_came_meanwhile() {
    let (mut sender, mut receiver) = small();
    let start = Instant::now();
    let wait = Duration::from_millis(20);
    assert_eq!(receiver.recv_timeout(wait), Err(RecvError::Timeout));
    assert!(start.elapsed() >= wait);
    assert_eq!(
        receiver.recv_timeout(Duration::ZERO),
        Err(RecvError::Timeout)
    );
    for i in 0..8 {
        assert_eq!(sender.send_timeout(i, Duration::ZERO), Ok(()));
    }
    assert_eq!(sender.send_timeout(9, wait), Err(SendError::Timeout(9)));
    assert_eq!(receiver.recv_timeout(wait), Ok(0));
}

#[test]
fn absurd_configurations_are_refused_and_small_ones_rounded() {
    let refused = |config: Config| match Ring::<u64>::layout(&config) {
        Err(CreateError::Capacity { .. }) => {}
        other => panic!("{other:?}"),
    };
    refused(Config::new(0));
    refused(Config::new((1 << 40) + 1));
    refused(Config::new(8).endpoints(0));
    refused(Config::new(8).endpoints(8193));
    let (sender, _receiver) = mpmc::channel::<u64>(1).unwrap();
    assert_eq!(sender.capacity(), 64, "more than the 32 endpoints");
    assert!(mpmc::channel_with::<[u64; 16]>(&Config::new(1 << 40)).is_err());
}

#[test]
fn all_seats_taken_is_an_error_and_a_seat_given_back_is_had_again() {
    let (sender, receiver) = small();
    let third = sender.try_clone().unwrap();
    let fourth = receiver.try_clone().unwrap();
    assert!(sender.try_clone().is_err());
    drop(third);
    let again = receiver.try_clone().unwrap();
    assert!(sender.try_clone().is_err());
    drop((fourth, again));
    assert!(sender.try_clone().is_ok());
}

#[test]
fn garbage_is_refused() {
    #[repr(C, align(128))]
    struct Memory([u8; 8192]);
    let config = Config::new(8).endpoints(4);
    let size = Ring::<u64>::layout(&config).unwrap().size();
    let mut memory = Memory([0; 8192]);
    let mut with = |bytes: &mut dyn FnMut(&mut [u8]), len: usize| {
        let base = std::ptr::NonNull::from(&mut memory.0).cast();
        // SAFETY: the array is ours, and accessed through the ring until `bytes` is called.
        let region = unsafe { Region::new(base, size) };
        // SAFETY: as above.
        unsafe { Ring::<u64>::init(region, &config).unwrap() };
        bytes(&mut memory.0);
        Ring::<u64>::attach(region.sub(0, len).unwrap())
    };
    assert!(with(&mut |_| (), size).is_ok());
    let short = with(&mut |_| (), size - 1);
    assert!(
        matches!(short, Err(AttachError::Truncated { .. })),
        "{short:?}"
    );
    let magic = with(&mut |bytes| bytes[0] ^= 1, size);
    assert!(
        matches!(magic, Err(AttachError::BadMagic { .. })),
        "{magic:?}"
    );
    let kind = with(&mut |bytes| bytes[0x0c] = 1, size);
    assert!(matches!(kind, Err(AttachError::Layout { .. })), "{kind:?}");
    for (offset, value) in [(0x10, 7), (0x17, 0xff), (0x20, 0), (0x20, 8), (0x23, 0xff)] {
        let corrupt = with(&mut |bytes| bytes[offset] = value, size);
        let told = matches!(
            corrupt,
            Err(AttachError::Corrupt { .. } | AttachError::Truncated { .. })
        );
        assert!(told, "{offset:#x} {corrupt:?}");
    }
}

/// Three senders and three receivers on a small ring: every message once, each sender's in order.
fn many(config: Config, one_step: bool, naps: bool) {
    let _watchdog = Watchdog::seconds(120);
    const EACH: u64 = 40_000;
    let (sender, receiver) = mpmc::channel_with::<[u64; 2]>(&config).unwrap();
    let sum = AtomicU64::new(0);
    let count = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for number in 0..3 {
            let mut sender = sender.try_clone().unwrap();
            scope.spawn(move || {
                for i in 0..EACH {
                    sender.send([number, i]).unwrap();
                    if naps && i % 5000 == 0 {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
        }
        for _ in 0..3 {
            let mut receiver = receiver.try_clone().unwrap();
            receiver.set_one_step(one_step);
            let (sum, count) = (&sum, &count);
            scope.spawn(move || {
                let mut last = [None; 3];
                for [number, i] in receiver.iter() {
                    let last = &mut last[number as usize];
                    assert!(last.is_none_or(|last| last < i), "out of order");
                    *last = Some(i);
                    sum.fetch_add(i, Relaxed);
                    count.fetch_add(1, Relaxed);
                }
            });
        }
        drop((sender, receiver));
    });
    assert_eq!(count.into_inner(), 3 * EACH);
    assert_eq!(sum.into_inner(), 3 * (EACH * (EACH - 1) / 2));
}

#[test]
fn nothing_is_lost_among_many() {
    many(Config::new(64).endpoints(8), false, false);
}

#[test]
fn nothing_is_lost_among_many_on_a_ring_that_is_nearly_always_full() {
    many(Config::new(9).endpoints(8), false, true);
}

#[test]
fn nothing_is_lost_in_one_step() {
    many(Config::new(16).endpoints(8), true, true);
}

/// As `many`, with messages of one word, which may be sent and taken in one step each.
fn many_words(at_once: [bool; 2]) {
    let _watchdog = Watchdog::seconds(120);
    const EACH: u64 = 100_000;
    let config = Config::new(16).endpoints(8).starting_at((1 << 48) - 1000);
    let (sender, receiver) = mpmc::channel_with::<u64>(&config).unwrap();
    let counts: [AtomicU64; 2] = Default::default();
    std::thread::scope(|scope| {
        for number in 0..3 {
            let mut sender = sender.try_clone().unwrap();
            sender.set_one_step(at_once[0] || number == 2);
            scope.spawn(move || (0..EACH).for_each(|i| sender.send(number << 32 | i).unwrap()));
        }
        for number in 0..3 {
            let mut receiver = receiver.try_clone().unwrap();
            receiver.set_one_step(at_once[1] || number == 2);
            let [count, sum] = &counts;
            scope.spawn(move || {
                let mut last = [None; 3];
                for message in receiver.iter() {
                    let (number, i) = (message >> 32, message & 0xffff_ffff);
                    let last = &mut last[number as usize];
                    assert!(last.is_none_or(|last| last < i), "out of order");
                    *last = Some(i);
                    sum.fetch_add(i, Relaxed);
                    count.fetch_add(1, Relaxed);
                }
            });
        }
        drop((sender, receiver));
    });
    let [count, sum] = counts.map(AtomicU64::into_inner);
    assert_eq!(count, 3 * EACH);
    assert_eq!(sum, 3 * (EACH * (EACH - 1) / 2));
}

#[test]
fn words_sent_and_taken_at_once_or_in_steps_are_all_there() {
    for at_once in [[true, true], [true, false], [false, true], [false, false]] {
        many_words(at_once);
    }
}

#[test]
fn tickets_wrap() {
    many(
        Config::new(16).endpoints(8).starting_at((1 << 48) - 1000),
        false,
        false,
    );
}

#[test]
fn a_forgotten_message_keeps_its_slot_and_no_more() {
    let (mut sender, mut receiver) = small();
    sender.send(1).unwrap();
    forget(receiver.take().unwrap());
    for i in 0..100 {
        sender.send_timeout(i, Duration::from_secs(20)).unwrap();
        assert_eq!(receiver.try_recv(), Ok(i));
    }
}

#[test]
fn what_a_ring_drops_it_drops_for_the_dead_only() {
    let (mut sender, mut receiver) =
        mpmc::channel_with::<u64>(&Config::new(8).endpoints(4).orphans(Orphans::Drop)).unwrap();
    assert_eq!(receiver.orphans(), Orphans::Drop);
    sender.send(1).unwrap();
    receiver.take().unwrap().give_up();
    assert_eq!(receiver.recv(), Ok(1));
}

#[test]
fn a_limit_is_exact_and_does_not_count_what_was_taken() {
    let config = Config::new(2).limit(2).endpoints(4);
    let (mut sender, mut receiver) = mpmc::channel_with::<u64>(&config).unwrap();
    assert!(sender.capacity() > 2);
    for lap in 0..20 {
        sender.try_send(lap).unwrap();
        sender.try_send(lap).unwrap();
        assert_eq!(sender.try_send(9), Err(TrySendError::Full(9)), "{lap}");
        let taken = receiver.try_take().unwrap();
        assert_eq!(taken.get(), lap);
        sender.try_send(lap).unwrap();
        assert_eq!(sender.try_send(9), Err(TrySendError::Full(9)), "{lap}");
        taken.release();
        assert_eq!(receiver.drain().count(), 2);
    }
}

#[test]
fn a_sender_at_the_limit_wakes_when_a_message_is_taken() {
    let _watchdog = Watchdog::seconds(60);
    let config = Config::new(1).limit(1).endpoints(4);
    let (mut sender, mut receiver) = mpmc::channel_with::<u64>(&config).unwrap();
    sender.send(1).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || sender.send(2));
        std::thread::sleep(Duration::from_millis(20));
        let taken = receiver.take().unwrap();
        assert_eq!(thread.join().unwrap(), Ok(()));
        taken.release();
    });
    assert_eq!(receiver.try_recv(), Ok(2));
}

#[test]
fn a_joiner_waits_for_what_is_in_hand_and_learns_that_nobody_is_left() {
    let _watchdog = Watchdog::seconds(60);
    let wait = Duration::from_millis(10);
    let config = Config::new(8).endpoints(4).joinable();
    let (mut sender, mut receiver) = mpmc::channel_with::<u64>(&config).unwrap();
    assert_eq!(sender.join(None), Ok(()));
    sender.send(1).unwrap();
    assert_eq!(sender.join(wait), Err(WaitDoneError::Timeout));
    let taken = receiver.take().unwrap();
    assert_eq!(sender.join(wait), Err(WaitDoneError::Timeout));
    std::thread::scope(|scope| {
        let waiting = sender.try_clone().unwrap();
        let joiner = scope.spawn(move || waiting.join(None));
        std::thread::sleep(Duration::from_millis(20));
        taken.release();
        assert_eq!(joiner.join().unwrap(), Ok(()));
    });
    sender.send(2).unwrap();
    drop(receiver);
    assert_eq!(sender.join(None), Err(WaitDoneError::Abandoned));

    let (plain, _receiver) = small();
    assert_eq!(plain.join(None), Err(WaitDoneError::NotJoinable));
}

#[test]
fn several_rings_and_an_event_are_waited_for_at_once() {
    use multiprocess_sync::{Event, Source, WaitError, wait_any};

    let _watchdog = Watchdog::seconds(60);
    let (mut to_first, mut first) = small();
    let (to_second, mut second) = small();
    let stop = Event::new();
    let wait = Duration::from_millis(5);
    let any = |first: &Receiver<u64>, second: &Receiver<u64>, timeout| {
        let sources: [&dyn Source; 3] = [first, second, &stop];
        wait_any(&sources, timeout)
    };
    assert_eq!(any(&first, &second, Some(wait)), Err(WaitError::Timeout));
    std::thread::scope(|scope| {
        let mut sender = to_second.try_clone().unwrap();
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            sender.send(1).unwrap();
        });
        assert_eq!(any(&first, &second, None), Ok(1));
    });
    assert_eq!(second.try_recv(), Ok(1));
    to_first.send(2).unwrap();
    assert_eq!(any(&first, &second, None), Ok(0));
    assert_eq!(first.try_recv(), Ok(2));
    drop(to_second);
    assert_eq!(any(&first, &second, None), Ok(1), "disconnected");
    assert_eq!(second.try_recv(), Err(TryRecvError::Disconnected));
}
