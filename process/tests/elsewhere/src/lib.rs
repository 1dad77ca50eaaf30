//! What the programs here do, and what python calls in the `cdylib`.

use multiprocess::bytemuck::{AnyBitPattern, NoUninit};
use multiprocess::{
    Array, Context, JoinError, Process, RawArray, Shared, ShmSafe, StartMethod, sync,
};

/// The derives, in a package that depends on `multiprocess` alone.
#[derive(ShmSafe)]
#[repr(C)]
struct State {
    best: sync::Mutex<Point>,
    found: sync::Event,
}

#[derive(Debug, Clone, Copy, PartialEq, ShmSafe, AnyBitPattern, NoUninit)]
#[bytemuck(crate = "multiprocess::bytemuck")]
#[repr(C)]
struct Point {
    x: f64,
    y: f64,
}

fn find((state, points): (Shared<State>, Array<Point>)) {
    *state.best.lock().unwrap() = points.lock().unwrap()[1];
    state.found.set();
}

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
    let (near, far) = (Point { x: 1.0, y: 2.0 }, Point { x: 3.0, y: 4.0 });
    let best = sync::Mutex::new(near);
    let found = sync::Event::new();
    let state = Shared::new(State { best, found }).unwrap();
    let points = Array::from_slice(&[near, far]).unwrap();
    let process = context.spawn(find, (state.clone(), points)).unwrap();
    process.join().unwrap();
    assert!(state.found.is_set() && *state.best.lock().unwrap() == far);
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
