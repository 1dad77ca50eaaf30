//! `SharedMemory` and `ShareableList` and those of CPython, on the same bytes.
//!
//! One test at a time: a child that another one is just starting would have a copy of a name's
//! descriptor, and keep it.
#![cfg(all(feature = "std", target_os = "linux"))]

use std::fmt::Write as _;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use multiprocess_core::CreateError;
use multiprocess_shm::{Item, ListError, Named, NamedError, ShareableList, SharedMemory};
use multiprocess_testkit::watchdog::Watchdog;

/// A process that only opens a name must not take it for its own: before 3.13 Python does.
const PRELUDE: &str = "
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory, ShareableList
def opened(kind, name):
    it = kind(name=name)
    resource_tracker.unregister('/' + name, 'shared_memory')
    return it
";

/// Runs `script`; what it prints. `None` where there is no python3.
fn python(script: &str, name: &str) -> Option<String> {
    let run = Command::new("python3")
        .args([
            "-c",
            &format!("{PRELUDE}\nname = sys.argv[1]\n{script}"),
            name,
        ])
        .output();
    let output = match run {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: no python3: {error}");
            return None;
        }
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{script}\n{errors}"
    );
    Some(String::from_utf8(output.stdout).unwrap())
}

fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name(test: &str) -> String {
    format!("multiprocess-python-{}-{test}", std::process::id())
}

fn items() -> Vec<Item> {
    vec![
        Item::Int(1),
        Item::Float(2.5),
        Item::Bool(true),
        Item::from("hi"),
        Item::from(&b"\x01\x02"[..]),
        Item::None,
        Item::from("12345678"),
        Item::Int(i64::MIN),
        Item::Bool(false),
        Item::from(""),
        Item::from(&b""[..]),
    ]
}

const ITEMS: &str = r"[1, 2.5, True, 'hi', b'\x01\x02', None, '12345678', -2**63, False, '', b'']";

#[test]
fn python_reads_our_bytes_and_writes_for_us() {
    let _watchdog = Watchdog::seconds(60);
    let _alone = alone();
    let memory = SharedMemory::create(5000).unwrap();
    memory.write(0, b"from here").unwrap();
    let script = "
m = opened(SharedMemory, name)
assert m.size == 5000, m.size
assert bytes(m.buf[:9]) == b'from here'
m.buf[4990:5000] = b'from there'
m.close()
";
    let Some(_) = python(script, memory.name()) else {
        return;
    };
    let mut back = [0; 10];
    memory.read(4990, &mut back).unwrap();
    assert_eq!(&back, b"from there");
}

#[test]
fn we_read_pythons_bytes_and_write_for_it() {
    let _watchdog = Watchdog::seconds(60);
    let _alone = alone();
    let name = name("theirs");
    let make = "
m = SharedMemory(name=name, create=True, size=100)
m.buf[:6] = b'python'
m.close()
resource_tracker.unregister('/' + name, 'shared_memory')
";
    if python(make, &name).is_none() {
        return;
    }
    let memory = SharedMemory::open(&name).unwrap();
    assert_eq!((memory.size(), memory.is_tracked()), (100, false));
    let mut word = [0; 6];
    memory.read(0, &mut word).unwrap();
    assert_eq!(&word, b"python");
    memory.write(50, b"rust").unwrap();
    drop(memory);
    let look = "
m = SharedMemory(name=name)
print(bytes(m.buf[50:54]).decode())
m.unlink()
";
    assert_eq!(python(look, &name).unwrap(), "rust\n");
    assert_eq!(SharedMemory::open(&name).unwrap_err(), NamedError::NotFound);
}

#[test]
fn our_list_has_every_byte_that_pythons_has() {
    let _watchdog = Watchdog::seconds(60);
    let _alone = alone();
    let ours = ShareableList::create(&items()).unwrap();
    let script = format!(
        "
l = ShareableList({ITEMS})
print(bytes(l.shm.buf).hex())
print(l.format)
l.shm.close(); l.shm.unlink()
"
    );
    let Some(printed) = python(&script, "") else {
        return;
    };
    let mut lines = printed.lines();
    let mut bytes = vec![0; ours.memory().size()];
    ours.memory().read(0, &mut bytes).unwrap();
    let mut hex = String::new();
    for byte in bytes {
        write!(hex, "{byte:02x}").unwrap();
    }
    assert_eq!(hex, lines.next().unwrap());
    assert_eq!(ours.format().unwrap(), lines.next().unwrap());
}

