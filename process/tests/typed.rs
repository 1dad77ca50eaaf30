//! `Value` and `Array` in one process: what Python's do, as far as it carries over, and what the
//! guards promise beyond that.
//!
//! | Python | here |
//! |---|---|
//! | `RawValue('i')` is zeroed, `RawValue('i', 7)` is 7 | `RawValue::new(value)` |
//! | `RawArray('i', 5)` is zeroed, `RawArray('i', [..])` copied | `zeroed`, `from_slice` |
//! | `Value('i', lock=lock)`, `lock=False` | `with_lock`; `RawValue` |
//! | `v.value`, `with v.get_lock(): v.value += 1` | `get`, `set`; `*v.lock()? += 1` |
//! | `Array('c', ..).value`, `.raw` | `value`, `set_value`; the slice |
//! | `copy(obj)` | `from_slice(&guard)` |
//! | `synchronized(obj, lock)` | not: who has the raw object would reach past the guard's borrow |

use std::sync::mpsc;
use std::time::Duration;

use multiprocess::bytemuck::{AnyBitPattern, NoUninit};
use multiprocess::{
    Array, CreateError, LockError, OutOfBounds, RawArray, RawValue, ShapeError, Shared, ShmSafe,
    Timeout, TryLockError, Value, View2d, View2dMut, owned, sync, transfer,
};

/// As it arrives at another process.
fn sent<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(value));
    transfer::supply(fds, || postcard::from_bytes(&bytes.unwrap())).unwrap()
}

// ---- V01, V02: raw

#[test]
fn raw_objects_start_zeroed_or_as_given() {
    assert_eq!(RawArray::<i32>::zeroed(5).unwrap().to_vec(), [0; 5]);
    assert_eq!(
        RawArray::from_slice(&[1.5, 2.5]).unwrap().to_vec(),
        [1.5, 2.5]
    );
    assert_eq!(RawValue::new(7i32).unwrap().get(), 7);
}

#[test]
fn raw_slices_share_their_array() {
    let array = RawArray::from_slice(&[0u32, 1, 2, 3, 4, 5]).unwrap();
    assert_eq!(array.slice(..).unwrap().len(), 6);
    assert_eq!(array.slice(2..=3).unwrap().to_vec(), [2, 3]);
    assert!(array.slice(6..).unwrap().is_empty());
    let tail = array.slice(4..).unwrap();
    tail.fill(9);
    tail.set(0, 8).unwrap();
    assert_eq!(array.to_vec(), [0, 1, 2, 3, 8, 9]);
    assert_eq!(array.iter().next_back(), Some(9));
    assert_eq!(
        array.slice(5..7).unwrap_err(),
        OutOfBounds { index: 7, len: 6 }
    );
    let (from, to) = (4, 2);
    assert!(array.slice(from..to).is_err(), "ends before it begins");
    assert!(array.slice(..=usize::MAX).is_err());
    assert!(
        tail.set(2, 0).is_err(),
        "inside the array, outside of the slice"
    );
}

#[test]
fn raw_bytes_are_a_string_up_to_the_first_nul() {
    let text = RawArray::from_slice(b"hello world").unwrap();
    text.set_value(b"bye").unwrap();
    assert_eq!(text.value(), b"bye");
    assert_eq!(text.to_vec(), *b"bye\0o world");
    text.set_value(b"eleven char").unwrap();
    assert_eq!(text.value(), b"eleven char", "no room for a NUL");
    assert_eq!(
        text.set_value(b"twelve chars"),
        Err(OutOfBounds { index: 11, len: 11 })
    );
    assert_eq!(text.value(), b"eleven char");
}

// ---- V03: Value

#[test]
fn a_value_is_read_and_written_under_its_lock() {
    let value = Value::new(40u64).unwrap();
    let other = sent(&value);
    *other.lock().unwrap() += 1;
    other.set(value.get().unwrap() + 1).unwrap();
    assert_eq!(value.get().unwrap(), 42);
}

#[test]
fn increments_under_a_guard_are_not_lost() {
    let value = Value::new(0u32).unwrap();
    std::thread::scope(|scope| {
        for mine in [sent(&value), value.clone()] {
            scope.spawn(move || {
                for _ in 0..10_000 {
                    *mine.lock().unwrap() += 1;
                }
            });
        }
    });
    assert_eq!(value.get().unwrap(), 20_000);
}

