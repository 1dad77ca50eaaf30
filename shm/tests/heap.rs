//! `Heap`: shared values, their names, and who has them.
#![cfg(all(feature = "std", not(loom), target_os = "linux"))]

mod common;

use std::os::fd::AsFd;
use std::sync::Barrier;
use std::time::Duration;

use common::Random;
use multiprocess_core::atomic::{AtomicU64, Ordering::Relaxed};
use multiprocess_core::{AttachError, Memory, Peers};
use multiprocess_shm::{
    AllocError, Counted, DIRECTORY, Heap, HeapConfig, HeapError, MAX_KEY, Mapping, Named,
    NamedError, list,
};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

fn heap() -> Heap {
    Heap::new(&HeapConfig::default()).unwrap()
}

/// The same heap, as another participant.
fn other(heap: &Heap) -> Heap {
    Heap::attach(heap.as_fd().try_clone_to_owned().unwrap()).unwrap()
}

#[test]
fn absurd_sizes_are_refused() {
    let good = HeapConfig::default();
    for config in [
        HeapConfig {
            participants: 0,
            ..good
        },
        HeapConfig {
            participants: 1025,
            ..good
        },
        HeapConfig { objects: 0, ..good },
        HeapConfig {
            objects: (1 << 16) + 1,
            ..good
        },
        HeapConfig { bytes: 0, ..good },
        HeapConfig {
            bytes: u64::MAX,
            ..good
        },
    ] {
        let refused = Heap::new(&config).unwrap_err();
        assert!(
            matches!(refused, HeapError::Create(_)),
            "{config:?}: {refused:?}"
        );
    }
}

#[test]
fn a_value_lives_as_long_as_somebody_has_it() {
    let mine = heap();
    let theirs = other(&mine);
    let value = mine.share(AtomicU64::new(7)).unwrap();
    let token = value.token();
    let same: Counted<AtomicU64> = theirs.by_token(token).unwrap();
    let clone = same.try_clone().unwrap();
    assert!(Counted::ptr_eq(&same, &clone));
    drop((value, same));
    assert_eq!(mine.statistics().blocks, 1);
    assert_eq!(clone.fetch_add(1, Relaxed), 7);
    let again: Counted<AtomicU64> = mine.by_token(token).unwrap();
    drop(clone);
    assert_eq!(again.load(Relaxed), 8);
    drop(again);
    assert_eq!(mine.statistics().blocks, 0);
    let gone = mine.by_token::<AtomicU64>(token);
    assert_eq!(gone.err(), Some(HeapError::NotFound));
    // Nor is its counter's next life taken for it.
    let _next = mine.share(AtomicU64::new(1)).unwrap();
    assert_eq!(
        mine.by_token::<AtomicU64>(token).err(),
        Some(HeapError::NotFound)
    );
    for token in [0, 1, u64::MAX] {
        assert_eq!(
            mine.by_token::<AtomicU64>(token).err(),
            Some(HeapError::NotFound)
        );
    }
}

#[test]
fn names_lead_to_one_value() {
    let mine = heap();
    let theirs = other(&mine);
    assert_eq!(mine.find::<u64>("a").err(), Some(HeapError::NotFound));
    let made = mine.create("a", AtomicU64::new(1)).unwrap();
    assert_eq!(
        theirs.create("a", AtomicU64::new(2)).err(),
        Some(HeapError::Exists)
    );
    let found = theirs
        .find_or_create("a", || -> AtomicU64 { panic!("it is there") })
        .unwrap();
    found.store(5, Relaxed);
    assert_eq!(made.load(Relaxed), 5);
    assert!(matches!(
        theirs.find::<[u64; 2]>("a"),
        Err(HeapError::OtherType { .. })
    ));
    assert!(matches!(
        theirs.find_or_create("a", || [0u64; 2]),
        Err(HeapError::OtherType { .. })
    ));
    drop((made, found));
    // The directory has it.
    assert_eq!(mine.find::<AtomicU64>("a").unwrap().load(Relaxed), 5);
    let keys: Vec<String> = mine.objects().map(|object| object.key).collect();
    assert_eq!(keys, ["a"]);

    let kept = mine.find::<AtomicU64>("a").unwrap();
    theirs.remove("a").unwrap();
    assert_eq!(theirs.remove("a"), Err(HeapError::NotFound));
    assert_eq!(mine.find::<AtomicU64>("a").err(), Some(HeapError::NotFound));
    assert_eq!(kept.load(Relaxed), 5, "who has it keeps it");
    drop(kept);
    assert_eq!(mine.statistics().blocks, 0);
    assert_eq!(mine.objects().count(), 0);
}

