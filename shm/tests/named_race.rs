//! Named segments among processes that are killed.
//!
//! Shown to fail (`.ci/mutants`): a name that is not looked at again once its lock is had, leftovers
//! that are entered, an initialiser that is not alone, a byte that is shared without asking who has it.
#![cfg(target_os = "linux")]

use std::alloc::Layout;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use multiprocess_core::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use multiprocess_core::{CreateError, LayoutHash, Memory, Region};
use multiprocess_shm::{
    DIRECTORY, Mapping, Named, NamedError, NamedInfo, NamedSegment, NamedState, clean_up, list,
};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

const LAYOUT: LayoutHash = LayoutHash::of("a word, version 1");
const WORD: Layout = Layout::new::<u64>();

struct Scratch(Named);

impl Scratch {
    fn new(test: &str) -> Self {
        let name = format!("multiprocess-race-{}-{test}", std::process::id());
        Self(Named::new(&name).unwrap())
    }

    fn exists(&self) -> bool {
        self.0.path().exists()
    }

    fn info(&self) -> Option<NamedInfo> {
        list(DIRECTORY)
            .unwrap()
            .into_iter()
            .find(|info| info.path == self.0.path())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0.path());
    }
}

/// Some leave what others would clean up.
fn one_that_cleans() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn word(segment: &NamedSegment) -> &AtomicU64 {
    assert!(segment.region().check(WORD).is_ok());
    // SAFETY: large enough and aligned, as just checked; mapped as long as it is borrowed.
    unsafe { segment.region().base().cast().as_ref() }
}

fn sets(value: u64) -> impl Fn(Region<'_>) -> Result<(), CreateError> {
    move |bytes| {
        bytes.check(WORD)?;
        // SAFETY: large enough and aligned, as just checked.
        let word: &AtomicU64 = unsafe { bytes.base().cast().as_ref() };
        assert_eq!(word.swap(value, Relaxed), 0, "the payload starts zeroed");
        Ok(())
    }
}

/// Makes the name it is given, or finds it, says so, and sleeps.
fn user(path: &str) {
    let named = Named::at(path);
    let segment = named.open_or_create(LAYOUT, WORD, sets(1)).unwrap();
    word(&segment).fetch_add(1, Relaxed);
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn user_of(scratch: &Scratch, test: &str) -> Child {
    Child::run(test, scratch.0.path().to_str().unwrap(), &[])
}

fn wait_until(scratch: &Scratch, what: impl Fn(&NamedInfo) -> bool) {
    while !scratch.info().is_some_and(|info| what(&info)) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_finished(info: &NamedInfo) -> bool {
    matches!(info.state, NamedState::Finished { .. })
}

#[test]
fn what_the_killed_have_left_is_cleaned_up_and_the_living_are_not() {
    let _one = one_that_cleans();
    if let Some(path) = child::role() {
        return user(&path);
    }
    let _watchdog = Watchdog::seconds(60);
    let test = "what_the_killed_have_left_is_cleaned_up_and_the_living_are_not";
    let scratch = Scratch::new("killed");
    let mut child = user_of(&scratch, test);
    wait_until(&scratch, is_finished);
    assert_eq!(
        scratch.info().unwrap().users().unwrap(),
        [child.pid() as u32]
    );

    child.signal(libc::SIGSTOP);
    clean_up(DIRECTORY).unwrap();
    assert!(scratch.exists(), "stopped is not dead");
    let info = scratch.info().unwrap();
    let NamedState::Finished {
        creator,
        creator_died,
        layout,
    } = info.state
    else {
        panic!("{info:?}");
    };
    assert_eq!((creator, creator_died), (child.pid() as u32, false));
    assert_eq!(layout, LAYOUT.bits());
    assert!(info.is_used && info.is_tracked && info.size > 128);

    child.kill();
    let info = scratch.info().unwrap();
    assert!(info.is_leftover() && info.users().unwrap().is_empty());
    assert!(clean_up(DIRECTORY).unwrap() >= 1);
    assert!(!scratch.exists());

    // Or whoever asks for the name next.
    let mut child = user_of(&scratch, test);
    wait_until(&scratch, is_finished);
    let inode = fs::metadata(scratch.0.path()).unwrap().ino();
    child.kill();
    let made = scratch.0.open_or_create(LAYOUT, WORD, sets(70)).unwrap();
    assert!(made.is_creator());
    assert_eq!(word(&made).load(Relaxed), 70);
    assert_ne!(inode, fs::metadata(scratch.0.path()).unwrap().ino());
}

#[test]
fn a_forked_child_keeps_the_name_and_does_not_remove_its_parents() {
    let _one = one_that_cleans();
    let _watchdog = Watchdog::seconds(60);
    let scratch = Scratch::new("forked");
    let made = scratch.0.create(LAYOUT, WORD, sets(1)).unwrap();
    let mut made = Some(made);
    #[allow(clippy::disallowed_methods)] // what a fork does is the question
    // SAFETY: the child calls the kernel and nothing that another thread may have locked.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(made.take()); // unmaps and closes, opens and locks: the parent is there
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: a child of ours.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0);
    assert!(scratch.exists(), "its parent uses it");
    drop(made);
    // Children that other tests fork keep a copy of the description until they execute.
    while scratch.exists() {
        clean_up(DIRECTORY).unwrap();
    }
}

/// Runs `work` while another thread looks in all the time.
fn beside_a_reader(named: &Named, work: impl FnOnce()) {
    struct Stop<'a>(&'a AtomicU32);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(1, Relaxed);
        }
    }
    let stopped = AtomicU32::new(0);
    std::thread::scope(|threads| {
        let _stop = Stop(&stopped);
        threads.spawn(|| {
            while stopped.load(Relaxed) == 0 {
                let _ = named.open_read_only(LAYOUT);
            }
        });
        work();
    });
}

