//! Torture: three senders and three receivers, of which one after the other, or several at once, are
//! killed or stopped at a random moment. Every message is accounted for: none lost, none torn, and
//! none twice but those that a dead receiver had in hand; at the end no slot and no seat is missing.
//!
//! A few hundred kills in an ordinary test run; for the real thing
//!
//! ```text
//! TORTURE_KILLS=20000 cargo test --release -p multiprocess-channel --test torture_mpmc -- --nocapture --test-threads=1
//! ```
//!
//! prints, for each kind, kills and stops, messages, how many were delivered again, slots stepped over,
//! and the longest time in which nobody got on.
#![cfg(all(not(loom), target_os = "linux", feature = "std"))]

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use multiprocess_channel::mpmc::{self, Config, Home, Receiver, Ring, Sender};
use multiprocess_core::Memory;
use multiprocess_shm::Mapping;
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

/// Incarnation, sequence, and six words that follow from them.
type Message = [u64; 8];

const SENDERS: u64 = 3;
const RECEIVERS: u64 = 3;
/// Messages of each sender that are accounted for one by one.
const EACH: u64 = 4096;
/// Longer than detection takes, shorter than a hang.
const PATIENCE: Duration = Duration::from_secs(20);

fn message(incarnation: u64, sequence: u64) -> Message {
    let seed = (incarnation << 32 | sequence).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    std::array::from_fn(|i| match i {
        0 => incarnation,
        1 => sequence,
        _ => seed.rotate_left(i as u32),
    })
}

/// What everybody notes, in shared memory.
struct Ledger {
    mapping: Mapping,
    incarnations: u64,
}

impl Ledger {
    fn bytes(incarnations: u64) -> u64 {
        (64 + incarnations) * 8 + incarnations * EACH
    }

    fn word(&self, index: u64) -> &AtomicU64 {
        let region = self.mapping.region();
        assert!((index as usize + 1) * 8 <= region.len());
        // SAFETY: inside the mapping, as checked, aligned, and accessed atomically by all.
        unsafe {
            region
                .base()
                .add(index as usize * 8)
                .cast::<AtomicU64>()
                .as_ref()
        }
    }

    /// Messages received, by all.
    fn received(&self) -> &AtomicU64 {
        self.word(0)
    }

    fn is_over(&self) -> &AtomicU64 {
        self.word(1)
    }

    /// What a receiver has in hand: incarnation and sequence, or 0.
    fn hand(&self, receiver: u64) -> &AtomicU64 {
        self.word(16 + receiver)
    }

    /// Messages that a sender knows to be sent.
    fn committed(&self, incarnation: u64) -> &AtomicU64 {
        self.word(64 + incarnation)
    }

    /// How often a message was received.
    fn count(&self, incarnation: u64, sequence: u64) -> (&AtomicU64, u64) {
        let byte = incarnation * EACH + sequence;
        (self.word(64 + self.incarnations + byte / 8), 8 * (byte % 8))
    }
}

fn key(incarnation: u64, sequence: u64) -> u64 {
    1 << 63 | incarnation << 40 | sequence
}

fn send(mut sender: Sender<Message>, ledger: &Ledger, incarnation: u64) {
    for sequence in 0.. {
        if ledger.is_over().load(Relaxed) != 0 {
            return;
        }
        sender.send(message(incarnation, sequence)).unwrap();
        ledger.committed(incarnation).store(sequence + 1, Relaxed);
    }
}

fn receive(mut receiver: Receiver<Message>, ledger: &Ledger, number: u64, by_value: bool) {
    receiver.set_one_step(by_value);
    let account = |got: Message| {
        let [incarnation, sequence, ..] = got;
        assert_eq!(got, message(incarnation, sequence), "torn");
        ledger
            .hand(number)
            .store(key(incarnation, sequence), Relaxed);
        if sequence < EACH {
            let (word, shift) = ledger.count(incarnation, sequence);
            word.fetch_add(1 << shift, Relaxed);
        }
        ledger.received().fetch_add(1, Relaxed);
    };
    loop {
        if by_value {
            let Ok(got) = receiver.recv() else { return };
            account(got);
        } else {
            let Ok(taken) = receiver.take() else { return };
            account(taken.get());
            taken.release();
        }
        ledger.hand(number).store(0, Relaxed);
    }
}