#[test]
fn what_is_borrowed_stays_until_the_borrower_leaves_the_heap() {
    let mine = heap();
    let theirs = other(&mine);
    assert_eq!(mine.get::<u64>("a").err(), Some(HeapError::NotFound));
    drop(mine.create("a", AtomicU64::new(1)).unwrap());
    let borrowed: &AtomicU64 = theirs.get("a").unwrap();
    assert!(std::ptr::eq(borrowed, theirs.get("a").unwrap()));
    assert!(matches!(
        theirs.get::<[u64; 2]>("a"),
        Err(HeapError::OtherType { .. })
    ));
    // Removed, and made anew: the new one is found, and the old one is still there.
    mine.remove("a").unwrap();
    assert_eq!(
        theirs.get::<AtomicU64>("a").err(),
        Some(HeapError::NotFound)
    );
    drop(mine.create("a", AtomicU64::new(2)).unwrap());
    assert_eq!(theirs.get::<AtomicU64>("a").unwrap().load(Relaxed), 2);
    assert_eq!(borrowed.load(Relaxed), 1);
    mine.remove("a").unwrap();
    mine.recover();
    assert_eq!(mine.statistics().blocks, 2);
    // A handle of any kind keeps the heap.
    let counted = theirs.share(3u64).unwrap();
    drop(theirs);
    assert_eq!(mine.statistics().blocks, 3);
    drop(counted);
    assert_eq!(mine.statistics().blocks, 0);
}

#[test]
fn threads_that_borrow_at_once_count_once() {
    for _ in 0..200 {
        let mine = heap();
        let theirs = other(&mine);
        drop(mine.create("a", AtomicU64::new(0)).unwrap());
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    start.wait();
                    theirs.get::<AtomicU64>("a").unwrap().fetch_add(1, Relaxed);
                });
            }
        });
        assert_eq!(mine.get::<AtomicU64>("a").unwrap().load(Relaxed), 4);
        mine.remove("a").unwrap();
        drop(mine);
        assert_eq!(theirs.statistics().blocks, 1);
        let last = other(&theirs);
        drop(theirs);
        assert_eq!(last.statistics().blocks, 0);
    }
}

#[test]
fn names_that_are_none_are_refused() {
    let heap = heap();
    let long = "x".repeat(MAX_KEY + 1);
    for key in ["", &long] {
        assert_eq!(heap.create(key, 1u64).err(), Some(HeapError::InvalidKey));
        assert_eq!(heap.find::<u64>(key).err(), Some(HeapError::InvalidKey));
        assert_eq!(heap.remove(key), Err(HeapError::InvalidKey));
    }
    let longest = "x".repeat(MAX_KEY);
    heap.create(&longest, 1u64).unwrap();
    assert_eq!(*heap.find::<u64>(&longest).unwrap(), 1);
}

#[test]
fn a_full_heap_says_so_and_loses_nothing() {
    let config = HeapConfig {
        participants: 2,
        objects: 12,
        bytes: 1 << 16,
    };
    let heap = Heap::new(&config).unwrap();
    let mut kept = Vec::new();
    let refused = loop {
        match heap.create(&format!("{}", kept.len()), 1u32) {
            Ok(value) => kept.push(value),
            Err(error) => break error,
        }
    };
    assert_eq!((kept.len(), refused), (12, HeapError::Full));
    assert_eq!(heap.statistics().blocks, 12);
    kept.clear();
    for number in 0..12 {
        heap.remove(&number.to_string()).unwrap();
    }
    assert_eq!(heap.statistics().blocks, 0);
    assert!(matches!(
        heap.share([0u8; 1 << 17]).err(),
        Some(HeapError::Alloc(AllocError::NoSpace { .. }))
    ));
    // Names come and go: places are used again.
    for round in 0..1000 {
        let key = format!("name {round}");
        drop(heap.create(&key, round).unwrap());
        assert_eq!(*heap.find::<i32>(&key).unwrap(), round);
        heap.remove(&key).unwrap();
    }
    assert_eq!(heap.statistics().blocks, 0);
}

