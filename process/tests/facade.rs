//! What a program sees that depends on `multiprocess`. One that depends on it alone, as these tests do not,
//! is in `tests/elsewhere`.

use multiprocess::atomic::{AtomicU64, Ordering::Relaxed};
use multiprocess::{LayoutHash, Shared, ShmSafe};

#[derive(ShmSafe)]
#[repr(C)]
struct Counters {
    hits: AtomicU64,
    misses: [AtomicU64; 3],
}

mod renamed {
    pub(crate) use multiprocess as ipc;

    #[derive(multiprocess::ShmSafe)]
    #[shm_safe(crate = crate::renamed::ipc)]
    #[repr(C)]
    pub(crate) struct Counters {
        hits: super::AtomicU64,
        misses: [super::AtomicU64; 3],
    }
}

#[test]
fn the_facade_derives() {
    let counters = Shared::new(Counters {
        hits: AtomicU64::new(1),
        misses: [const { AtomicU64::new(2) }; 3],
    })
    .unwrap();
    assert_eq!(counters.hits.load(Relaxed), 1);
    assert_eq!(counters.misses[2].load(Relaxed), 2);
    let layout: LayoutHash = <Counters as ShmSafe>::LAYOUT;
    assert_eq!(layout, <renamed::Counters as ShmSafe>::LAYOUT);
}

#[test]
fn swapped_fields_of_one_type_are_another_layout() {
    mod other {
        #[derive(multiprocess::ShmSafe)]
        #[repr(C)]
        pub(crate) struct Range {
            pub(crate) end: u32,
            pub(crate) start: u32,
        }
    }
    #[derive(ShmSafe)]
    #[repr(C)]
    struct Range {
        start: u32,
        end: u32,
    }
    let range = Range { start: 1, end: 2 };
    let other = other::Range { end: 2, start: 1 };
    assert_eq!((range.start, range.end), (other.start, other.end));
    assert_ne!(Range::LAYOUT, other::Range::LAYOUT);
}