#[test]
fn python_reads_our_list_and_changes_it() {
    let _watchdog = Watchdog::seconds(60);
    let _alone = alone();
    let mut with_text = items();
    with_text.push(Item::from("h\u{e9}llo \u{20ac}\u{20ac}\u{20ac}"));
    let list = ShareableList::create(&with_text).unwrap();
    let script = format!(
        "
l = opened(ShareableList, name)
assert list(l)[:-1] == {ITEMS}, list(l)
assert l[11] == 'h\u{e9}llo \u{20ac}\u{20ac}\u{20ac}', l[11]
l[0] = 'short'
l[1] = None
l[3] = -7
l[4] = 'bytes'
l.shm.close()
"
    );
    let Some(_) = python(&script, list.name()) else {
        return;
    };
    assert_eq!(list.get(0).unwrap(), Item::from("short"));
    assert_eq!(list.get(1).unwrap(), Item::None);
    assert_eq!(list.get(3).unwrap(), Item::Int(-7));
    assert_eq!(list.get(4).unwrap(), Item::from("bytes"));
}

#[test]
fn we_read_pythons_list_and_change_it() {
    let _watchdog = Watchdog::seconds(60);
    let _alone = alone();
    let name = name("list");
    let make = format!(
        "
l = ShareableList({ITEMS} + ['\u{20ac}' * 8, b'x\\x00'], name=name)
l.shm.close()
resource_tracker.unregister('/' + name, 'shared_memory')
"
    );
    if python(&make, &name).is_none() {
        return;
    }
    let list = ShareableList::open(&name).unwrap();
    for (index, item) in items().into_iter().enumerate() {
        assert_eq!(list.get(index).unwrap(), item, "{index}");
        assert!(list.count(item.clone()).unwrap() >= 1);
        assert!(list.index(item).unwrap() <= index);
    }
    // Python's two faults: a text cut off in the middle of a character, a NUL that is lost.
    assert!(matches!(list.get(11), Err(ListError::NotText(bytes)) if bytes.len() == 16));
    assert_eq!(list.get(12).unwrap(), Item::from(&b"x"[..]));

    list.set(0, "int slot").unwrap();
    list.set(3, ()).unwrap();
    list.set(11, "\u{20ac}uro").unwrap();
    list.set(6, 2.25).unwrap();
    list.set(9, true).unwrap();
    let look = "
l = ShareableList(name=name)
assert l[0] == 'int slot', l[0]
assert l[3] is None and l[6] == 2.25 and l[9] is True
assert l[11] == '\u{20ac}uro', l[11]
l.shm.close(); l.shm.unlink()
";
    python(look, &name).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let _watchdog = Watchdog::seconds(60);
    let _alone = alone();
    let list = ShareableList::create(&items()).unwrap();
    let refused = list.set(3, "123456789");
    assert_eq!(refused, Err(ListError::TooLong { len: 9, slot: 8 }));
    assert_eq!(list.set(3, "a\0"), Err(ListError::TrailingNul));
    assert_eq!(
        ShareableList::create(&[Item::from(&b"a\0"[..])]).unwrap_err(),
        ListError::TrailingNul
    );
    let out = Err(ListError::OutOfRange { index: 11, len: 11 });
    assert_eq!(list.set(11, 1), out);
    assert_eq!(list.get(11).map(drop), out);
    assert!(list.get(usize::MAX).is_err());
    assert_eq!(list.index("nowhere"), Err(ListError::NotFound));
    assert_eq!(list.get(3).unwrap(), Item::from("hi"));
    let long = Item::from("x".repeat(9_999_999));
    assert!(matches!(
        ShareableList::create(&[long]).unwrap_err(),
        ListError::TooLong { .. }
    ));
    assert!(ShareableList::create(&[]).unwrap().is_empty());
}