/// Seen to fail, as the two below, when a share was taken for a user's.
#[test]
fn a_reader_that_looks_in_keeps_nobody_from_making_it() {
    let _one = one_that_cleans();
    let _watchdog = Watchdog::seconds(120);
    let scratch = Scratch::new("beside");
    beside_a_reader(&scratch.0, || {
        for _ in 0..20_000 {
            let made = scratch.0.open_or_create(LAYOUT, WORD, sets(1)).unwrap();
            assert_eq!(word(&made).load(Relaxed), 1);
        }
    });
}

#[test]
fn a_reader_that_looks_in_brings_no_leftover_back_to_life() {
    let _one = one_that_cleans();
    let _watchdog = Watchdog::seconds(120);
    let scratch = Scratch::new("leftovers");
    let finished = {
        let _made = scratch.0.create(LAYOUT, WORD, sets(7)).unwrap();
        fs::read(scratch.0.path()).unwrap()
    };
    let fresh = scratch.0.path().with_extension("fresh");
    beside_a_reader(&scratch.0, || {
        for round in 0..6000 {
            // What a killed process leaves: the file with its mark, and no lock.
            let leftover = [&finished[..], &[], &[0; 200]][round % 3];
            fs::write(&fresh, leftover).unwrap();
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o1600)).unwrap();
            fs::rename(&fresh, scratch.0.path()).unwrap();
            let made = scratch.0.open_or_create(LAYOUT, WORD, sets(1)).unwrap();
            assert!(made.is_creator());
            assert_eq!(word(&made).load(Relaxed), 1);
        }
    });
}

#[test]
fn as_long_as_somebody_is_inside_the_name_leads_to_where_he_is() {
    let _one = one_that_cleans();
    let _watchdog = Watchdog::seconds(120);
    let scratch = Scratch::new("inside");
    let comes_and_goes = || {
        for _ in 0..10 {
            let inside = scratch.0.open_or_create(LAYOUT, WORD, sets(1)).unwrap();
            let file = fs::File::from(inside.as_fd().try_clone_to_owned().unwrap());
            let inode = fs::metadata(scratch.0.path()).unwrap().ino();
            assert_eq!(inode, file.metadata().unwrap().ino());
        }
    };
    // The race is between those who come when nobody is inside: many short groups.
    for _ in 0..2000 {
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(comes_and_goes);
            }
        });
    }
}