#[test]
fn a_named_heap_goes_with_its_last_user() {
    let name = format!("multiprocess-heap-{}", std::process::id());
    let named = Named::new(&name).unwrap();
    let config = HeapConfig::default();
    let exists = || {
        list(DIRECTORY)
            .unwrap()
            .iter()
            .any(|info| info.name() == name)
    };
    assert!(matches!(
        Heap::open(&named).unwrap_err(),
        HeapError::Named(NamedError::NotFound)
    ));
    let first = Heap::open_or_create(&named, &config).unwrap();
    let smaller = HeapConfig { bytes: 1, ..config };
    let second = Heap::open_or_create(&named, &smaller).unwrap();
    assert_eq!(*second.config(), config, "as it was made");
    let third = Heap::open(&named).unwrap();
    drop(first.create("x", 5u8).unwrap());
    let x = third.find::<u8>("x").unwrap();
    drop((first, second, third));
    assert!(exists(), "a value keeps its heap");
    assert_eq!(*x, 5);
    drop(x);
    // Children that other tests fork keep a copy of the descriptor until they execute.
    while exists() {
        multiprocess_shm::clean_up(DIRECTORY).unwrap();
    }
}

#[test]
fn of_many_that_race_for_a_name_all_get_one_value() {
    let _watchdog = Watchdog::seconds(120);
    let heaps: Vec<Heap> = {
        let first = heap();
        (0..3)
            .map(|_| other(&first))
            .chain([other(&first)])
            .collect()
    };
    let start = Barrier::new(heaps.len());
    std::thread::scope(|scope| {
        for (number, heap) in heaps.iter().enumerate() {
            let start = &start;
            scope.spawn(move || {
                for round in 0..300 {
                    let key = format!("round {round}");
                    start.wait();
                    let value = heap.find_or_create(&key, || AtomicU64::new(0)).unwrap();
                    value.fetch_add(1, Relaxed);
                    start.wait();
                    assert_eq!(value.load(Relaxed), 4);
                    start.wait();
                    if number == round % 4 {
                        heap.remove(&key).unwrap();
                    }
                    drop(value);
                    start.wait();
                }
            });
        }
    });
    assert_eq!(heaps[0].statistics().blocks, 0);
}

/// Finds, makes, removes and drops at random.
fn worker(seed: u64) {
    let heap = Heap::attach(child::fd(0).try_clone_to_owned().unwrap()).unwrap();
    let mut random = Random(seed);
    let mut held: Vec<Counted<[AtomicU64; 2]>> = Vec::new();
    loop {
        let key = format!("{}", random.below(8));
        let pair = || [AtomicU64::new(7), AtomicU64::new(!7)];
        match random.below(5) {
            0 => drop(heap.remove(&key)),
            1 => drop(heap.share(pair()).map(|value| held.push(value))),
            2 => drop(heap.find(&key).map(|value| held.push(value))),
            _ => drop(
                heap.find_or_create(&key, pair)
                    .map(|value| held.push(value)),
            ),
        }
        for value in &held {
            let (a, b) = (value[0].load(Relaxed), value[1].load(Relaxed));
            assert_eq!((a, b), (7, !7), "somebody wrote into it");
        }
        if held.len() > 20 {
            held.swap_remove(random.below(20) as usize);
        }
        if random.below(50) == 0 {
            heap.recover();
        }
    }
}

/// `HEAP_KILLS=2000` for more.
#[test]
fn references_of_the_killed_come_back_and_those_of_the_living_stay() {
    let test = "references_of_the_killed_come_back_and_those_of_the_living_stay";
    if let Some(seed) = child::role() {
        return worker(seed.parse().unwrap());
    }
    let _watchdog = Watchdog::seconds(300);
    let kills: u64 = std::env::var("HEAP_KILLS").map_or(150, |text| text.parse().unwrap());
    let heap = heap();
    let mine = heap.create("mine", AtomicU64::new(42)).unwrap();
    let mut random = Random(0x51_7cc1 ^ u64::from(std::process::id()));
    println!("seed {:#x}", random.0);
    let start = |seed: u64| Child::run(test, &seed.to_string(), &[heap.as_fd()]);
    let mut workers = [start(1), start(2)];
    for round in 0..kills {
        std::thread::sleep(Duration::from_micros(8000 + random.below(8000)));
        let victim = random.below(2) as usize;
        let ended = workers[1 - victim].wait_timeout(Duration::ZERO);
        assert!(
            ended.is_none(),
            "round {round}: a worker has ended: {ended:?}"
        );
        workers[victim].kill();
        heap.recover();
        workers[victim] = start(round + 3);
    }
    for worker in &mut workers {
        worker.kill();
    }
    heap.recover();
    for number in 0..8 {
        // Also inherits the directory's turn, if the last one died in it.
        let _ = heap.remove(&number.to_string());
    }
    heap.recover();
    assert_eq!(mine.load(Relaxed), 42);
    let blocks: Vec<_> = heap.arena().blocks().collect();
    assert_eq!(blocks.len(), 1, "{blocks:?}");
    assert_eq!(heap.objects().count(), 1);
}

