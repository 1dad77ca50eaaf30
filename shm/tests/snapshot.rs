//! `Snapshot`: whole values, whoever stands in the middle of writing one.
#![cfg(all(not(loom), target_os = "linux"))]

use std::alloc::Layout;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use multiprocess_core::{AttachError, Memory, ParticipantId, Peers, Region, ShmSafe, View};
use multiprocess_shm::{
    Mapping, Options, Participants, ReadOnlySegment, Segment, Shared, Snapshot, SnapshotError,
    SnapshotReader,
};
use multiprocess_testkit::watchdog::Watchdog;

/// Alone in the world, under an id of one's own choice.
struct Alone(ParticipantId);

// SAFETY: nobody dies, and the ids are this process's own.
unsafe impl Peers for Alone {
    fn me(&self) -> ParticipantId {
        self.0
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

const ME: Alone = Alone(ParticipantId::new(1, 1));

#[test]
fn what_was_written_last_is_read() {
    let snapshot = Snapshot::new([1u64, 2]);
    assert_eq!(snapshot.read(), Ok([1, 2]));
    for i in 0..5 {
        snapshot.write(&ME, [i, i + 1], None).unwrap();
        assert_eq!(snapshot.read(), Ok([i, i + 1]));
        assert_eq!(snapshot.reader().number(), i + 1);
    }
    snapshot.update(&ME, |[a, b]| [b, a], None).unwrap();
    assert_eq!(snapshot.reader().read_numbered(), Ok((6, [5, 4])));
    assert_eq!(format!("{snapshot:?}"), "Snapshot(Ok([5, 4]))");
}

#[test]
fn zeroes_are_a_snapshot_of_zeroes() {
    let mut bytes = [std::mem::MaybeUninit::new(0u8); 256];
    let offset = bytes.as_ptr().align_offset(8);
    let region = Region::from_uninit(&mut bytes[offset..]);
    let reader = SnapshotReader::<[u32; 5]>::attach(View::from(region)).unwrap();
    assert_eq!(reader.read(), Ok([0; 5]));
}

#[test]
fn too_few_or_misaligned_bytes_are_refused() {
    let mut bytes = [std::mem::MaybeUninit::new(0u8); 256];
    let offset = bytes.as_ptr().align_offset(8);
    let size = size_of::<Snapshot<[u64; 4]>>();
    let short = Region::from_uninit(&mut bytes[offset..offset + size - 1]);
    assert!(matches!(
        SnapshotReader::<[u64; 4]>::attach(short.into()).unwrap_err(),
        AttachError::Truncated { need: 80, have: 79 }
    ));
    let crooked = Region::from_uninit(&mut bytes[offset + 1..]);
    assert!(matches!(
        SnapshotReader::<[u64; 4]>::attach(crooked.into()).unwrap_err(),
        AttachError::Misaligned { need: 8 }
    ));
}

#[test]
fn the_anonymous_may_not_write_and_nothing_changes() {
    let nobody = Alone(ParticipantId::ANONYMOUS);
    let snapshot = Snapshot::new(7u32);
    let refused = snapshot.write(&nobody, 8, None);
    assert_eq!(refused, Err(SnapshotError::NotAParticipant));
    assert_eq!(snapshot.reader().read_numbered(), Ok((0, 7)));
}

#[test]
fn a_writer_in_the_middle_keeps_other_writers_waiting_and_no_reader() {
    let _watchdog = Watchdog::seconds(60);
    let snapshot = Snapshot::new(1u64);
    let other = Alone(ParticipantId::new(2, 1));
    snapshot
        .update(
            &ME,
            |value| {
                assert_eq!(snapshot.read(), Ok(1));
                let refused = snapshot.write(&other, 9, Duration::from_millis(5));
                assert_eq!(refused, Err(SnapshotError::Timeout));
                value + 1
            },
            None,
        )
        .unwrap();
    assert_eq!(snapshot.read(), Ok(2));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        snapshot.update(&ME, |_| panic!("no value"), None)
    }));
    assert!(panicked.is_err());
    assert_eq!(snapshot.read(), Ok(2));
    snapshot.write(&other, 3, None).unwrap();
    assert_eq!(snapshot.read(), Ok(3));
}

#[test]
fn readers_of_one_writer_map_read_only_and_wait() {
    let _watchdog = Watchdog::seconds(60);
    type Rates = Snapshot<[u64; 8]>;
    let layout = Layout::new::<Rates>();
    let options = Options::new().one_writer(true).populated(true);
    let made = Segment::create_with(&options, Rates::LAYOUT, layout, |bytes| {
        bytes.check(layout)?;
        // SAFETY: large enough and aligned; nobody else knows of it.
        unsafe { bytes.base().cast::<Rates>().write(Snapshot::new([7; 8])) };
        Ok(())
    })
    .unwrap();
    // SAFETY: just made there; all access is by atomics.
    let rates: &Rates = unsafe { made.payload().base().cast().as_ref() };
    let fd = || made.as_fd().try_clone_to_owned().unwrap();
    assert_eq!(
        Segment::attach(fd(), Rates::LAYOUT).unwrap_err(),
        AttachError::ReadOnly
    );
    let segment = ReadOnlySegment::attach(fd(), Rates::LAYOUT).unwrap();
    let reader = SnapshotReader::<[u64; 8]>::attach(segment.payload()).unwrap();
    assert_eq!(reader.read_numbered(), Ok((0, [7; 8])));
    let timeout = Duration::from_millis(5);
    assert_eq!(
        reader.wait_changed(0, timeout).unwrap_err(),
        SnapshotError::Timeout
    );
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| reader.wait_changed(0, None));
        rates.write(&ME, [8; 8], None).unwrap();
        rates.wake();
        assert_eq!(waiting.join().unwrap(), Ok((1, [8; 8])));
    });
}

