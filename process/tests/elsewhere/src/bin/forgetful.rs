//! A program that never calls `init`, and, built without the hook, is run again as its own child. It
//! leaves a mark in the file named by its argument each time that `main` begins.

use std::io::Write;

use multiprocess::{Context, JoinError, SpawnError};

fn main() {
    let mut marks = std::fs::OpenOptions::new()
        .append(true)
        .open(std::env::var_os("MARKS").unwrap())
        .unwrap();
    marks.write_all(b"x").unwrap();
    match Context::spawn_exec().spawn(|()| (), ()) {
        // We are the child.
        Err(SpawnError::NotInitialised) => std::process::exit(9),
        Ok(child) => match child.join().unwrap_err() {
            JoinError::Exited(9) => println!("refused"),
            other => panic!("{other:?}"),
        },
        Err(other) => panic!("{other:?}"),
    }
}
