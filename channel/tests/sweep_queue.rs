//! Descriptors in the values of queues, with who puts, gets, gives up and recovers killed, stopped and preempted
//! wherever the state changes: in memory, or in the kernel by a system call. No value is lost or doubled, each comes with its own
//! descriptors, and at the end none is open anywhere, and all places and all memory are free.
//!
//! Shown to fail (`.ci/mutants pouch/`): a recovery that frees without throwing away, or takes what a message
//! names; descriptors received instead of peeked; a pouch freed before its message is released.
#![cfg(all(not(loom), target_os = "linux", feature = "serde"))]

use std::fs::OpenOptions;
use std::io::{PipeReader, pipe};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::Ordering::Relaxed;

use multiprocess_channel::queue::{JoinableQueue, QueueConfig};
use multiprocess_shm::socket;
use multiprocess_shm::transfer::Fd;
use multiprocess_testkit::watchdog::Watchdog;
use multiprocess_testkit::{Config, Control, Env, Mode, Operation, Outcome, Role, Subject, sweep};
use rustix::event::{PollFd, PollFlags};
use rustix::net::RecvFlags;

/// A number, something to make it large, and the writing end of that number's pipe.
type Value = (u64, Vec<u8>, Option<Fd>);

const POUCHES: u64 = 4;
/// Bytes of the arena: one chunk.
const MEMORY: usize = 4096;
/// More than an envelope has room for.
const LARGE: usize = 120;

/// The messages before, the one whose fate is in doubt, and a rival's.
const BEFORE: u64 = 2;
const IN_DOUBT: u64 = 3;
const RIVALS: u64 = 4;
/// Without a descriptor.
const PLAIN: u64 = 5;

/// Notes: bits of the messages that the victim, or the rival, has had.
const VICTIM: usize = 0;
const RIVAL: usize = 1;
/// The victim has begun to say that its job is done.
const FINISHING: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Put,
    Take,
    GiveUp,
}

struct Queues {
    op: Op,
    len: usize,
    jobs: JoinableQueue<Value>,
    readers: Vec<PipeReader>,
}

impl Queues {
    fn new(op: Op, len: usize) -> Self {
        let config = QueueConfig::new(8)
            .endpoints(16)
            .large(MEMORY as u64)
            .descriptors(POUCHES as u32);
        Self {
            op,
            len,
            jobs: JoinableQueue::with(&config).unwrap(),
            readers: (0..PLAIN).map(|_| pipe().unwrap().0).collect(),
        }
    }

    fn value(&self, number: u64) -> Value {
        let pipe = self.readers.get(number as usize).map(|reader| {
            let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
            let mut options = OpenOptions::new();
            let file = options
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path);
            Fd::from(OwnedFd::from(file.unwrap()))
        });
        (number, vec![number as u8; self.len], pipe)
    }

    /// The number; panics, which is a violation, if the value has another one's bytes or descriptor.
    fn number(&self, (number, bytes, pipe): &Value) -> u64 {
        assert!(bytes.iter().all(|byte| *byte == *number as u8), "torn");
        let inode = |fd: &dyn AsFdDyn| rustix::fs::fstat(fd.fd()).unwrap().st_ino;
        match (pipe, self.readers.get(*number as usize)) {
            (Some(pipe), Some(reader)) => assert_eq!(inode(pipe), inode(reader), "of {number}"),
            (None, None) => {}
            _ => panic!("number {number} with a descriptor, or without"),
        }
        *number
    }

    fn take_all(&self, mut note: impl FnMut(u64)) {
        while let Ok(job) = self.jobs.try_get() {
            note(self.number(&job));
            job.done();
        }
    }

    /// Nothing is in the sockets, as when the queue was made; its memory was restored.
    fn reset(&self) {
        for end in self.ends().iter().step_by(2) {
            while rustix::net::recv(end, &mut [0_u8], RecvFlags::DONTWAIT).is_ok() {}
        }
    }

    /// Of all pouches, as channel/README.md says where they are.
    fn ends(&self) -> Vec<OwnedFd> {
        let mut ends = Vec::new();
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        socket::receive(self.jobs.rack().unwrap(), &mut [0], &mut ends, flags).unwrap();
        assert_eq!(ends.len() as u64, 2 * POUCHES);
        ends
    }

    /// Pipes whose writing end is open, anywhere.
    fn open(&self) -> Vec<usize> {
        let is_open = |reader: &PipeReader| {
            let mut poll = [PollFd::new(reader, PollFlags::IN)];
            rustix::event::poll(&mut poll, Some(&Default::default())).unwrap();
            !poll[0].revents().contains(PollFlags::HUP)
        };
        let open = (0..)
            .zip(&self.readers)
            .filter(|(_, reader)| is_open(reader));
        open.map(|(number, _)| number).collect()
    }
}

/// So that one closure asks files of two types.
trait AsFdDyn {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: AsFd> AsFdDyn for T {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}

fn note(control: &Control, who: usize, message: u64) {
    let seen = control.notes[who].load(Relaxed);
    control.notes[who].store(seen | 1 << message, Relaxed);
}

impl Subject for Queues {
    fn name(&self) -> String {
        format!("queue {:?} of {} bytes", self.op, self.len)
    }

    fn size(&self) -> usize {
        rustix::fs::fstat(&self.jobs).unwrap().st_size as usize
    }

    fn setup(&self, env: &Env<'_>) {
        // The harness's memory becomes the queue's: it is watched, and restored before each run.
        // SAFETY: the harness has mapped so much there, for us alone, and goes on to access it as bytes.
        let mapped = unsafe {
            let (access, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
            );
            let fd = self.jobs.as_fd().as_raw_fd();
            libc::mmap(env.segment.cast(), self.size(), access, flags, fd, 0)
        };
        assert_eq!(mapped, env.segment.cast());
        // Warms clock and CPU count, and moves the ring on.
        for _ in 0..3 {
            self.jobs.put(self.value(0)).unwrap();
            self.take_all(|_| ());
        }
        assert!(self.open().is_empty());
    }

