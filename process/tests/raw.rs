//! `RawValue` and `RawArray`.

use std::os::fd::AsFd;

use multiprocess::{AttachError, CreateError, OutOfBounds, RawArray, RawValue};

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
