//! The example program, run as a user runs it: right answers, deaths, bad input.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use multiprocess_testkit::watchdog::Watchdog;

const METHODS: [&str; 3] = ["forkserver", "spawn", "fork"];

/// The example that `cargo test` has built beside this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().with_file_name("examples/wordcount");
    assert!(
        path.exists(),
        "{} is missing: `cargo test` builds it, `cargo test --test` does not",
        path.display()
    );
    path
}

fn wordcount(directory: &Path) -> Command {
    let mut command = Command::new(program());
    command.arg(directory).stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the example starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_code(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

/// `files` files of one to three lines; every file has the word "common" once.
fn many_files(files: usize) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for i in 0..files {
        let folder = directory.path().join((i % 100).to_string());
        fs::create_dir_all(&folder).unwrap();
        let line = format!("common word_{} word_{}\n", i % 17, i % 1001);
        fs::write(folder.join(format!("{i}.txt")), line.repeat(1 + i % 3)).unwrap();
    }
    directory
}

#[test]
fn all_methods_and_worker_counts_agree_on_ten_thousand_files() {
    let _watchdog = Watchdog::seconds(300);
    let directory = many_files(10_000);
    let mut tops = BTreeSet::new();
    for method in METHODS {
        for workers in ["1", "2", "8"] {
            let output = run(wordcount(directory.path()).args([
                "--verify",
                "--workers",
                workers,
                "--start-method",
                method,
            ]));
            assert_code(&output, 0);
            let stdout = text(&output.stdout);
            assert!(stdout.contains("verified:"), "{stdout}");
            // 3334 files of one line, 3333 of two, 3333 of three.
            assert!(stdout.contains("       19999  common\n"), "{stdout}");
            assert!(stdout.contains(" in 10000 files, "), "{stdout}");
            tops.insert(
                stdout
                    .lines()
                    .skip(1)
                    .take(21)
                    .collect::<Vec<_>>()
                    .join("\n"),
            );
        }
    }
    assert_eq!(tops.len(), 1, "nine runs, one answer");
}

#[test]
fn all_methods_agree_on_the_registry() {
    let _watchdog = Watchdog::seconds(300);
    for (method, workers) in METHODS.into_iter().zip(["2", "8", "1"]) {
        let output = run(Command::new(program()).args([
            "--verify",
            "--workers",
            workers,
            "--start-method",
            method,
        ]));
        // Sources in the registry need not all be UTF-8, but all are readable.
        assert_code(&output, 0);
        assert!(text(&output.stdout).contains("verified:"));
    }
}

// ---- deaths

/// Parent and state of a process; `None` if there is none or it is dead.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(parent)
}

fn processes() -> Vec<(i32, i32)> {
    let entries = fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent_of(pid)?)))
        .collect()
}

/// Living descendants of `root`; those without children of their own come in `leaves`.
fn descendants(root: i32) -> (Vec<i32>, Vec<i32>) {
    let all = processes();
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(all.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| pid));
        next += 1;
    }
    found.remove(0);
    let is_leaf = |pid: &&i32| !all.iter().any(|(_, parent)| parent == *pid);
    let leaves = found.iter().filter(is_leaf).copied().collect();
    (found, leaves)
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: no memory involved; the pid is a descendant of ours.
    unsafe { libc::kill(pid, signal) };
}

