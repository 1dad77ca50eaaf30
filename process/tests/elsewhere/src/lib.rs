//! What the programs here do, and what python calls in the `cdylib`.

use multiprocess::{Context, JoinError, Process, RawArray, StartMethod};

/// Also under a name, for another build to call.
pub fn sum((numbers, shared): (Vec<u64>, RawArray<u64>)) -> u64 {
    let sum = numbers.iter().sum();
    shared.set(0, sum).unwrap();
    sum
}
multiprocess::entry!("elsewhere.sum", sum);

/// Starts children through `context`, and checks what they say.
pub fn check(context: &Context) {
    let shared = RawArray::<u64>::zeroed(1).unwrap();
    let process = context.spawn(sum, (vec![40, 2], shared.clone())).unwrap();
    assert_eq!(process.join().unwrap(), 42);
    assert_eq!(shared.get(0), Some(42));
    let named = context.spawn_named::<_, u64>("elsewhere.sum", (vec![1u64, 2], shared.clone()));
    assert_eq!(named.unwrap().join().unwrap(), 3);
    let exits = |()| std::process::exit(5);
    let process: Process<()> = context.spawn(exits, ()).unwrap();
    assert!(matches!(process.join(), Err(JoinError::Exited(5))));
    let panics = |()| panic!("on purpose");
    let process: Process<()> = context.spawn(panics, ()).unwrap();
    match process.join().unwrap_err() {
        JoinError::Panicked(why) => assert_eq!(why, "on purpose"),
        JoinError::Exited(code) => assert!(cfg!(panic = "abort") && code == -6, "{code}"),
        other => panic!("{other:?}"),
    }
}

/// All three methods.
pub fn check_all() {
    for method in StartMethod::ALL {
        check(&Context::new(method).unwrap());
    }
}

/// In a foreign executable: its path and our image's, as C strings. Returns 42.
///
/// # Safety
///
/// `library` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn check_in_foreign_executable(library: *const std::ffi::c_char) -> i32 {
    // SAFETY: the caller's contract.
    let library = unsafe { std::ffi::CStr::from_ptr(library) };
    // The executable knows nothing of us: the child has us loaded before its main.
    check(&Context::spawn_exec().env("LD_PRELOAD", library.to_str().unwrap()));
    42
}
