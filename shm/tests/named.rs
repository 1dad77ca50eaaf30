//! Named segments: who makes them, who finds them, who removes them. Nothing here forks, so that
//! nobody else has a copy of a descriptor.
#![cfg(target_os = "linux")]

use std::alloc::Layout;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use multiprocess_core::atomic::{AtomicU64, Ordering::Relaxed};
use multiprocess_core::{AttachError, CreateError, Errno, LayoutHash, Memory, Region};
use multiprocess_shm::{
    DIRECTORY, HugePages, Named, NamedError, NamedInfo, NamedSegment, NamedState, Options,
    SharedMemory, clean_up, list,
};

const LAYOUT: LayoutHash = LayoutHash::of("a word, version 1");
const WORD: Layout = Layout::new::<u64>();

/// A name of this test's own; whatever is left of it goes with it.
struct Scratch(Named);

impl Scratch {
    fn new(test: &str) -> Self {
        let name = format!("multiprocess-test-{}-{test}", std::process::id());
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

fn never(_: Region<'_>) -> Result<(), CreateError> {
    panic!("it is there already")
}

#[test]
fn the_first_makes_it_and_the_others_find_it() {
    let scratch = Scratch::new("first");
    let first = scratch.0.open_or_create(LAYOUT, WORD, sets(7)).unwrap();
    let second = scratch.0.open_or_create(LAYOUT, WORD, never).unwrap();
    let third = scratch.0.open(LAYOUT).unwrap();
    assert!(first.is_creator() && !second.is_creator() && !third.is_creator());
    word(&second).store(8, Relaxed);
    assert_eq!(word(&third).load(Relaxed), 8);
    assert_eq!(
        scratch.0.create(LAYOUT, WORD, never).unwrap_err(),
        NamedError::AlreadyExists
    );
}

#[test]
fn only_its_user_may_open_it() {
    let scratch = Scratch::new("mode");
    let made = scratch.0.create(LAYOUT, WORD, sets(1)).unwrap();
    let mode = fs::metadata(scratch.0.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(made.payload().len(), 8);
}

#[test]
fn the_last_one_removes_a_tracked_name() {
    let scratch = Scratch::new("last");
    let first = scratch.0.create(LAYOUT, WORD, sets(1)).unwrap();
    let second = scratch.0.open(LAYOUT).unwrap();
    drop(first);
    assert!(scratch.exists(), "somebody uses it");
    assert!(!scratch.info().unwrap().is_leftover());
    drop(second);
    assert!(!scratch.exists());
    assert_eq!(scratch.0.open(LAYOUT).unwrap_err(), NamedError::NotFound);
}

#[test]
fn an_untracked_name_stays_and_keeps_its_content() {
    let _one = one_that_cleans();
    let scratch = Scratch::new("untracked");
    let named = scratch.0.clone().tracked(false);
    let made = named.create(LAYOUT, WORD, sets(5)).unwrap();
    assert!(!made.is_tracked());
    drop(made);
    assert!(scratch.exists());
    assert_eq!(
        clean_up(DIRECTORY).map(|_| scratch.exists()).ok(),
        Some(true)
    );
    // What its maker said is what counts.
    let found = scratch.0.open_or_create(LAYOUT, WORD, never).unwrap();
    assert!(!found.is_tracked());
    assert_eq!(word(&found).load(Relaxed), 5);
    drop(found);
    named.remove().unwrap();
    assert_eq!(named.remove(), Err(NamedError::NotFound));
}

#[test]
fn a_clone_keeps_the_name() {
    let _one = one_that_cleans();
    let scratch = Scratch::new("clone");
    let made = scratch.0.create(LAYOUT, WORD, sets(5)).unwrap();
    let clone = made.try_clone().unwrap();
    drop(made);
    assert!(scratch.exists());
    drop(clone);
    assert!(
        scratch.info().unwrap().is_leftover(),
        "a clone knows no name"
    );
    assert_eq!(scratch.0.open(LAYOUT).unwrap_err(), NamedError::NotFound);
    assert!(!scratch.exists());
}

#[test]
fn a_failed_initialisation_leaves_nothing() {
    let scratch = Scratch::new("failed");
    let full = |_: Region<'_>| Err(CreateError::NoSpace);
    assert_eq!(
        scratch.0.create(LAYOUT, WORD, full).unwrap_err(),
        NamedError::Create(CreateError::NoSpace)
    );
    assert!(!scratch.exists());
    let too_large = Layout::from_size_align(1 << 62, 8).unwrap();
    assert!(matches!(
        scratch.0.create(LAYOUT, too_large, never).unwrap_err(),
        NamedError::Create(CreateError::TooLarge { .. })
    ));
    assert!(!scratch.exists());
}

#[test]
fn another_layout_is_refused() {
    let scratch = Scratch::new("layout");
    let _made = scratch.0.create(LAYOUT, WORD, sets(1)).unwrap();
    let other = LayoutHash::of("a word, version 2");
    for refused in [
        scratch.0.open(other),
        scratch.0.open_or_create(other, WORD, never),
    ] {
        assert!(matches!(
            refused.unwrap_err(),
            NamedError::Attach(AttachError::Layout { .. })
        ));
    }
    assert!(scratch.exists());
}

#[test]
fn names_that_are_none_are_refused() {
    let long = "x".repeat(256);
    for name in ["", "/", ".", "..", "a/b", "//a", "a\0b", &long] {
        assert_eq!(
            Named::new(name).unwrap_err(),
            NamedError::InvalidName,
            "{name:?}"
        );
    }
    let slashed = Named::new("/a").unwrap();
    assert_eq!(slashed.path(), Named::new("a").unwrap().path());
}

#[test]
fn a_missing_directory_is_told_from_a_missing_name() {
    let directory = tempfile::tempdir().unwrap();
    let named = Named::at(directory.path().join("none/name"));
    for refused in [named.open(LAYOUT), named.create(LAYOUT, WORD, never)] {
        assert_eq!(refused.unwrap_err(), NamedError::NoDirectory);
    }
    let named = Named::at(directory.path().join("name"));
    assert_eq!(named.open(LAYOUT).unwrap_err(), NamedError::NotFound);
}

#[test]
fn strangers_files_are_refused_and_stay_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stranger");
    let named = Named::at(&path);
    let zeroes = [0u8; 4096];
    for content in [&b"a letter"[..], &zeroes[..], &zeroes[..100], &[0xff; 300]] {
        fs::write(&path, content).unwrap();
        for refused in [
            named.open(LAYOUT),
            named.create(LAYOUT, WORD, never),
            named.open_or_create(LAYOUT, WORD, never),
        ] {
            assert!(matches!(refused.unwrap_err(), NamedError::Attach(_)));
        }
        assert_eq!(fs::read(&path).unwrap(), content);
        assert_eq!(clean_up(directory.path()).unwrap(), 0);
    }
}

#[test]
fn an_empty_file_that_is_not_ours_is_neither_taken_nor_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes");
    let named = Named::at(&path);
    fs::write(&path, b"").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    let empty = NamedError::Attach(AttachError::Empty);
    for refused in [
        named.open(LAYOUT),
        named.create(LAYOUT, WORD, never),
        named.open_or_create(LAYOUT, WORD, never),
    ] {
        assert_eq!(refused.unwrap_err(), empty);
    }
    assert_eq!(named.open_read_only(LAYOUT).unwrap_err(), empty);
    // As Python's is, between its `shm_open` and its `ftruncate`.
    assert_eq!(SharedMemory::create_as(&named, 10).unwrap_err(), empty);
    assert_eq!(SharedMemory::open_as(&named).unwrap_err(), empty);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.ino(), metadata.mode() & 0o7777), (inode, 0o644));
}