#[test]
fn no_reader_ever_sees_two_halves() {
    let _watchdog = Watchdog::seconds(120);
    let snapshot = Snapshot::new([0u64; 32]);
    let (seen, written) = (AtomicU64::new(0), AtomicU64::new(0));
    let running = AtomicU64::new(2);
    std::thread::scope(|scope| {
        let (snapshot, seen, written, running) = (&snapshot, &seen, &written, &running);
        scope.spawn(move || {
            let mut last = 0;
            while running.load(Relaxed) > 0 {
                if let Ok(value) = snapshot.read() {
                    assert!(value.iter().all(|word| *word == value[0]), "{value:?}");
                    assert!(value[0] >= last, "back from {last} to {}", value[0]);
                    last = value[0];
                    seen.fetch_add(1, Relaxed);
                }
            }
        });
        for slot in [1, 2] {
            let writer = Alone(ParticipantId::new(slot, 1));
            scope.spawn(move || {
                // Until the reader has had its turn, too, on however few processors.
                let mut round = 0;
                while round < 50_000 || seen.load(Relaxed) < 100 {
                    let add = |value: [u64; 32]| value.map(|word| word + 1);
                    snapshot.update(&writer, add, None).unwrap();
                    written.fetch_add(1, Relaxed);
                    round += 1;
                }
                running.fetch_sub(1, Relaxed);
            });
        }
    });
    let all = written.load(Relaxed);
    assert_eq!(snapshot.read(), Ok([all; 32]), "no update is lost");
}

#[test]
fn it_travels_as_a_shared_value() {
    let table = Participants::new(2).unwrap();
    let me = table.join().unwrap();
    let shared = Shared::new(Snapshot::new(1.5f64)).unwrap();
    let fd = shared.as_fd().try_clone_to_owned().unwrap();
    let attached = Shared::<Snapshot<f64>>::attach(fd).unwrap();
    shared.write(&me, 2.5, None).unwrap();
    assert_eq!(attached.read(), Ok(2.5));
}

/// The word of the turn, behind the segment's header and the sequence.
const TURN: usize = 128 + 8;

#[test]
fn garbage_in_the_turn_is_told_and_not_waited_for() {
    let _watchdog = Watchdog::seconds(60);
    let table = Participants::new(2).unwrap();
    let me = table.join().unwrap();
    let shared = Shared::new(Snapshot::new([1u64; 4])).unwrap();
    let peer = Mapping::attach(shared.as_fd().try_clone_to_owned().unwrap()).unwrap();
    // SAFETY: inside the mapping and aligned; all access is by atomics.
    let turn: &AtomicU64 = unsafe { peer.region().base().add(TURN).cast().as_ref() };
    // Stray bits above a living holder, above none, and holders in slots that there are not.
    let mine = u64::from(me.me().bits());
    for garbage in [u64::MAX, 1 << 40 | mine, 1 << 33, 0x1_ea60, 1 << 32 | 2] {
        turn.store(garbage, Relaxed);
        let refused = shared.write(&me, [2; 4], None);
        assert_eq!(refused, Err(SnapshotError::Corrupt), "{garbage:#x}");
        assert_eq!(turn.load(Relaxed), garbage);
        assert_eq!(shared.read(), Ok([1; 4]));
    }
    // That somebody may sleep is said of a free one too often, and heals.
    turn.store(1 << 32, Relaxed);
    assert_eq!(shared.write(&me, [2; 4], None), Ok(()));
}

#[test]
fn an_update_inside_an_update_gets_no_turn() {
    let snapshot = Snapshot::new(1u64);
    let inside = |value| {
        let refused = snapshot.write(&ME, 7, Duration::from_millis(1));
        assert_eq!(refused, Err(SnapshotError::Timeout));
        assert_eq!(snapshot.read(), Ok(1));
        value + 1
    };
    snapshot.update(&ME, inside, None).unwrap();
    assert_eq!(snapshot.read(), Ok(2));
}

/// A writer of another table took the id in the turn for one of its own, which was dead.
#[test]
fn a_writer_of_another_table_judges_nobody() {
    let [one, other] = [(); 2].map(|()| Participants::new(4).unwrap());
    // Number 1 of one table lives, of the other it is dead: nobody has been it.
    let (_first, writer) = (one.join().unwrap(), one.join().unwrap());
    let stranger = other.join().unwrap();
    let value = Snapshot::new(1_u64);
    let change = |now| {
        let wait = Duration::from_millis(80);
        assert_eq!(value.write(&stranger, 7, wait), Err(SnapshotError::Corrupt));
        now + 1
    };
    value.update(&writer, change, None).unwrap();
    assert_eq!(value.read(), Ok(2));
    value.write(&stranger, 3, None).unwrap();
    assert_eq!(value.read(), Ok(3));
}