fn kills() -> u64 {
    let wanted = std::env::var("TORTURE_KILLS").ok();
    wanted.map_or(150, |text| text.parse().expect("TORTURE_KILLS is a number"))
}

struct Judge {
    test: &'static str,
    home: Home,
    ledger: Ledger,
    workers: Vec<Child>,
    /// The next sender's number.
    incarnation: u64,
    /// In hand of receivers when they were killed: may come twice, or be gone if by value.
    excused: HashMap<u64, u64>,
    receivers_killed: u64,
    longest: Duration,
}

impl Judge {
    fn run(&mut self, place: u64) -> Child {
        let role = if place < SENDERS {
            self.incarnation += 1;
            format!("s{}", self.incarnation - 1)
        } else {
            format!("r{}", place - SENDERS)
        };
        let fds = [self.home.as_fd(), self.ledger.mapping.as_fd()];
        Child::run(self.test, &role, &fds)
    }

    /// Until the living have received so many more messages.
    fn until_others_get_on(&mut self, more: u64) {
        let start = Instant::now();
        let before = self.ledger.received().load(Relaxed);
        while self.ledger.received().load(Relaxed) < before + more {
            assert!(start.elapsed() < PATIENCE, "nobody gets on");
            std::thread::yield_now();
        }
        self.longest = self.longest.max(start.elapsed());
    }

    fn kill(&mut self, place: u64) {
        self.workers[place as usize].kill();
        if place >= SENDERS {
            self.receivers_killed += 1;
            let hand = self.ledger.hand(place - SENDERS).swap(0, Relaxed);
            if hand != 0 {
                *self.excused.entry(hand).or_default() += 1;
            }
        }
    }
}