/// Locks the byte of users as a process does that makes or removes: `F_OFD_SETLK`.
fn lock_as(file: &fs::File, kind: i32) {
    // SAFETY: all zeroes are a lock of nothing.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_start, lock.l_len) = (kind as i16, 1 << 62, 1);
    // SAFETY: an open file, and a lock that outlives the call.
    let locked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
    assert_eq!(locked, 0);
}

#[test]
fn who_makes_it_is_alone_and_what_it_left_is_made_anew() {
    let _one = one_that_cleans();
    let scratch = Scratch::new("unfinished");
    let impatient = scratch.0.clone().timeout(Duration::ZERO);
    let maker = || {
        let mut options = fs::OpenOptions::new();
        let options = options.read(true).write(true).create_new(true);
        let file = options.mode(0o1600).open(scratch.0.path()).unwrap();
        lock_as(&file, libc::F_WRLCK);
        file
    };
    let mut begun = [0; 200];
    begun[..16].copy_from_slice(b"MPRCSEG1\x01\0\0\0\x01\0\0\0");
    for half in [&b""[..], &[0; 200], &begun] {
        let file = maker();
        fs::write(scratch.0.path(), half).unwrap();
        for refused in [
            impatient.open(LAYOUT),
            impatient.create(LAYOUT, WORD, never),
            impatient.open_or_create(LAYOUT, WORD, never),
        ] {
            assert_eq!(refused.unwrap_err(), NamedError::Timeout);
        }
        let refused = impatient.open_read_only(LAYOUT).unwrap_err();
        assert_eq!(refused, NamedError::Timeout);
        drop(file); // as a kill does
        let refused = impatient.open_read_only(LAYOUT).unwrap_err();
        assert_eq!(refused, NamedError::NotFound, "nobody makes it");
        assert!(scratch.exists());
        let made = impatient.open_or_create(LAYOUT, WORD, sets(1)).unwrap();
        assert!(made.is_creator());
    }
}

