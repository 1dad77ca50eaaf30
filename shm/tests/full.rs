//! A full file system and every limit give an error at creation, never a signal later.
//!
//! Limits are per process: each test re-executes this binary and sets them in the child.

use std::os::unix::process::CommandExt;
use std::process::Command;

use multiprocess_core::{CreateError, Errno};
use multiprocess_shm::Mapping;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, setrlimit};

const ROLE: &str = "MULTIPROCESS_TEST_ROLE";

/// Runs `test` again in a child with the given role. `Some(role)` in that child.
fn in_child(test: &str) -> bool {
    if std::env::var_os(ROLE).is_some() {
        return true;
    }
    let status = Command::new("/proc/self/exe")
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, test)
        .arg0(test)
        .status()
        .unwrap();
    assert!(status.success(), "{test} in its child: {status}");
    false
}

fn limit(resource: Resource, value: u64) {
    let limit = Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    setrlimit(resource, limit).unwrap();
}

#[test]
fn file_size_limit_is_an_error_and_no_signal() {
    if in_child("file_size_limit_is_an_error_and_no_signal") {
        limit(Resource::Fsize, 1 << 20);
        let error = Mapping::anonymous(c"test", 2 << 20).unwrap_err();
        let expected = CreateError::TooLarge {
            requested: 2 << 20,
            limit: 1 << 20,
        };
        assert_eq!(error, expected);
        Mapping::anonymous(c"test", 1 << 19).unwrap();
    }
}

#[test]
fn descriptor_limit_is_an_error() {
    if in_child("descriptor_limit_is_an_error") {
        limit(Resource::Nofile, 32);
        let mut kept = Vec::new();
        let error = loop {
            match Mapping::anonymous(c"test", 4096) {
                Ok(mapping) => kept.push(mapping),
                Err(error) => break error,
            }
        };
        assert_eq!(error, CreateError::System(Errno::MFILE));
        kept.pop();
        Mapping::anonymous(c"test", 4096).unwrap();
    }
}

#[test]
fn address_space_limit_is_an_error() {
    if in_child("address_space_limit_is_an_error") {
        limit(Resource::As, 1 << 30);
        let error = Mapping::anonymous(c"test", 1 << 30).unwrap_err();
        assert_eq!(error, CreateError::System(Errno::NOMEM));
    }
}

#[test]
fn a_full_tmpfs_is_an_error_at_creation() {
    if in_child("a_full_tmpfs_is_an_error_at_creation") {
        let dir = tempfile::tempdir().unwrap();
        if !mount_tmpfs(dir.path(), "size=1m") {
            println!("SKIPPED: a_full_tmpfs_is_an_error_at_creation may not mount a tmpfs here");
            return;
        }
        let file = |name: &str| -> OwnedFd {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
            rustix::fs::open(dir.path().join(name), flags, Mode::RUSR | Mode::WUSR).unwrap()
        };
        let half = Mapping::in_file(file("half"), 1 << 19).unwrap();
        let error = Mapping::in_file(file("whole"), 1 << 20).unwrap_err();
        assert_eq!(error, CreateError::NoSpace);
        // A file that is in use already is not ours to take.
        let error = Mapping::in_file(
            rustix::fs::open(dir.path().join("half"), OFlags::RDWR, Mode::empty()).unwrap(),
            4096,
        );
        assert_eq!(error.unwrap_err(), CreateError::System(Errno::EXIST));
        drop(half);
        assert!(
            Command::new("umount")
                .arg(dir.path())
                .status()
                .unwrap()
                .success()
        );
    }
}

fn mount_tmpfs(at: &std::path::Path, options: &str) -> bool {
    Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "none"])
        .arg(at)
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
