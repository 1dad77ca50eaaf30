//! Who shares memory, and who of them is alive.
#![cfg(target_os = "linux")]

use std::os::fd::AsFd;

use multiprocess_core::{AttachError, CreateError, ParticipantId, Peers};
use multiprocess_shm::{MAX_PARTICIPANTS, ParticipantError, Participants};
use multiprocess_testkit::child::{self, Child};
use multiprocess_testkit::watchdog::Watchdog;

#[test]
fn absurd_sizes_are_refused() {
    for slots in [0, MAX_PARTICIPANTS + 1, u32::MAX] {
        assert!(matches!(
            Participants::new(slots).err(),
            Some(CreateError::Capacity { .. })
        ));
    }
}

#[test]
fn a_full_table_refuses_and_has_room_again_when_one_leaves() {
    let _watchdog = Watchdog::seconds(60);
    let table = Participants::new(2).unwrap();
    let (first, second) = (table.join().unwrap(), table.join().unwrap());
    assert_ne!(first.me(), second.me());
    assert_eq!(
        table.join().err(),
        Some(ParticipantError::Full { slots: 2 })
    );
    let left = first.me();
    drop(first);
    // Children that other tests fork keep a copy of the description until they execute.
    let third = loop {
        match table.join() {
            Ok(third) => break third,
            Err(_) => std::thread::yield_now(),
        }
    };
    assert_eq!(third.me().slot(), left.slot());
    assert_ne!(third.me(), left, "another epoch");
    assert!(second.is_dead(left) && !second.is_dead(third.me()));
}

#[test]
fn nobody_attests_the_death_of_the_unknown_or_of_oneself() {
    let table = Participants::new(4).unwrap();
    let me = table.join().unwrap();
    assert!(!me.is_dead(me.me()));
    assert!(!me.is_dead(ParticipantId::ANONYMOUS));
    assert!(!me.is_dead(ParticipantId::new(4, 1)), "no such slot");
    assert!(me.share_pid_namespace());
}

#[test]
fn epochs_wrap_past_zero() {
    let _watchdog = Watchdog::seconds(60);
    let table = Participants::new(1).unwrap();
    let first = table.join().unwrap().me();
    let mut last = first;
    for _ in 0..65_535 {
        // As above.
        last = loop {
            match table.join() {
                Ok(joined) => break joined.me(),
                Err(_) => std::thread::yield_now(),
            }
        };
        assert_ne!(last.epoch(), 0);
    }
    assert_eq!(last, first, "65535 lives later");
}

#[test]
fn another_object_is_not_a_table() {
    let other = multiprocess_shm::Shared::new(7u64).unwrap();
    let fd = other.as_fd().try_clone_to_owned().unwrap();
    assert!(matches!(
        Participants::attach(fd).err(),
        Some(AttachError::Layout { .. })
    ));
}

#[test]
fn a_killed_process_is_dead_and_a_stopped_one_is_not() {
    if child::role().is_some() {
        let table = Participants::attach(child::fd(0).try_clone_to_owned().unwrap()).unwrap();
        let _me = table.join().unwrap();
        std::thread::sleep(std::time::Duration::from_secs(600));
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let table = Participants::new(8).unwrap();
    let me = table.join().unwrap();
    let test = "a_killed_process_is_dead_and_a_stopped_one_is_not";
    let mut other = Child::run(test, "other", &[table.as_fd()]);
    let id = loop {
        let entry = table.entries().find(|entry| entry.id != me.me());
        match entry {
            Some(entry) if entry.is_alive => break entry.id,
            _ => std::thread::yield_now(),
        }
    };
    other.signal(19); // SIGSTOP
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(!me.is_dead(id), "stopped is not dead");
    other.kill();
    assert!(me.is_dead(id));
    let pids: Vec<_> = table.entries().map(|entry| entry.is_alive).collect();
    assert_eq!(pids, [true, false]);
}

#[test]
fn a_forked_child_is_somebody_else_and_keeps_nobody_alive() {
    let _watchdog = Watchdog::seconds(60);
    let table = Participants::new(4).unwrap();
    if child::role().is_some() {
        // In a process of its own, which forks with one thread.
        let (me, witness) = (table.join().unwrap(), table.join().unwrap());
        let parents = me.me();
        let mut ends = [0; 2];
        // SAFETY: a pipe into a local array.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        #[allow(clippy::disallowed_methods)] // forking is what is tested
        // SAFETY: the child makes system calls, looks at shared memory, and leaves by _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let mine = me.me();
            let apart = mine != parents && !mine.is_anonymous() && !me.is_dead(parents);
            // SAFETY: writes one byte of a local.
            unsafe { libc::write(ends[1], [u8::from(apart)].as_ptr().cast(), 1) };
            // SAFETY: waits to be killed, then ends.
            unsafe {
                libc::pause();
                libc::_exit(0);
            }
        }
        let mut apart = [0u8];
        // SAFETY: reads one byte into a local.
        let read = unsafe { libc::read(ends[0], apart.as_mut_ptr().cast(), 1) };
        assert_eq!(read, 1);
        assert_eq!(apart, [1], "the child is a participant of its own");
        drop(me); // the child's copy of the description is closed since it renewed itself
        assert!(
            !witness.is_dead(parents),
            "it has left, and its process lives"
        );
        let left = table.entries().find(|entry| entry.id == parents);
        assert!(left.is_some_and(|entry| !entry.is_alive));
        let childs = table.entries().find(|entry| entry.pid == pid as u32);
        assert!(childs.is_some_and(|entry| entry.is_alive));
        // SAFETY: a child of ours that was not reaped.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
        assert!(table.entries().filter(|entry| entry.is_alive).count() == 1);
        return;
    }
    let test = "a_forked_child_is_somebody_else_and_keeps_nobody_alive";
    assert!(Child::run(test, "parent", &[]).wait().success());
}

#[test]
fn a_dead_process_is_dead_though_its_child_holds_the_description() {
    let test = "a_dead_process_is_dead_though_its_child_holds_the_description";
    if child::role().is_some() {
        let table = Participants::attach(child::fd(0).try_clone_to_owned().unwrap()).unwrap();
        let _me = table.join().unwrap();
        #[allow(clippy::disallowed_methods)] // a child that never uses its copy
        // SAFETY: the child makes one system call.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: sleeps, and ends.
            unsafe {
                libc::sleep(20);
                libc::_exit(0);
            }
        }
        std::thread::sleep(std::time::Duration::from_secs(600));
        return;
    }
    let _watchdog = Watchdog::seconds(60);
    let table = Participants::new(8).unwrap();
    let me = table.join().unwrap();
    let mut parent = Child::run(test, "parent", &[table.as_fd()]);
    let id = loop {
        let entry = table.entries().find(|entry| entry.id != me.me());
        // Its child is there, too, or will be in a moment.
        match entry {
            Some(entry) if entry.is_alive => break entry.id,
            _ => std::thread::yield_now(),
        }
    };
    std::thread::sleep(std::time::Duration::from_millis(50));
    parent.kill();
    assert!(me.is_dead(id));
}
