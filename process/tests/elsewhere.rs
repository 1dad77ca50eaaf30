//! Programs built in other ways than this one: LTO with everything stripped and `panic = "abort"`,
//! static musl, without the hook before `main`, and a library in python.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use multiprocess::{Context, Forkserver, JoinError, RawArray};
use multiprocess_testkit::watchdog::Watchdog;

/// Builds tests/elsewhere; where its programs are. One at a time: they share a target directory.
fn build(target: &str, arguments: &[&str]) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/elsewhere");
    let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("elsewhere");
    let built = Command::new(env!("CARGO"))
        .current_dir(&source)
        .args(["build", "--quiet", "--target", target, "--target-dir"])
        .arg(&target_dir)
        .args(arguments)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .unwrap();
    assert!(
        built.success(),
        "tests/elsewhere does not build for {target}"
    );
    target_dir.join(target)
}

fn gnu() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Runs a program to its end; what it says.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complains = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{:?}: {said}{complains}",
        output.status
    );
    said
}

#[test]
fn a_program_with_lto_stripped_and_aborting_works_and_is_called_by_name() {
    let _watchdog = Watchdog::seconds(600);
    let programs = build(&gnu(), &["--release"]).join("release");
    let program = programs.join("elsewhere");
    assert_eq!(run(&mut Command::new(&program)), "works\n");

    let server = Forkserver::new().program(&program).start().unwrap();
    for context in [Context::spawn_program(&program).unwrap(), server] {
        let shared = RawArray::<u64>::zeroed(1).unwrap();
        let args = (vec![40u64, 2], shared.clone());
        let named = context
            .spawn_named::<_, u64>("elsewhere.sum", args)
            .unwrap();
        assert_eq!((named.join().unwrap(), shared.get(0)), (42, Some(42)));
        // A function of ours has no place in another build.
        match context.spawn(|()| (), ()).unwrap().join().unwrap_err() {
            JoinError::Refused(why) => assert!(why.contains("another build"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    let preload = Forkserver::new().program(&program).preload(|| ()).start();
    let why = preload.unwrap_err().to_string();
    assert!(why.contains("another build"), "{why}");

    // The documented way into a foreign executable.
    let library = programs.join("libelsewhere.so");
    let call = "import ctypes, sys; \
        print(ctypes.CDLL(sys.argv[1]).check_in_foreign_executable(sys.argv[1].encode()))";
    if Command::new("python3").arg("-V").output().is_ok() {
        let mut python = Command::new("python3");
        assert_eq!(run(python.args(["-c", call]).arg(&library)), "42\n");
    }
}

#[test]
fn a_static_program_works() {
    let _watchdog = Watchdog::seconds(600);
    let musl = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let mut rustc = Command::new("rustc");
    let rustc = rustc.args(["--print", "target-libdir", "--target", &musl]);
    let libraries = String::from_utf8(rustc.output().unwrap().stdout).unwrap();
    if !Path::new(libraries.trim()).exists() {
        eprintln!("not run: rustup target add {musl}");
        return;
    }
    let program = build(&musl, &["--release", "--bin", "elsewhere"]).join("release/elsewhere");
    assert_eq!(run(&mut Command::new(program)), "works\n");
}

#[test]
fn a_child_that_was_never_initialised_is_an_error_and_no_fork_bomb() {
    let _watchdog = Watchdog::seconds(600);
    let arguments = ["--no-default-features", "--bin", "forgetful"];
    let program = build(&gnu(), &arguments).join("debug/forgetful");
    let marks = std::env::temp_dir().join(format!("marks-{}", std::process::id()));
    std::fs::write(&marks, "").unwrap();
    assert_eq!(run(Command::new(program).env("MARKS", &marks)), "refused\n");
    let mains = std::fs::read_to_string(&marks).unwrap();
    std::fs::remove_file(&marks).unwrap();
    assert_eq!(mains, "xx", "main ran in the parent and in one child");
}
