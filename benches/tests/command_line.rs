//! What the comparison program says of a wrong filter and of a peer that is not there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_multiprocess-benches"))
}

#[test]
fn a_filter_that_matches_nothing_is_an_error() {
    let (output, said) = run(program().arg("no such line"));
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("\"no such line\""), "{said}");
}

#[test]
fn a_peer_that_is_not_installed_is_skipped() {
    let (output, said) = run(program()
        .args(["process/forkserver-start", "--reps", "1", "--check"])
        .env("PATH", "/nonexistent"));
    assert!(output.status.success(), "{said}");
    assert!(said.contains("skipped: "), "{said}");
}

/// The Boost lines alone, with the compilers in `path`.
fn boost_lines(path: &Path) -> String {
    let (output, said) = run(program()
        .args(["/boost", "--reps", "1", "--check"])
        .env("PATH", path));
    assert!(output.status.success(), "{said}");
    assert!(output.stdout.is_empty(), "{said}");
    said
}

#[test]
fn without_a_compiler_the_boost_lines_are_skipped_by_one_line() {
    let said = boost_lines(Path::new("/nonexistent"));
    assert!(is_skipped(&said, "no C++ compiler"), "{said}");
}

#[test]
fn without_headers_the_boost_lines_are_skipped_by_one_line() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-boost");
    fs::create_dir_all(&folder).unwrap();
    let compiler = folder.join("c++");
    fs::write(&compiler, "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755)).unwrap();
    let said = boost_lines(&folder);
    assert!(
        is_skipped(&said, "no boost headers (Debian: libboost-dev)"),
        "{said}"
    );
}

/// One line; on a machine with one CPU nothing is compared at all.
fn is_skipped(said: &str, why: &str) -> bool {
    let lines: Vec<_> = said.lines().collect();
    matches!(lines[..], [line] if line.starts_with(&format!("boost: skipped, {why}"))
        || line.contains("one CPU only"))
}