#[test]
fn a_panic_in_init_leaves_nothing() {
    let scratch = Scratch::new("panic");
    for named in [scratch.0.clone(), scratch.0.clone().tracked(false)] {
        let panicked = std::panic::catch_unwind(|| named.create(LAYOUT, WORD, never).is_ok());
        assert!(panicked.is_err());
        assert!(!scratch.exists());
    }
}

#[test]
fn links_directories_and_pipes_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { directory.path().join(name) };
    let target = Named::at(path("target"));
    let _made = target.create(LAYOUT, WORD, sets(1)).unwrap();
    std::os::unix::fs::symlink(path("target"), path("link")).unwrap();
    fs::create_dir(path("directory")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    for name in ["link", "directory", "pipe"] {
        let named = Named::at(path(name));
        for refused in [
            named.open(LAYOUT),
            named.open_or_create(LAYOUT, WORD, never),
        ] {
            assert_eq!(refused.unwrap_err(), NamedError::NotAFile, "{name}");
        }
    }
    assert_eq!(clean_up(directory.path()).unwrap(), 0);
}

#[test]
fn files_of_other_users_are_refused_unless_wanted() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can make a file of another user");
        return;
    }
    let scratch = Scratch::new("foreign");
    let _made = scratch.0.create(LAYOUT, WORD, sets(9)).unwrap();
    std::os::unix::fs::chown(scratch.0.path(), Some(12345), None).unwrap();
    assert_eq!(
        scratch.0.open(LAYOUT).unwrap_err(),
        NamedError::ForeignOwner { uid: 12345 }
    );
    let found = scratch.0.clone().any_owner(true).open(LAYOUT).unwrap();
    assert_eq!(word(&found).load(Relaxed), 9);
}

/// Runs `work` as a user without privileges, who owns the directory that it gets. Of this thread only
/// is that user the effective one.
fn as_a_plain_user(work: impl FnOnce(&std::path::Path) + Send) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(PLAIN_USER), None).unwrap();
    std::thread::scope(|threads| {
        let user = threads.spawn(|| {
            // SAFETY: changes numbers of this thread, which ends soon.
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, PLAIN_USER, -1) };
            assert_eq!(changed, 0);
            work(directory.path());
        });
        user.join().unwrap();
    });
}

const PLAIN_USER: u32 = 12345;