#[test]
fn bytes_that_are_no_list_are_refused() {
    let _watchdog = Watchdog::seconds(60);
    let _alone = alone();
    let list = ShareableList::create(&items()).unwrap();
    let size = list.memory().size();
    let mut good = vec![0; size];
    list.memory().read(0, &mut good).unwrap();
    let words = |bytes: &mut Vec<u8>, word: usize, value: i64| {
        bytes[8 * word..8 * word + 8].copy_from_slice(&value.to_ne_bytes());
    };
    for (word, value) in [
        (0, -1),
        (0, 12),
        (0, i64::MAX),
        (1, 8),
        (2, -8),
        (2, 4),
        (3, 8),
        (12, 1 << 40),
    ] {
        let memory = SharedMemory::create(size).unwrap();
        let mut bad = good.clone();
        words(&mut bad, word, value);
        memory.write(0, &bad).unwrap();
        let refused = ShareableList::over(memory);
        assert!(
            matches!(refused, Err(ListError::Corrupt { .. })),
            "{word}: {value}: {refused:?}"
        );
    }
    for size in [1, 7, 8, 15, 16, 40] {
        let memory = SharedMemory::create(size).unwrap();
        memory.write(0, &good[..size]).unwrap();
        assert!(ShareableList::over(memory).is_err());
    }
    // Whatever stands in the formats and codes of an open list, an item or an error comes out.
    let data_end = size - items().len() * 9;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..20_000 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let at = 8 + (state >> 33) as usize % (size - 8);
        let byte = [(state >> 17) as u8, b's', b'9', b'q', 0][(state >> 8) as usize % 5];
        list.memory().write(at.max(data_end - 64), &[byte]).unwrap();
        let _ = list.iter().filter(Result::is_ok).count();
        let _ = list.format();
    }
}

#[test]
fn a_list_that_its_maker_has_not_filled_in_is_not_taken_for_an_empty_one() {
    let _watchdog = Watchdog::seconds(60);
    let _alone = alone();
    // As Python's is, before its first `pack_into`.
    let memory = SharedMemory::create(1000).unwrap();
    let opened = ShareableList::open(memory.name()).map(|list| list.len());
    assert_eq!(opened, Err(ListError::Unfinished));
    let empty = ShareableList::create(&[]).unwrap();
    assert_eq!(ShareableList::open(empty.name()).unwrap().len(), 0);
}

#[test]
fn a_list_can_be_opened_only_when_its_maker_has_filled_it_in() {
    let _watchdog = Watchdog::seconds(60);
    let _alone = alone();
    let name = Named::new(&name("filling")).unwrap();
    let items = vec![Item::from(7); 1000];
    let stopped = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|threads| {
        let opener = threads.spawn(|| {
            let mut opened = 0;
            while stopped.load(std::sync::atomic::Ordering::Relaxed) == 0 {
                match ShareableList::open_as(&name) {
                    Ok(list) => {
                        assert_eq!(list.len(), 1000);
                        assert_eq!(list.get(999), Ok(Item::Int(7)));
                        opened += 1;
                    }
                    Err(error) => assert_eq!(error, NamedError::NotFound.into()),
                }
            }
            opened
        });
        for _ in 0..2000 {
            // The opener may have the last one still.
            match ShareableList::create_as(&name, &items) {
                Ok(list) => drop(list),
                Err(error) => assert_eq!(error, NamedError::AlreadyExists.into()),
            }
        }
        stopped.store(1, std::sync::atomic::Ordering::Relaxed);
        println!("opened {} times", opener.join().unwrap());
    });
}

#[test]
fn bytes_out_of_bounds_are_refused() {
    let _watchdog = Watchdog::seconds(60);
    let _alone = alone();
    let memory = SharedMemory::create(10).unwrap();
    for (offset, len) in [
        (0, 11),
        (10, 1),
        (11, 0),
        (usize::MAX, 1),
        (1, usize::MAX / 2),
    ] {
        if len < 100 {
            assert!(
                memory.write(offset, &vec![0; len]).is_err(),
                "{offset} {len}"
            );
        }
        assert!(offset < 11 || memory.read(offset, &mut []).is_err());
    }
    memory.write(10, &[]).unwrap();
    assert_eq!(
        SharedMemory::create(0).unwrap_err(),
        NamedError::Create(CreateError::Capacity {
            requested: 0,
            max: i64::MAX as u64
        })
    );
}

#[test]
fn names_are_unlinked_once_and_the_last_user_of_a_tracked_one_removes_it() {
    let _watchdog = Watchdog::seconds(60);
    let _alone = alone();
    let name = name("unlink");
    let named = Named::new(&name).unwrap();
    let memory = SharedMemory::create_as(&named.clone().tracked(false), 10).unwrap();
    assert_eq!(memory.name(), name);
    let again = SharedMemory::create_as(&named, 10).unwrap_err();
    assert_eq!(again, NamedError::AlreadyExists);
    memory.unlink().unwrap();
    assert_eq!(memory.unlink(), Err(NamedError::NotFound));
    memory.write(0, b"still").unwrap();

    let first = SharedMemory::create_as(&named, 10).unwrap();
    let second = SharedMemory::open(&name).unwrap();
    first.close();
    // SAFETY: nobody else has it.
    assert_eq!(unsafe { second.as_slice() }, [0; 10]);
    drop(second);
    assert_eq!(SharedMemory::open(&name).unwrap_err(), NamedError::NotFound);
}