#[test]
fn bytes_that_are_no_heap_are_refused() {
    let heap = heap();
    let table = multiprocess_shm::Participants::new(4).unwrap();
    let refused = Heap::attach(table.as_fd().try_clone_to_owned().unwrap()).unwrap_err();
    assert!(matches!(
        refused,
        HeapError::Attach(AttachError::Layout { .. })
    ));
    // Every word of what lies before the blocks, made wrong.
    let mapping = multiprocess_shm::Mapping::attach(heap.as_fd().try_clone_to_owned().unwrap());
    let mapping = mapping.unwrap();
    for word in (16..600).chain([2000, 4000]) {
        // SAFETY: inside the mapping; all access is by atomics.
        let at = unsafe {
            mapping
                .region()
                .base()
                .cast::<AtomicU64>()
                .add(word)
                .as_ref()
        };
        for wrong in [u64::MAX, 1 << 33, 0] {
            let was = at.swap(wrong, Relaxed);
            if let Ok(heap) = Heap::attach(heap.as_fd().try_clone_to_owned().unwrap()) {
                let _ = heap.find::<u64>("x");
                let _ = heap.recover();
                let _ = heap.objects().count();
            }
            at.store(was, Relaxed);
        }
    }
}

#[test]
fn garbage_in_the_directorys_turn_is_told_and_not_waited_for() {
    let _watchdog = Watchdog::seconds(60);
    let config = HeapConfig {
        objects: 999,
        participants: 2,
        ..HeapConfig::default()
    };
    let heap = Heap::new(&config).unwrap();
    let made = heap.create("there", 1u64).unwrap();
    let peer = Mapping::attach(heap.as_fd().try_clone_to_owned().unwrap()).unwrap();
    let word = |number: usize| -> &AtomicU64 {
        assert!(8 * (number + 1) <= peer.len());
        // SAFETY: inside the mapping, as just checked; all access is by atomics.
        unsafe { peer.region().base().cast().add(number).as_ref() }
    };
    // A free turn, and the number of places: a third more than objects.
    let is_directory = |first: &usize| {
        let rest = (2..16).all(|number| word(first + number).load(Relaxed) == 0);
        word(*first).load(Relaxed) == 0 && word(first + 1).load(Relaxed) == 999 + 333 && rest
    };
    let found: Vec<usize> = (0..peer.len() / 8)
        .step_by(16)
        .filter(is_directory)
        .collect();
    let [directory] = found[..] else {
        panic!("directories at {found:?}");
    };
    let turn = word(directory);
    let corrupt = HeapError::Attach(AttachError::Corrupt { field: "turn" });
    for garbage in [u64::MAX, 1 << 40, 0x1_ea60] {
        turn.store(garbage, Relaxed);
        assert_eq!(heap.create("a", 1u64).err(), Some(corrupt), "{garbage:#x}");
        assert_eq!(heap.remove("there"), Err(corrupt));
        assert_eq!(*heap.find::<u64>("there").unwrap(), 1);
    }
    // A living participant's is waited for, as long as one cares to.
    let (me, table) = (heap.participant().me(), heap.participant().table());
    turn.store(u64::from(me.bits()) | u64::from(table) << 33, Relaxed);
    let timeout = Duration::from_millis(1);
    let refused = heap.create_timeout("a", 1u64, timeout).err();
    assert_eq!(refused, Some(HeapError::Timeout));
    assert_eq!(
        heap.remove_timeout("there", timeout),
        Err(HeapError::Timeout)
    );
    turn.store(0, Relaxed);
    heap.remove("there").unwrap();
    drop(made);
    assert_eq!(
        heap.statistics().blocks,
        0,
        "what was refused is given back"
    );
}