/// Begins to make the name it is given, and does not come to an end.
fn slow_maker(path: &str) {
    let never = Named::at(path).create(LAYOUT, WORD, |_| {
        loop {
            std::hint::spin_loop();
        }
    });
    drop(never);
}

#[test]
fn a_maker_killed_while_others_knock_is_replaced_by_one_of_them() {
    if let Some(path) = child::role() {
        return slow_maker(&path);
    }
    let _one = one_that_cleans();
    let _watchdog = Watchdog::seconds(120);
    let test = "a_maker_killed_while_others_knock_is_replaced_by_one_of_them";
    for _ in 0..100 {
        let scratch = Scratch::new("knock");
        let mut child = user_of(&scratch, test);
        wait_until(&scratch, |info| info.size > 0);
        let impatient = scratch.0.clone().timeout(Duration::ZERO);
        let knock = || loop {
            match impatient.open_or_create(LAYOUT, WORD, sets(1)) {
                Err(NamedError::Timeout) => {}
                other => break other.unwrap(),
            }
        };
        std::thread::scope(|threads| {
            let others = [threads.spawn(knock), threads.spawn(knock)];
            std::thread::yield_now();
            child.kill();
            let inside = others.map(|other| other.join().unwrap());
            let made = inside.iter().filter(|segment| segment.is_creator());
            assert_eq!(made.count(), 1);
        });
    }
}

/// Between the judge and two racers: what each is to do, and what each has found.
#[repr(C)]
struct Ledger {
    /// Round that a racer may run; by the judge.
    go: [AtomicU64; 2],
    /// Round that a racer has entered, and whether it made it: `2 * round + made`; by the racer.
    entered: [AtomicU64; 2],
    /// Round that a racer may leave; by the judge.
    leave: [AtomicU64; 2],
    /// Round that a racer has left; by the racer.
    left: [AtomicU64; 2],
    /// Initialisations begun and finished in the present round.
    begun: AtomicU32,
    finished: AtomicU32,
    /// A racer saw what must not be.
    broken: AtomicU32,
}

fn ledger(mapping: &Mapping) -> &Ledger {
    assert!(mapping.len() >= size_of::<Ledger>());
    // SAFETY: large enough, page-aligned, all atomics.
    unsafe { mapping.region().base().cast().as_ref() }
}