/// A run of three workers, stopped in the middle; all its processes, and its workers.
#[expect(
    clippy::zombie_processes,
    reason = "the caller waits for what is returned"
)]
fn stopped_run(directory: &Path, method: &str) -> (Child, Vec<i32>, Vec<i32>) {
    loop {
        let mut child = wordcount(directory)
            .args(["--verify", "--workers", "3", "--start-method", method])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        loop {
            signal(pid, libc::SIGSTOP);
            // A moment, so that what it has asked for before is there.
            std::thread::sleep(Duration::from_millis(20));
            let (all, leaves) = descendants(pid);
            // A forkserver is a leaf, too, until it has workers.
            let hired = leaves.len() == 3;
            if hired {
                return (child, all, leaves);
            }
            signal(pid, libc::SIGCONT);
            if parent_of(pid).is_none() {
                child.wait().unwrap();
                break; // it was faster than we: again
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_killed_worker_is_named_and_replaced() {
    let _watchdog = Watchdog::seconds(120);
    let directory = many_files(10_000);
    for method in METHODS {
        let (child, all, workers) = stopped_run(directory.path(), method);
        signal(workers[1], libc::SIGKILL);
        signal(child.id() as i32, libc::SIGCONT);
        let output = child.wait_with_output().unwrap();
        assert_code(&output, 0);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(stdout.contains("verified:"), "{stdout}");
        let named = format!("(pid {}): the process was killed by SIGKILL", workers[1]);
        assert!(
            stderr.contains("worker ") && stderr.contains(&named),
            "{stderr}"
        );
        assert_all_end(&all);
    }
}

#[test]
fn chaos_loses_nothing_and_counts_nothing_twice() {
    let _watchdog = Watchdog::seconds(300);
    let directory = many_files(10_000);
    for method in METHODS {
        for workers in ["1", "2", "5"] {
            let before = shared_files();
            let output = run(wordcount(directory.path()).args([
                "--chaos",
                "--verify",
                "--workers",
                workers,
                "--start-method",
                method,
            ]));
            assert_code(&output, 0);
            let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
            assert!(stdout.contains("verified:"), "{stdout}");
            assert!(stdout.contains("       19999  common\n"), "{stdout}");
            // The first worker is killed at once, so there is one at least.
            assert!(stderr.contains(" workers killed, "), "{stderr}");
            let after = shared_files();
            assert!(after.is_subset(&before), "{method}: {before:?} {after:?}");
        }
    }
}

#[test]
fn a_file_that_kills_every_worker_ends_the_run() {
    let _watchdog = Watchdog::seconds(120);
    let directory = tempfile::tempdir().unwrap();
    // More different words than a worker has memory for.
    let words: String = (0..2_000_000).map(|i| format!("{i}\n")).collect();
    fs::write(directory.path().join("poison"), words).unwrap();
    for method in METHODS {
        let mut command = wordcount(directory.path());
        command.args(["--workers", "1", "--start-method", method]);
        // SAFETY: setrlimit is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                let limit = libc::rlimit {
                    rlim_cur: 128 << 20,
                    rlim_max: 128 << 20,
                };
                libc::setrlimit(libc::RLIMIT_AS, &limit);
                Ok(())
            });
        }
        let output = run(&mut command);
        assert_code(&output, 3);
        let stderr = text(&output.stderr);
        assert!(stderr.contains("killed by SIGABRT; 4 in a row"), "{stderr}");
    }
}

#[test]
fn a_killed_parent_leaves_nothing_behind() {
    let _watchdog = Watchdog::seconds(120);
    let directory = many_files(10_000);
    for method in METHODS {
        let before = shared_files();
        let (mut child, all, _) = stopped_run(directory.path(), method);
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert_all_end(&all);
        let after = shared_files();
        assert!(after.is_subset(&before), "{method}: {before:?} {after:?}");
    }
}

/// Ends when all are dead; the watchdog objects if they do not die.
fn assert_all_end(pids: &[i32]) {
    while pids.iter().any(|pid| parent_of(*pid).is_some()) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn shared_files() -> BTreeSet<PathBuf> {
    let entries = fs::read_dir("/dev/shm").into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

// ---- input

#[test]
fn a_directory_that_does_not_exist_is_a_clear_error() {
    let output = run(&mut wordcount(Path::new("/does/not/exist")));
    assert_code(&output, 2);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("/does/not/exist: No such file"), "{stderr}");
}

#[test]
fn a_file_is_no_directory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = run(&mut wordcount(file.path()));
    assert_code(&output, 2);
    assert!(text(&output.stderr).contains("Not a directory"));
}

#[test]
fn an_empty_directory_has_nothing_to_count() {
    let directory = tempfile::tempdir().unwrap();
    let output = run(&mut wordcount(directory.path()));
    assert_code(&output, 0);
    assert!(text(&output.stdout).contains("nothing to count"));
}

