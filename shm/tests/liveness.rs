//! The living that look dead: a process whose main thread has ended, one that `/proc` hides, one
//! of which `/proc` knows nothing or tells of another one.
//!
//! Shown to fail by hand: with `/proc/PID/stat` for a witness, where a zombie, a missing file or
//! another start time is a death, in `Participants` and in a segment's header.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods)] // processes that differ in threads and namespaces are forked

use std::alloc::Layout;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{sleep, yield_now};
use std::time::Duration;

use multiprocess_core::{AttachError, LayoutHash, ParticipantId, Peers};
use multiprocess_shm::{Entry, Participants, Segment};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

/// Exit code of a child that may not make the namespace it needs.
const FORBIDDEN: i32 = 77;

fn sleep_for_ever() -> ! {
    loop {
        sleep(Duration::from_secs(600));
    }
}

/// Forks a child of one thread, its main one, that dies with its parent.
fn fork(work: impl FnOnce()) -> i32 {
    // SAFETY: called in a process that was executed for one test; the child leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: asks for a signal.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let result = catch_unwind(AssertUnwindSafe(work));
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(result.is_err())) };
    }
    pid
}

fn reap(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: waits for a child of ours.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    status
}

/// This test, as a child of the one that made the table.
fn table_of_the_parent() -> Participants {
    Participants::attach(child::fd(0).try_clone_to_owned().unwrap()).unwrap()
}

/// Joins twice and leaves once: there are two ways to ask whether somebody lives.
fn join_and_leave(table: &Participants) -> impl Peers {
    let leaving = table.join().unwrap();
    let staying = table.join().unwrap();
    drop(leaving);
    staying
}

/// Who has left and who has stayed, of the process that does this in a table with one other slot.
fn left_and_staying(table: &Participants) -> [Entry; 2] {
    loop {
        let entries: Vec<_> = table.entries().collect();
        match entries[..] {
            [_, left, staying] if !left.is_alive && staying.is_alive => return [left, staying],
            _ => yield_now(),
        }
    }
}

/// What somebody learns who attaches to a segment that the process `pid`, started at `start`, has
/// begun to make.
fn unfinished(pid: u32, start: u64) -> AttachError {
    const HASH: LayoutHash = LayoutHash::of("unfinished");
    let segment = Segment::create(HASH, Layout::new::<u64>(), |_| Ok(())).unwrap();
    let file = File::from(segment.as_fd().try_clone_to_owned().unwrap());
    file.write_all_at(&1u32.to_ne_bytes(), 0x0c).unwrap(); // CREATING
    file.write_all_at(&pid.to_ne_bytes(), 0x28).unwrap();
    file.write_all_at(&start.to_ne_bytes(), 0x30).unwrap();
    Segment::attach(file.into(), HASH).unwrap_err()
}

/// State and start time of a process, as `/proc` has them.
fn stat(process: &str) -> (String, u64) {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split(' ').collect();
    (fields[1].to_owned(), fields[20].parse().unwrap())
}