#[test]
fn a_file_that_another_user_keeps_to_himself_is_a_foreign_owners() {
    let scratch = Scratch::new("private");
    let _made = scratch.0.create(LAYOUT, WORD, sets(9)).unwrap();
    as_a_plain_user(|_| {
        let foreign = NamedError::ForeignOwner { uid: 0 };
        for refused in [
            scratch.0.open(LAYOUT),
            scratch.0.create(LAYOUT, WORD, never),
            scratch.0.open_or_create(LAYOUT, WORD, never),
        ] {
            assert_eq!(refused.unwrap_err(), foreign);
        }
        assert_eq!(scratch.0.open_read_only(LAYOUT).unwrap_err(), foreign);
        let wanted = scratch.0.clone().any_owner(true);
        let denied = NamedError::System(Errno::ACCESS);
        assert_eq!(wanted.open(LAYOUT).unwrap_err(), denied);
        assert_eq!(wanted.open_read_only(LAYOUT).unwrap_err(), denied);
    });
}

#[test]
fn a_file_that_a_dead_makers_umask_has_left_without_rights_is_made_anew_or_cleaned_up() {
    as_a_plain_user(|directory| {
        let named = Named::at(directory.join("name"));
        let left = || {
            fs::write(named.path(), b"").unwrap();
            fs::set_permissions(named.path(), fs::Permissions::from_mode(0o1000)).unwrap();
            let denied = fs::File::open(named.path()).unwrap_err();
            assert_eq!(denied.kind(), std::io::ErrorKind::PermissionDenied);
        };
        left();
        let refused = named.open_read_only(LAYOUT).unwrap_err();
        assert_eq!(refused, NamedError::NotFound);
        assert!(list(directory).unwrap()[0].is_leftover());
        assert_eq!(clean_up(directory).unwrap(), 1);
        left();
        assert_eq!(named.open(LAYOUT).unwrap_err(), NamedError::NotFound);
        assert!(!named.path().exists());
        for make in [Named::create, Named::open_or_create] {
            left();
            let made = make(&named, LAYOUT, WORD, sets(1)).unwrap();
            assert!(made.is_creator());
            let mode = fs::metadata(named.path()).unwrap().mode();
            assert_eq!(mode & 0o7777, 0o1600);
        }
        // Not ours, and left as it is.
        fs::write(named.path(), b"").unwrap();
        fs::set_permissions(named.path(), fs::Permissions::from_mode(0o0)).unwrap();
        let refused = named.open_or_create(LAYOUT, WORD, never).unwrap_err();
        assert_eq!(refused, NamedError::System(Errno::ACCESS));
        assert!(list(directory).unwrap().is_empty());
    });
}

#[test]
fn what_was_made_before_the_boot_is_refused() {
    let scratch = Scratch::new("boot");
    let named = scratch.0.clone().tracked(false);
    drop(named.create(LAYOUT, WORD, sets(3)).unwrap());
    // The boot it was made in, at 0x38 of the header.
    let mut bytes = fs::read(named.path()).unwrap();
    bytes[0x38] ^= 1;
    fs::write(named.path(), bytes).unwrap();
    for refused in [
        named.open(LAYOUT),
        named.open_or_create(LAYOUT, WORD, never),
    ] {
        assert_eq!(
            refused.unwrap_err(),
            NamedError::Attach(AttachError::OtherBoot)
        );
    }
    let found = named.clone().survives_boot(true).open(LAYOUT).unwrap();
    assert_eq!(word(&found).load(Relaxed), 3);
}

#[test]
fn reading_is_all_that_a_reader_can_do() {
    let scratch = Scratch::new("reader");
    assert_eq!(
        scratch.0.open_read_only(LAYOUT).unwrap_err(),
        NamedError::NotFound
    );
    let made = scratch.0.create(LAYOUT, WORD, sets(4)).unwrap();
    let reader = scratch.0.open_read_only(LAYOUT).unwrap();
    // SAFETY: mapped, aligned, and read by a load.
    let seen: &AtomicU64 = unsafe { reader.payload().base().cast().as_ref() };
    word(&made).store(5, Relaxed);
    assert_eq!(seen.load(Relaxed), 5);
    drop(made);
    assert!(scratch.exists(), "a reader is a user");
    drop(reader);
    assert_eq!(
        scratch.0.open_read_only(LAYOUT).unwrap_err(),
        NamedError::NotFound
    );
}