#[test]
fn others_wait_for_the_guard_and_no_longer_than_they_want() {
    let value = Value::new(1u8).unwrap();
    let guard = value.lock().unwrap();
    std::thread::scope(|scope| {
        let other = sent(&value);
        scope
            .spawn(move || {
                let timeout = Duration::from_millis(10);
                let late = other.lock_timeout(timeout).map(drop).unwrap_err();
                assert_eq!(late, LockError::Timeout);
                let busy = other.try_lock().map(drop).unwrap_err();
                assert_eq!(busy, TryLockError::WouldBlock);
            })
            .join()
            .unwrap();
    });
    drop(guard);
    assert_eq!(*value.try_lock().unwrap(), 1);
}

#[test]
fn a_thread_has_one_guard_of_a_value() {
    let value = Value::new(1u64).unwrap();
    let other = sent(&value); // another mapping of the same memory
    let guard = value.lock().unwrap();
    for second in [&value, &other] {
        assert_eq!(second.lock().map(drop).unwrap_err(), LockError::Deadlock);
        let refused = second.try_lock().map(drop).unwrap_err();
        assert_eq!(refused, TryLockError::WouldBlock);
    }
    assert_eq!(value.get_lock().depth(), 1, "what was refused is undone");
    drop(guard);
    assert_eq!(other.get().unwrap(), 1);
    assert!(!value.get_lock().is_owned());
}

#[test]
fn who_holds_the_lock_gets_the_guard() {
    let value = Value::new(1u64).unwrap();
    let held = value.get_lock().lock().unwrap();
    *value.lock().unwrap() += 1;
    value.set(value.get().unwrap() * 2).unwrap();
    assert!(
        value.get_lock().is_owned(),
        "the guards gave back their own only"
    );
    drop(held);
    assert_eq!(value.get().unwrap(), 4);
}

#[test]
fn one_lock_guards_several() {
    let lock = owned::RLock::new().unwrap();
    let count = Value::with_lock(0usize as u64, lock.clone()).unwrap();
    let items = Array::with_lock(&[0u8; 4], lock.clone()).unwrap();
    let more = Array::<u8>::zeroed_with_lock(4, lock.clone()).unwrap();
    let (count, items, more) = sent(&(count, items, more));
    let mut n = count.lock().unwrap();
    items.lock().unwrap()[*n as usize] = 7;
    more.lock().unwrap()[*n as usize] = 8;
    *n += 1;
    assert_eq!(lock.depth(), 1, "it is their lock");
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let items = items.try_lock().map(drop).unwrap_err() == TryLockError::WouldBlock;
            let more = more.try_lock().map(drop).unwrap_err() == TryLockError::WouldBlock;
            items && more
        });
        assert!(busy.join().unwrap());
    });
    drop(n);
    assert_eq!((items.lock().unwrap()[0], more.lock().unwrap()[0]), (7, 8));
}

#[test]
fn the_raw_object_is_reached_without_the_lock() {
    let value = Value::new(1u64).unwrap();
    let array = Array::from_slice(&[1u16, 2, 3]).unwrap();
    let (done, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        // Held by somebody who has no guard.
        let (value, array) = (&value, &array);
        let (held, holds) = mpsc::channel();
        scope.spawn(move || {
            let _locks = (value.get_lock().lock(), array.get_lock().lock());
            held.send(()).unwrap();
            wait.recv().unwrap();
        });
        holds.recv().unwrap();
        // SAFETY: no guard of either lives.
        let (value, array) = unsafe { (value.get_obj(), array.get_obj()) };
        value.store(5);
        array.fill(6);
        assert_eq!((value.load(), array.to_vec()), (5, vec![6; 3]));
        done.send(()).unwrap();
    });
    assert_eq!(value.get().unwrap(), 5);
}

#[test]
fn a_value_can_be_a_struct_with_fields() {
    #[derive(Debug, Clone, Copy, PartialEq, ShmSafe, AnyBitPattern, NoUninit)]
    #[bytemuck(crate = "multiprocess::bytemuck")]
    #[repr(C)]
    struct Particle {
        position: [f64; 3],
        charge: i32,
        kind: u32,
    }
    let value = Value::new(Particle {
        position: [1.0; 3],
        charge: -1,
        kind: 3,
    })
    .unwrap();
    let other = sent(&value);
    let mut particle = other.lock().unwrap();
    particle.position[1] *= 2.5;
    particle.charge += 1;
    drop(particle);
    let now = value.get().unwrap();
    assert_eq!(
        (now.position, now.charge, now.kind),
        ([1.0, 2.5, 1.0], 0, 3)
    );
    #[derive(Clone, Copy, ShmSafe, AnyBitPattern, NoUninit)]
    #[bytemuck(crate = "multiprocess::bytemuck")]
    #[repr(C)]
    struct Other {
        position: [f64; 3],
        charge: i32,
        kind: i32,
    }
    let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(&value).unwrap());
    let refused = transfer::supply(fds, || postcard::from_bytes::<Value<Other>>(&bytes));
    assert!(refused.is_err(), "of the same size, and yet another struct");
}