fn torture(test: &'static str, by_value: bool) {
    if let Some(role) = child::role() {
        let file = |index| child::fd(index).try_clone_to_owned().unwrap();
        let home = Home::attach::<Ring<Message>>(file(0)).unwrap();
        let mapping = Mapping::attach(file(1)).unwrap();
        let incarnations = (mapping.region().len() as u64 / 8 - 64) / (1 + EACH / 8);
        let ledger = Ledger {
            mapping,
            incarnations,
        };
        let number = role[1..].parse().unwrap();
        match &role[..1] {
            "s" => send(Sender::attach(home.clone(), home).unwrap(), &ledger, number),
            _ => {
                let receiver = Receiver::attach(home.clone(), home).unwrap();
                receive(receiver, &ledger, number, by_value);
            }
        }
        return;
    }
    let kills = kills();
    let _watchdog = Watchdog::seconds(120 + kills / 10);
    let config = Config::new(64).endpoints(24);
    let (sender, mut last) = mpmc::channel_with::<Message>(&config).unwrap();
    let incarnations = SENDERS + 4 * kills;
    // Whole pages, so that the children find the same number.
    let bytes = Ledger::bytes(incarnations).next_multiple_of((1 + EACH / 8) * 8) + 64 * 8;
    let mapping = Mapping::anonymous(c"ledger", bytes).unwrap();
    let incarnations = (mapping.region().len() as u64 / 8 - 64) / (1 + EACH / 8);
    let mut judge = Judge {
        test,
        home: sender.memory().clone(),
        ledger: Ledger {
            mapping,
            incarnations,
        },
        workers: Vec::new(),
        incarnation: 0,
        excused: HashMap::new(),
        receivers_killed: 0,
        longest: Duration::ZERO,
    };
    for place in 0..SENDERS + RECEIVERS {
        let child = judge.run(place);
        judge.workers.push(child);
    }
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let (mut killed, mut stopped) = (0, 0);
    while killed + stopped < kills {
        judge.until_others_get_on(20);
        std::thread::sleep(Duration::from_micros(random(400)));
        let first = random(SENDERS + RECEIVERS);
        // Now and then several at once; one of each side stays.
        let count = [1, 1, 1, 2, 4][random(5) as usize];
        let mut victims: Vec<u64> = (0..count)
            .map(|offset| (first + offset) % (SENDERS + RECEIVERS))
            .collect();
        for side in [0..SENDERS, SENDERS..SENDERS + RECEIVERS] {
            if side.clone().all(|place| victims.contains(&place)) {
                victims.retain(|place| *place != side.start);
            }
        }
        if random(4) == 0 {
            // Stopped is not dead: the others step over it.
            for &victim in &victims {
                judge.workers[victim as usize].signal(libc::SIGSTOP);
            }
            judge.until_others_get_on(200);
            for &victim in &victims {
                judge.workers[victim as usize].signal(libc::SIGCONT);
            }
            stopped += victims.len() as u64;
        } else {
            for &victim in &victims {
                judge.kill(victim);
            }
            judge.until_others_get_on(200);
            for &victim in &victims {
                judge.workers[victim as usize] = judge.run(victim);
            }
            killed += victims.len() as u64;
        }
        for worker in &mut judge.workers {
            let ended = worker.wait_timeout(Duration::ZERO);
            assert!(ended.is_none(), "a survivor objects: {ended:?}");
        }
    }

    // The senders leave, the receivers empty the ring, and all are gone.
    judge.ledger.is_over().store(1, Relaxed);
    for worker in &mut judge.workers[..SENDERS as usize] {
        assert!(worker.wait().success());
    }
    let start = Instant::now();
    while !last.is_empty() {
        last.recover();
        assert!(start.elapsed() < PATIENCE, "{} are left", last.len());
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(20));
    for place in SENDERS..SENDERS + RECEIVERS {
        judge.kill(place);
    }
    last.recover();
    while let Ok(got) = last.try_recv() {
        let [incarnation, sequence, ..] = got;
        assert_eq!(got, message(incarnation, sequence), "torn");
        if sequence < EACH {
            let (word, shift) = judge.ledger.count(incarnation, sequence);
            word.fetch_add(1 << shift, Relaxed);
        }
    }
    account(&judge, by_value);

    let mut sender = sender;
    for lap in 0..3 {
        let mut sent = 0;
        while sender.try_send([sent; 8]).is_ok() {
            sent += 1;
        }
        assert!(
            lap == 0 || sent == sender.capacity(),
            "{sent} slots are left"
        );
        assert_eq!(last.drain().count() as u64, sent);
    }
    let all = sender.statistics();
    assert_eq!(all.endpoints, 2, "seats of the dead");
    println!(
        "{test}: {killed} kills, {stopped} stops, {} messages, {} in hand of the dead, {} slots \
         stepped over, longest without progress {} ms",
        judge.ledger.received().load(Relaxed),
        judge.excused.len(),
        all.quarantines,
        judge.longest.as_millis(),
    );
}

/// Each message as often as it may have come.
fn account(judge: &Judge, by_value: bool) {
    let ledger = &judge.ledger;
    let mut gone = 0;
    for incarnation in 0..judge.incarnation {
        let committed = ledger.committed(incarnation).load(Relaxed);
        for sequence in 0..EACH {
            let (word, shift) = ledger.count(incarnation, sequence);
            let count = word.load(Relaxed) >> shift & 0xff;
            let key = key(incarnation, sequence);
            let excused = judge.excused.get(&key).copied().unwrap_or(0);
            let most = u64::from(sequence <= committed) * (1 + if by_value { 0 } else { excused });
            let least = u64::from(sequence < committed);
            assert!(count <= most, "{incarnation}.{sequence} came {count} times");
            if count < least {
                assert!(by_value, "{incarnation}.{sequence} is lost");
                gone += 1;
            }
        }
    }
    // At most one in the hands of each dead receiver.
    assert!(gone <= judge.receivers_killed, "{gone} are lost");
}

#[test]
fn mpmc_under_torture() {
    torture("mpmc_under_torture", false);
}

#[test]
fn mpmc_in_one_step_under_torture() {
    torture("mpmc_in_one_step_under_torture", true);
}
