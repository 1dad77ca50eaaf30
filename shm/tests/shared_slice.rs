//! `Shared<[T]>`.
#![cfg(all(feature = "serde", target_os = "linux"))]

use std::os::fd::AsFd;

use multiprocess_core::atomic::{AtomicU64, Ordering::Relaxed};
use multiprocess_core::{AttachError, CreateError};
use multiprocess_shm::{Shared, transfer};

#[test]
fn all_see_the_same_elements() {
    for len in [0, 1, 3, 1000] {
        let made = Shared::from_fn(len, |index| AtomicU64::new(index as u64)).unwrap();
        let fd = made.as_fd().try_clone_to_owned().unwrap();
        let same = Shared::<[AtomicU64]>::attach_slice(fd).unwrap();
        assert_eq!((made.len(), same.len()), (len, len));
        for (index, element) in same.iter().enumerate() {
            assert_eq!(element.swap(7, Relaxed), index as u64);
        }
        assert!(made.iter().all(|element| element.load(Relaxed) == 7));
    }
}

#[test]
fn it_travels() {
    let made = Shared::from_fn(5, |index| index as u32).unwrap();
    let (bytes, fds) = transfer::collect(|| postcard::to_allocvec(&made));
    let same: Shared<[u32]> =
        transfer::supply(fds, || postcard::from_bytes(&bytes.unwrap())).unwrap();
    assert_eq!(*same, [0, 1, 2, 3, 4]);
    assert_eq!(format!("{same:?}"), "Shared([0, 1, 2, 3, 4])");
}

#[test]
fn others_are_refused() {
    let made = Shared::from_fn(5, |index| index as u32).unwrap();
    let fd = || made.as_fd().try_clone_to_owned().unwrap();
    let refused = Shared::<[i32]>::attach_slice(fd()).unwrap_err();
    assert!(matches!(refused, AttachError::Layout { .. }));
    let refused = Shared::<[u32; 5]>::attach(fd()).unwrap_err();
    assert!(matches!(refused, AttachError::Layout { .. }));
    for len in [usize::MAX, usize::MAX / 4, isize::MAX as usize / 8] {
        let refused = Shared::from_fn(len, |_| 0u64).unwrap_err();
        assert!(
            matches!(
                refused,
                CreateError::Capacity { .. } | CreateError::TooLarge { .. }
            ),
            "{refused:?}"
        );
    }
}