// ---- V04, V05: Array

#[test]
fn a_locked_array_is_a_slice() {
    let array = Array::<i64>::zeroed(6).unwrap();
    assert_eq!((array.len(), array.is_empty()), (6, false));
    let mut guard = array.lock().unwrap();
    guard[0] = 5;
    guard[1..4].copy_from_slice(&[3, 4, 1]);
    guard.sort_unstable();
    assert_eq!(guard.iter().sum::<i64>(), 13);
    assert_eq!(*guard, [0, 0, 1, 3, 4, 5]);
    guard.fill(2);
    let copy = Array::from_slice(&guard).unwrap(); // Python's copy(obj)
    drop(guard);
    copy.lock().unwrap()[0] = 1;
    assert_eq!(*sent(&array).lock().unwrap(), [2; 6]);
    assert_eq!(sent(&array).len(), 6);
}

#[test]
fn an_array_of_bytes_has_a_string_in_it() {
    let array = Array::<u8>::zeroed(5).unwrap();
    let mut text = array.lock().unwrap();
    assert_eq!(text.value(), b"");
    text.set_value(b"abcde").unwrap();
    assert_eq!(text.value(), b"abcde", "no room for a NUL, none there");
    text.set_value(b"x").unwrap();
    assert_eq!((text.value(), &text[..]), (&b"x"[..], &b"x\0cde"[..]));
    assert_eq!(
        text.set_value(b"sixsix"),
        Err(OutOfBounds { index: 5, len: 5 })
    );
    text.set_value(b"a\0b").unwrap();
    assert_eq!((text.value(), &text[..]), (&b"a"[..], &b"a\0b\0e"[..]));
}

#[test]
fn rows_and_columns_are_the_same_elements() {
    let array = Array::from_slice(&[1u32, 2, 3, 4, 5, 6]).unwrap();
    let mut guard = array.lock().unwrap();
    let mut view = guard.view2d_mut(2, 3).unwrap();
    view[(1, 0)] = 40;
    *view.get_mut(0, 2).unwrap() = 30;
    assert_eq!(view[(1, 0)], 40);
    assert!(view.get_mut(2, 0).is_none() && view.get_mut(0, 3).is_none());
    assert_eq!(view.row_mut(1), Some(&mut [40, 5, 6][..]));
    assert_eq!(view.as_view().row(0), Some(&[1, 2, 30][..]));
    assert!(view.row_mut(2).is_none());
    assert_eq!(*guard, [1, 2, 30, 40, 5, 6]);
    let view = guard.view2d(3, 2).unwrap();
    assert_eq!((view.rows(), view.cols(), view[(2, 1)]), (3, 2, 6));
    assert_eq!(
        (view.get(2, 1), view.get(3, 0), view.get(0, 2)),
        (Some(&6), None, None)
    );
    let rows: Vec<_> = view.iter().collect();
    assert_eq!(rows, [[1, 2], [30, 40], [5, 6]]);
    let wrong = guard.view2d(4, 2).unwrap_err();
    assert_eq!(
        wrong,
        ShapeError {
            rows: 4,
            cols: 2,
            len: 6
        }
    );
    assert!(
        guard.view2d(usize::MAX, 2).is_err(),
        "6 modulo 2^64, nearly"
    );
    assert!(View2dMut::new(&mut [0; 4], 2, 3).is_err());
    let none = View2d::new(&[0u8; 0], 3, 0).unwrap();
    assert_eq!((none.iter().len(), none.get(0, 0)), (3, None));
}

#[test]
#[should_panic(expected = "(0, 3) is outside of 2 rows of 3")]
fn a_column_too_many_is_not_the_next_row() {
    let _ = View2d::new(&[0; 6], 2, 3).unwrap()[(0, 3)];
}

#[test]
fn raw_rows_and_columns_are_the_same_elements() {
    let array = RawArray::from_slice(&[1u8, 2, 3, 4, 5, 6]).unwrap();
    let view = array.view2d(2, 3).unwrap();
    view.set(1, 2, 60).unwrap();
    view.row(0).unwrap().fill(0);
    assert_eq!(array.to_vec(), [0, 0, 0, 4, 5, 60]);
    assert_eq!(
        (view.get(1, 0), view.get(0, 3), view.get(2, 0)),
        (Some(4), None, None)
    );
    assert!(view.set(0, 3, 1).is_err());
    assert!(view.row(2).is_none());
    assert!(array.view2d(3, 3).is_err());
}

