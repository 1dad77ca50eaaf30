//! `RawValue` and `RawArray`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use multiprocess::{
    AttachError, Context, CreateError, OutOfBounds, Plain, RawArray, RawValue, transfer,
};
use multiprocess_testkit::watchdog::Watchdog;

#[test]
fn a_value_is_shared_by_its_handles() {
    let value = RawValue::new([1u64, 2, 3]).unwrap();
    let fd = value.as_fd().try_clone_to_owned().unwrap();
    let other = RawValue::<[u64; 3]>::attach(fd).unwrap();
    other.set([4, 5, 6]);
    assert_eq!(value.get(), [4, 5, 6]);
}

#[test]
fn another_type_is_refused() {
    let value = RawValue::new(1u64).unwrap();
    let fd = || value.as_fd().try_clone_to_owned().unwrap();
    let error = RawValue::<i64>::attach(fd()).unwrap_err();
    assert!(matches!(error, AttachError::Layout { .. }));
    let error = RawArray::<u64>::attach(fd()).unwrap_err();
    assert!(matches!(error, AttachError::Layout { .. }));
}

#[test]
fn what_does_not_deserialise_says_why() {
    let (bytes, fds) = transfer::collect(|| postcard::to_stdvec(&RawValue::new(1u64).unwrap()));
    let bytes = bytes.unwrap();
    let again = vec![fds[0].try_clone().unwrap()];
    assert!(transfer::supply(fds, || postcard::from_bytes::<RawValue<i64>>(&bytes)).is_err());
    assert!(transfer::take_refusal().unwrap().contains("layout 0x"));
    assert!(transfer::supply(again, || postcard::from_bytes::<RawArray<u64>>(&bytes)).is_err());
    assert!(transfer::take_refusal().unwrap().contains("layout 0x"));
}

#[test]
fn an_array_knows_its_bounds() {
    let array = RawArray::from_slice(&[1u16, 2, 3]).unwrap();
    assert_eq!(
        (array.len(), array.get(2), array.get(3)),
        (3, Some(3), None)
    );
    assert_eq!(array.set(3, 9), Err(OutOfBounds { index: 3, len: 3 }));
    let mut two = [0; 2];
    array.copy_to_slice(1, &mut two).unwrap();
    assert_eq!(two, [2, 3]);
    assert!(array.copy_to_slice(2, &mut two).is_err());
    assert!(array.copy_to_slice(usize::MAX, &mut two).is_err());
    assert!(array.copy_from_slice(2, &[7, 8]).is_err());
    assert_eq!(array.to_vec(), [1, 2, 3], "a refused copy changes nothing");
}

#[test]
fn an_array_attaches_with_its_length() {
    let array = RawArray::<u32>::zeroed(1000).unwrap();
    let fd = array.as_fd().try_clone_to_owned().unwrap();
    let other = RawArray::<u32>::attach(fd).unwrap();
    other.set(999, 7).unwrap();
    assert_eq!((other.len(), array.get(999)), (1000, Some(7)));
}

#[test]
fn absurd_lengths_are_errors() {
    for len in [0, usize::MAX, isize::MAX as usize] {
        let error = RawArray::<u64>::zeroed(len).unwrap_err();
        assert!(matches!(error, CreateError::Capacity { .. }), "{error:?}");
    }
}

// ---- tearing: another process writes all zeroes and all ones in turn

/// How long writer and reader race. Torn values of four bytes showed within milliseconds.
const RACE: Duration = Duration::from_millis(300);

/// Writes both values in turn: to `value`, to single elements and to slices of `array`.
fn alternate<T: Plain>((value, array, pair): (RawValue<T>, RawArray<T>, [T; 2])) {
    let end = Instant::now() + RACE;
    while Instant::now() < end {
        for _ in 0..1000 {
            for of in pair {
                value.set(of);
                array.set(1, of).unwrap();
                array.copy_from_slice(2, &[of; 3]).unwrap();
            }
        }
    }
}

/// Reads by every way while another process writes, and finds nothing but `pair`.
fn assert_whole<T>(pair: [T; 2])
where
    T: Plain + PartialEq + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let _watchdog = Watchdog::seconds(60);
    let value = RawValue::new(pair[0]).unwrap();
    let array = RawArray::from_slice(&[pair[0]; 5]).unwrap();
    let mut writer = Context::spawn_exec()
        .spawn(alternate::<T>, (value.clone(), array.clone(), pair))
        .unwrap();
    let mut some = pair.repeat(2); // four elements, the first of them written singly
    while writer.join_timeout(Duration::ZERO).is_none() {
        for _ in 0..1000 {
            array.copy_to_slice(1, &mut some).unwrap();
            let element = array.get(3).unwrap();
            for read in some.iter().chain([&value.get(), &element]) {
                assert!(pair.contains(read), "{read:x?} was never written");
            }
        }
    }
}

#[test]
fn values_of_one_two_four_and_eight_bytes_are_never_torn() {
    assert_whole([0, u8::MAX]);
    assert_whole([0, u16::MAX]);
    assert_whole([0, u32::MAX]);
    assert_whole([0, u64::MAX]);
    assert_whole([[0; 2], [u8::MAX; 2]]);
    assert_whole([[0; 4], [u16::MAX; 4]]);
}
