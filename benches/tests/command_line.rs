//! What the comparison program says of a wrong filter and of a peer that is not there.

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