    fn arm<'a>(&'a self, env: Env<'a>) -> Operation<'a> {
        let control = env.control;
        self.reset();
        // Seats, and pages of the stack.
        self.jobs.put(self.value(PLAIN)).unwrap();
        self.take_all(|_| ());
        if self.op != Op::Put {
            for message in 1..=BEFORE {
                self.jobs.put(self.value(message)).unwrap();
            }
        }
        match self.op {
            Op::Put => {
                let mut value = Some(self.value(IN_DOUBT));
                Box::new(move || u64::from(self.jobs.try_put(value.take().unwrap()).is_ok()))
            }
            Op::Take | Op::GiveUp => Box::new(move || {
                let Ok(job) = self.jobs.try_get() else {
                    return 0;
                };
                let message = job.0;
                if self.op == Op::GiveUp {
                    job.give_up();
                    return message;
                }
                note(control, VICTIM, message);
                note(control, FINISHING, message);
                job.done();
                message
            }),
        }
    }

    fn rivals(&self) -> &[&'static str] {
        &["get all", "recover, put and get all"]
    }

    fn rival(&self, env: &Env<'_>, which: usize) -> u64 {
        let mut put = 0;
        if which == 1 {
            self.jobs.recover();
            put = u64::from(self.jobs.try_put(self.value(RIVALS)).is_ok());
        }
        self.take_all(|message| note(env.control, RIVAL, message));
        put
    }

    fn has_recovery(&self) -> bool {
        true
    }

    fn recover(&self, _: &Env<'_>, _: Role) {
        self.jobs.recover();
    }

    fn check(&self, env: &Env<'_>, outcome: &Outcome<'_>) -> Result<&'static str, String> {
        self.jobs.recover();
        let mut left = 0;
        let mut doubled = false;
        self.take_all(|message| {
            doubled |= left & 1 << message != 0;
            left |= 1 << message;
        });
        let seen = |note: usize| env.control.notes[note].load(Relaxed);
        let (victim, rival, finishing) = (seen(VICTIM), seen(RIVAL), seen(FINISHING));
        let wrong = |what: &str| {
            let Outcome {
                completed, result, ..
            } = outcome;
            Err(format!(
                "{what}: left {left:#b}, victim {victim:#b}, rival {rival:#b}, finishing {finishing:#b}; \
                 completed {completed}, result {result}, rival {:?}",
                outcome.rival
            ))
        };
        let others = left | rival;
        if doubled || left & rival != 0 || outcome.completed && victim & others != 0 {
            return wrong("doubled");
        }
        let before = match self.op {
            Op::Put => 0,
            Op::Take | Op::GiveUp => (1..=BEFORE).fold(0, |all, message| all | 1 << message),
        };
        // What was done is gone.
        if before & !others & !finishing != 0 {
            return wrong("lost");
        }
        let was_put = self.op == Op::Put && outcome.completed && outcome.result == 1;
        let rival_put = matches!(outcome.rival, Some((1, 1)));
        if was_put && others & 1 << IN_DOUBT == 0 || rival_put && rival & 1 << RIVALS == 0 {
            return wrong("lost");
        }
        if matches!(outcome.rival, Some((1, 0))) {
            return wrong("the rival was refused");
        }
        if self.op == Op::Put && outcome.completed && outcome.result == 0 {
            return wrong("refused");
        }
        // Whoever has died: what it had is open nowhere.
        match self.open() {
            open if open.is_empty() => {}
            open => return wrong(&format!("pipes {open:?} are open")),
        }
        // All places for descriptors, and all memory.
        let tries = (0..=POUCHES).map(|_| self.jobs.try_put(self.value(0)).is_ok());
        let put = tries.filter(|put| *put).count() as u64;
        if put != POUCHES {
            return wrong(&format!("{put} places for descriptors"));
        }
        self.take_all(|_| ());
        let whole = (PLAIN, vec![PLAIN as u8; MEMORY - 16], None);
        if self.jobs.try_put(whole).is_err() {
            return wrong("memory is nobody's");
        }
        self.take_all(|_| ());
        if !self.open().is_empty() {
            return wrong("open at the end");
        }
        Ok(match () {
            () if self.op == Op::Put && others & 1 << IN_DOUBT != 0 => "put",
            () if victim & others != 0 => "comes again",
            () if victim != 0 => "done",
            () => "nothing done",
        })
    }
}

fn swept(op: Op, len: usize) {
    let _watchdog = Watchdog::seconds(1500);
    let mut modes = vec![Mode::Kill];
    // The bytes of a large value are written one by one, and each is a place to die at.
    if (op, len) != (Op::Put, LARGE) {
        modes.extend([Mode::Preempt, Mode::PreemptThenKill]);
    }
    if std::env::var_os("SWEEP_RECOVERERS").is_some() {
        modes.push(Mode::RecovererKilled);
    }
    let edges = Config {
        edges_only: true,
        modes,
        ..Config::default()
    };
    sweep(&Queues::new(op, len), &edges).assert_ok();
}

#[test]
fn put_a_small_value() {
    swept(Op::Put, 8);
}

#[test]
fn put_a_large_value() {
    swept(Op::Put, LARGE);
}

#[test]
fn take_a_small_value() {
    swept(Op::Take, 8);
}

#[test]
fn take_a_large_value() {
    swept(Op::Take, LARGE);
}

#[test]
fn give_up() {
    swept(Op::GiveUp, 8);
}