#[test]
fn atomics_need_no_lock() {
    use multiprocess::atomic::{AtomicU64, Ordering::Relaxed};
    let counters = Shared::<[AtomicU64]>::from_fn(3, |_| AtomicU64::new(0)).unwrap();
    std::thread::scope(|scope| {
        for mine in [sent(&counters), counters.clone()] {
            scope.spawn(move || {
                for i in 0..1000 {
                    mine[i % 3].fetch_add(1, Relaxed);
                }
            });
        }
    });
    let all: Vec<_> = counters
        .iter()
        .map(|counter| counter.load(Relaxed))
        .collect();
    assert_eq!(all, [668, 666, 666]);
}

// ---- sizes

#[test]
fn lengths_that_cannot_be_are_errors() {
    for len in [0, usize::MAX, isize::MAX as usize, isize::MAX as usize / 8] {
        let error = Array::<u64>::zeroed(len).unwrap_err();
        assert!(matches!(error, CreateError::Capacity { .. }), "{error:?}");
    }
    let error = Array::<u8>::from_slice(&[]).unwrap_err();
    assert!(matches!(error, CreateError::Capacity { requested: 0, .. }));
    let error = Array::<u8>::zeroed(1 << 50).unwrap_err();
    assert!(matches!(error, CreateError::TooLarge { .. }), "{error:?}");
}

#[test]
fn elements_of_any_alignment_are_aligned() {
    #[derive(Clone, Copy, ShmSafe, AnyBitPattern, NoUninit)]
    #[bytemuck(crate = "multiprocess::bytemuck")]
    #[repr(C, align(128))]
    struct Line([u8; 128]);
    let array = Array::<Line>::zeroed(2).unwrap();
    let guard = array.lock().unwrap();
    assert!(guard.as_ptr().addr().is_multiple_of(128));
    assert_eq!(guard[1].0, [0; 128]);
    let odd = Array::from_slice(&[[1u8; 3]; 5]).unwrap();
    assert_eq!(sent(&odd).lock().unwrap()[4], [1; 3]);
}

// ---- handles

#[test]
fn kinds_and_types_are_not_mixed_up() {
    fn arrives_as<T: serde::Serialize, U: serde::de::DeserializeOwned>(value: &T) -> bool {
        let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(value).unwrap());
        transfer::supply(fds, || postcard::from_bytes::<U>(&bytes)).is_ok()
    }
    let (value, array) = (
        Value::new(1u32).unwrap(),
        Array::from_slice(&[1u32]).unwrap(),
    );
    assert!(arrives_as::<_, Value<u32>>(&value) && arrives_as::<_, Array<u32>>(&array));
    assert!(!arrives_as::<_, Array<u32>>(&value) && !arrives_as::<_, Value<u32>>(&array));
    assert!(!arrives_as::<_, Value<i32>>(&value) && !arrives_as::<_, Array<[u32; 1]>>(&array));
    let with = Value::with_lock(1u32, owned::RLock::new().unwrap()).unwrap();
    assert!(arrives_as::<_, Value<u32>>(&with));
    assert!(postcard::to_stdvec(&value).is_err(), "outside of a send");
}

#[test]
fn printing_takes_no_lock() {
    let value = Value::new(7u8).unwrap();
    let array = Array::from_slice(b"ab").unwrap();
    let (one, two) = (value.lock().unwrap(), array.lock().unwrap());
    assert_eq!(
        format!("{one:?} {two:?}"),
        "ValueGuard(7) ArrayGuard([97, 98])"
    );
    assert!(format!("{value:?}").contains("depth: 1"));
    assert!(format!("{array:?}").starts_with("Array { len: 2, lock: RLock"));
}

#[test]
fn memory_of_a_forgotten_guard_stays_mapped() {
    let value = Value::new(1u64).unwrap();
    let other = sent(&value);
    std::thread::spawn(move || {
        std::mem::forget(value.lock().unwrap());
        drop(value); // the kernel will look at it when this thread ends
        let probe = sync::RLock::new();
        drop(probe.lock().unwrap());
    })
    .join()
    .unwrap();
    let Err(LockError::OwnerDied(mut guard)) = other.lock_timeout(Timeout::Never) else {
        panic!("its thread has ended with it");
    };
    *guard += 1;
    guard.mark_consistent();
    drop(guard);
    assert_eq!(other.get().unwrap(), 2);
}