#[test]
fn a_reader_that_is_the_last_user_removes_a_tracked_name_and_no_other() {
    let scratch = Scratch::new("read-last");
    let made = scratch.0.create(LAYOUT, WORD, sets(4)).unwrap();
    let readers = [(); 2].map(|()| scratch.0.open_read_only(LAYOUT).unwrap());
    assert!(readers[0].is_tracked() && readers[0].path() == made.path());
    drop(made);
    let [first, second] = readers;
    drop(first);
    assert!(scratch.exists(), "another one reads it");
    drop(second);
    assert!(!scratch.exists());

    drop(
        scratch
            .0
            .clone()
            .tracked(false)
            .create(LAYOUT, WORD, sets(4)),
    );
    let reader = scratch.0.open_read_only(LAYOUT).unwrap();
    assert!(!reader.is_tracked());
    drop(reader);
    assert!(scratch.exists());
}

#[test]
fn a_name_that_another_memory_has_got_since_is_not_unlinked() {
    let scratch = Scratch::new("unlinked");
    let first = SharedMemory::create_as(&scratch.0, 10).unwrap();
    first.unlink().unwrap();
    let second = SharedMemory::create_as(&scratch.0, 20).unwrap();
    assert_eq!(first.unlink(), Err(NamedError::NotFound));
    drop(first);
    assert_eq!(SharedMemory::open_as(&scratch.0).unwrap().size(), 20);
    second.unlink().unwrap();
    assert!(!scratch.exists());
}

#[test]
fn a_relative_path_leads_to_the_same_file_from_anywhere() {
    let [here, there] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    std::env::set_current_dir(here.path()).unwrap();
    let named = Named::at("relative");
    std::env::set_current_dir(there.path()).unwrap();
    let made = named.create(LAYOUT, WORD, sets(1)).unwrap();
    let path = here.path().canonicalize().unwrap().join("relative");
    assert!(path.exists());
    std::env::set_current_dir("/").unwrap();
    drop(made);
    assert!(!path.exists());
}

#[test]
fn options_that_a_name_cannot_have_are_refused() {
    let scratch = Scratch::new("options");
    let pool = Options::new().huge_pages(HugePages::Pool);
    for (options, option) in [
        (Options::new().one_writer(true), "one_writer"),
        (pool, "huge_pages"),
    ] {
        let named = scratch.0.clone().options(options);
        let unsupported = NamedError::Unsupported { option };
        for refused in [
            named.open(LAYOUT),
            named.create(LAYOUT, WORD, never),
            named.open_or_create(LAYOUT, WORD, never),
        ] {
            assert_eq!(refused.unwrap_err(), unsupported);
        }
        assert_eq!(
            SharedMemory::create_as(&named, 10).unwrap_err(),
            unsupported
        );
    }
    let options = Options::new().huge_pages(HugePages::Advised);
    let named = scratch.0.clone().options(options.populated(true));
    assert!(named.create(LAYOUT, WORD, sets(1)).is_ok());
}

#[test]
fn a_maker_that_stands_still_is_waited_for_and_then_told() {
    let _one = one_that_cleans();
    let scratch = Scratch::new("stopped");
    let impatient = scratch.0.clone().timeout(Duration::from_millis(20));
    let made = scratch.0.create(LAYOUT, WORD, |_| {
        assert!(matches!(
            scratch.info().unwrap().state,
            NamedState::Unfinished {
                creator_died: false,
                ..
            }
        ));
        for refused in [
            impatient.open(LAYOUT),
            impatient.create(LAYOUT, WORD, never),
            impatient.open_or_create(LAYOUT, WORD, never),
        ] {
            assert_eq!(refused.unwrap_err(), NamedError::Timeout);
        }
        assert_eq!(
            impatient.open_read_only(LAYOUT).unwrap_err(),
            NamedError::Timeout
        );
        assert_eq!(
            clean_up(DIRECTORY).map(|_| scratch.exists()).ok(),
            Some(true)
        );
        Ok(())
    });
    assert!(made.is_ok());
}