#[test]
fn what_is_no_text_is_named_and_skipped() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("text"), "eins zwei zwei").unwrap();
    fs::write(directory.path().join("noise"), [0xff, 0xfe, b'a']).unwrap();
    let strange = std::ffi::OsStr::from_bytes(b"na\xffme");
    fs::write(directory.path().join(strange), "zwei").unwrap();
    let output = run(wordcount(directory.path()).args(["--verify", "--workers", "2"]));
    assert_code(&output, 0);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(
        stderr.contains("noise: not UTF-8 text, skipped"),
        "{stderr}"
    );
    assert!(stdout.contains("           3  zwei\n"), "{stdout}");
    assert!(
        stdout.contains("4 words (2 different) in 2 files, 18 bytes; 1 not UTF-8, 0 unreadable"),
        "{stdout}"
    );
}

#[test]
fn what_cannot_be_read_is_named_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), open.clone()).unwrap();
    fs::write(directory.path().join("text"), "one").unwrap();
    let secret = directory.path().join("secret");
    fs::write(&secret, "two").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads everything: be somebody else, with a copy of the program that they may run.
    let copy = directory.path().join("program");
    fs::copy(program(), &copy).unwrap();
    fs::set_permissions(&copy, open).unwrap();
    let mut command = Command::new(&copy);
    command.arg(directory.path()).args(["--verify"]);
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } == 0 {
        command.uid(65534).gid(65534);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            println!("SKIPPED: cannot become another user: {error}");
            return;
        }
    };
    assert_code(&output, 1);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(stderr.contains("secret: Permission denied"), "{stderr}");
    // The copy of the program is no text.
    assert!(
        stdout.contains("in 1 files, 3 bytes; 1 not UTF-8, 1 unreadable"),
        "{stdout}"
    );
}

#[test]
fn wrong_usage_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for wrong in [
        ["--workers", "0"],
        ["--workers", "100000"],
        ["--workers", "-1"],
        ["--workers", "many"],
        ["--start-method", "magic"],
    ] {
        let output = run(wordcount(directory.path()).args(wrong));
        assert_code(&output, 2);
        assert!(text(&output.stderr).contains(wrong[1]), "{wrong:?}");
    }
}

#[test]
fn more_workers_than_descriptors_is_an_error_at_the_start() {
    let _watchdog = Watchdog::seconds(60);
    let directory = many_files(10);
    for method in METHODS {
        let mut command = wordcount(directory.path());
        command.args(["--workers", "100", "--start-method", method]);
        // SAFETY: setrlimit is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                let limit = libc::rlimit {
                    rlim_cur: 64,
                    rlim_max: 64,
                };
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
                Ok(())
            });
        }
        let output = run(&mut command);
        assert_code(&output, 2);
        assert!(text(&output.stderr).contains("wordcount: "));
    }
}

// ---- output

#[test]
fn a_reader_that_has_gone_is_left_quietly() {
    let _watchdog = Watchdog::seconds(60);
    let directory = many_files(10);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = run(wordcount(directory.path()).stdout(writer));
    assert_code(&output, 141);
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_full_disk_is_one_line_and_an_exit_code() {
    let _watchdog = Watchdog::seconds(60);
    let directory = many_files(10);
    for dir in [directory.path(), tempfile::tempdir().unwrap().path()] {
        let full = fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let output = run(wordcount(dir).stdout(full));
        assert_code(&output, 5);
        let stderr = text(&output.stderr);
        assert!(
            stderr.contains("standard output: No space left"),
            "{stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    // And nobody dies of complaints that cannot be written.
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = run(wordcount(Path::new("/does/not/exist")).stderr(full));
    assert_code(&output, 2);
}

#[test]
fn files_without_an_end_are_named_and_skipped() {
    let _watchdog = Watchdog::seconds(60);
    // The page tables of a process, as a file: size 0, and gigabytes long.
    let own = PathBuf::from(format!("/proc/{}/task/{0}/", std::process::id()));
    let output = run(wordcount(&own).args(["--workers", "1"]));
    let stderr = text(&output.stderr);
    assert_code(&output, 1);
    assert!(
        stderr.contains("pagemap: says it is empty, and does not end"),
        "{stderr}"
    );
}