/// Content that only a finished initialisation leaves.
fn content(round: u64) -> u64 {
    round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

fn wait_for(word: &AtomicU64, round: u64) {
    while word.load(SeqCst) < round {
        std::thread::yield_now();
    }
}

/// `after`: the last round that was run under this number.
fn racer(number: usize, after: u64, path: &str) {
    let mapping = Mapping::attach(child::fd(0).try_clone_to_owned().unwrap()).unwrap();
    let ledger = ledger(&mapping);
    let name = Named::at(path);
    let mut round = after;
    loop {
        round += 1;
        wait_for(&ledger.go[number], round);
        let segment = name.open_or_create(LAYOUT, WORD, |bytes| {
            ledger.begun.fetch_add(1, SeqCst);
            for _ in 0..500 * (round % 4) {
                std::hint::spin_loop(); // long enough to be killed in
            }
            sets(content(round))(bytes)?;
            ledger.finished.fetch_add(1, SeqCst);
            Ok(())
        });
        match segment {
            Ok(segment) => {
                if word(&segment).load(Relaxed) != content(round) {
                    ledger.broken.fetch_add(1, SeqCst);
                }
                let made = u64::from(segment.is_creator());
                ledger.entered[number].store(2 * round + made, SeqCst);
                wait_for(&ledger.leave[number], round);
            }
            Err(error) => {
                eprintln!("racer {number}, round {round}: {error}");
                ledger.broken.fetch_add(1, SeqCst);
                ledger.entered[number].store(2 * round, SeqCst);
            }
        }
        ledger.left[number].store(round, SeqCst);
    }
}

/// Small and fast; the seed is printed.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// `NAMED_ROUNDS=10000` is what CI runs.
#[test]
fn of_two_that_race_one_initialises_whoever_is_killed() {
    let test = "of_two_that_race_one_initialises_whoever_is_killed";
    if let Some(role) = child::role() {
        let mut words = role.splitn(3, ' ');
        let mut word = || words.next().unwrap();
        return racer(word().parse().unwrap(), word().parse().unwrap(), word());
    }
    let _watchdog = Watchdog::seconds(300);
    let rounds: u64 = std::env::var("NAMED_ROUNDS").map_or(10_000, |text| text.parse().unwrap());
    let scratch = Scratch::new("race");
    let path = scratch.0.path().display();
    let mapping = Mapping::anonymous(c"ledger", 4096).unwrap();
    let ledger = ledger(&mapping);
    let start = |number: usize, after: u64| {
        Child::run(
            test,
            &format!("{number} {after} {path}"),
            &[mapping.as_fd()],
        )
    };
    let mut racers = [start(0, 0), start(1, 0)];
    let mut seed = 0x2545_f491_4f6c_dd1d ^ u64::from(std::process::id());
    println!("seed {seed:#x}");
    let (mut kills, mut initialised_twice, mut killed_inside) = (0, 0, 0);
    for round in 1..=rounds {
        ledger.begun.store(0, SeqCst);
        ledger.finished.store(0, SeqCst);
        let killed = (random(&mut seed).is_multiple_of(8)).then(|| random(&mut seed) as usize % 2);
        for go in &ledger.go {
            go.store(round, SeqCst);
        }
        if let Some(victim) = killed {
            // Half of them inside an initialisation, as near as one can aim.
            let aimed = random(&mut seed).is_multiple_of(2);
            while aimed && ledger.begun.load(SeqCst) == 0 {
                std::thread::yield_now();
            }
            for _ in 0..random(&mut seed) % if aimed { 500 } else { 6000 } {
                std::hint::spin_loop();
            }
            racers[victim].kill();
            kills += 1;
        }
        let alive = |number: usize| killed != Some(number);
        for number in (0..2).filter(|number| alive(*number)) {
            wait_for(&ledger.entered[number], 2 * round);
        }
        let made = (0..2).filter(|number| ledger.entered[*number].load(SeqCst) == 2 * round + 1);
        let made: Vec<usize> = made.collect();
        let (begun, finished) = (ledger.begun.load(SeqCst), ledger.finished.load(SeqCst));
        let state = format!("round {round}: killed {killed:?}, made {made:?}, {begun}/{finished}");
        assert_eq!(ledger.broken.load(SeqCst), 0, "{state}");
        match killed {
            None => assert_eq!((made.len(), begun, finished), (1, 1, 1), "{state}"),
            // The dead one may have begun, and may have finished and been found a leftover.
            Some(victim) => {
                assert!(begun <= 2 && finished <= begun, "{state}");
                assert!(begun == 1 || made.contains(&(1 - victim)), "{state}");
                assert!(made.len() <= 2 && finished >= 1, "{state}");
                initialised_twice += u32::from(begun == 2);
                killed_inside += u32::from(finished < begun);
            }
        }
        for leave in &ledger.leave {
            leave.store(round, SeqCst);
        }
        for number in (0..2).filter(|number| alive(*number)) {
            wait_for(&ledger.left[number], round);
        }
        if let Some(victim) = killed {
            racers[victim] = start(victim, round);
        }
        assert!(!scratch.exists(), "{state}: the last one removes it");
    }
    println!(
        "{rounds} rounds, {kills} kills, {initialised_twice} initialised anew after a death, \
         {killed_inside} of them killed inside"
    );
    assert!(rounds < 1000 || kills > 0 && initialised_twice > 0);
}