#[test]
fn a_process_whose_main_thread_has_ended_lives() {
    let test = "a_process_whose_main_thread_has_ended_lives";
    if child::role().is_some() {
        let table = table_of_the_parent();
        reap(fork(|| {
            std::thread::spawn(move || {
                // It can join, too.
                while stat("self").0 != "Z" {
                    yield_now();
                }
                let _staying = join_and_leave(&table);
                sleep_for_ever();
            });
            // SAFETY: ends the main thread alone, as pthread_exit would.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }));
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let table = Participants::new(4).unwrap();
    let me = table.join().unwrap();
    let mut child = Child::run(test, "parent", &[table.as_fd()]);
    let [left, staying] = left_and_staying(&table);
    let pid = staying.pid;
    let (state, start) = stat(&pid.to_string());
    assert_eq!(state, "Z");
    assert!(!me.is_dead(staying.id) && !me.is_dead(left.id));
    assert_eq!(unfinished(pid, start), AttachError::Initialising { pid });
    // SAFETY: a process of this test, which its parent has not reaped, for it has not ended.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
    assert!(child.wait().success(), "its parent has reaped it");
    assert!(me.is_dead(staying.id) && me.is_dead(left.id));
    assert_eq!(unfinished(pid, start), AttachError::CreatorDied { pid });
}

/// A `/proc` that shows this thread the processes of its own user alone, and another user.
fn hide_the_others() -> bool {
    let proc = c"proc".as_ptr();
    // SAFETY: names that end with zero; the namespace is this thread's own.
    unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(
                proc,
                c"/".as_ptr(),
                proc,
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            ) == 0
            && libc::mount(
                proc,
                c"/proc".as_ptr(),
                proc,
                0,
                c"hidepid=2".as_ptr().cast(),
            ) == 0
            // Group 0 sees everything, as the superuser does.
            && libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(65534, 65534, 65534) == 0
            && libc::setresuid(65534, 65534, 65534) == 0
    }
}

#[test]
fn a_process_that_proc_hides_lives() {
    let test = "a_process_that_proc_hides_lives";
    if let Some(role) = child::role() {
        let numbers: Vec<u64> = role.split(' ').map(|word| word.parse().unwrap()).collect();
        let [staying, left, dead, start] = numbers[..] else {
            panic!("{role}");
        };
        let [staying, left] = [staying, left].map(|bits| ParticipantId::from_bits(bits as u32));
        let dead = dead as u32;
        let pid = std::os::unix::process::parent_id();
        let table = table_of_the_parent();
        let me = table.join().unwrap();
        if !hide_the_others() {
            std::process::exit(FORBIDDEN);
        }
        // What is to be shown is the answer to this, and not to an unreadable `/proc`.
        assert!(fs::metadata(format!("/proc/{pid}/stat")).is_err());
        assert!(fs::metadata("/proc/thread-self/ns/pid").is_ok());
        assert!(!me.is_dead(staying) && !me.is_dead(left));
        assert_eq!(unfinished(pid, start), AttachError::Initialising { pid });
        let died = AttachError::CreatorDied { pid: dead };
        assert_eq!(unfinished(dead, start), died);
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let table = Participants::new(8).unwrap();
    let staying = table.join().unwrap();
    let left = table.join().unwrap().me();
    let mut dead = std::process::Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let ids = [staying.me(), left].map(ParticipantId::bits);
    let role = format!("{} {} {} {}", ids[0], ids[1], dead.id(), stat("self").1);
    let status = Child::run(test, &role, &[table.as_fd()]).wait();
    if status.code() == Some(FORBIDDEN) {
        println!("SKIPPED: this user may not mount a /proc of its own");
        return;
    }
    assert!(status.success(), "{status}");
}

#[test]
fn a_process_that_proc_takes_for_another_one_lives() {
    let test = "a_process_that_proc_takes_for_another_one_lives";
    if child::role().is_some() {
        // SAFETY: changes the PID namespace of children to come. `/proc` stays the old one's.
        if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
            std::process::exit(FORBIDDEN);
        }
        let status = reap(fork(|| {
            let table = table_of_the_parent();
            let me = table.join().unwrap();
            let pid = fork(|| {
                let _staying = join_and_leave(&table);
                sleep_for_ever();
            });
            assert_eq!(pid, 2, "the second one of its namespace");
            let own = fs::read_link("/proc/self").unwrap();
            assert_ne!(own.to_str(), Some("1"), "a /proc of another namespace");
            let [left, staying] = left_and_staying(&table);
            assert!(!me.is_dead(staying.id) && !me.is_dead(left.id));
            // This start time is not that of the other namespace's process 2.
            let start = stat("self").1;
            assert_eq!(unfinished(2, start), AttachError::Initialising { pid: 2 });
            // SAFETY: a child of ours that was not reaped.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            reap(pid);
            assert!(me.is_dead(staying.id) && me.is_dead(left.id));
            assert_eq!(unfinished(2, start), AttachError::CreatorDied { pid: 2 });
        }));
        std::process::exit(i32::from(status != 0));
    }
    let _watchdog = Watchdog::seconds(60);
    let table = Participants::new(4).unwrap();
    let status = Child::run(test, "container", &[table.as_fd()]).wait();
    if status.code() == Some(FORBIDDEN) {
        println!("SKIPPED: this user may not make a PID namespace");
        return;
    }
    assert!(status.success(), "{status}");
}
