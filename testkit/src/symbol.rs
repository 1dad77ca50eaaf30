//! Instruction addresses to functions, files and lines.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;

thread_local! {
    static LOADER: RefCell<Option<addr2line::Loader>> = const { RefCell::new(None) };
    static KNOWN: RefCell<HashMap<u64, String>> = RefCell::new(HashMap::new());
}

/// `file:line function` of an address in this process's image, and the kind of instruction.
pub(crate) fn of(address: u64) -> String {
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&address).cloned()) {
        return known;
    }
    let found = format!("{}{}", resolve(address), kind(address));
    KNOWN.with_borrow_mut(|known| known.insert(address, found.clone()));
    found
}

fn info(address: u64) -> Option<libc::Dl_info> {
    // SAFETY: all zeroes are a valid Dl_info, and dladdr only looks addresses up.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        (libc::dladdr(address as *const libc::c_void, &mut info) != 0).then_some(info)
    }
}

fn own_base() -> u64 {
    info(own_base as *const () as u64).map_or(0, |info| info.dli_fbase as u64)
}

fn resolve(address: u64) -> String {
    let Some(info) = info(address) else {
        return format!("{address:#x} (vdso)");
    };
    if info.dli_fbase as u64 != own_base() {
        // SAFETY: dladdr returns NUL-terminated names that live as long as the object.
        let name = unsafe {
            if info.dli_sname.is_null() {
                CStr::from_ptr(info.dli_fname)
            } else {
                CStr::from_ptr(info.dli_sname)
            }
        };
        return name.to_string_lossy().into_owned();
    }
    let offset = address - own_base();
    LOADER.with_borrow_mut(|loader| {
        if loader.is_none() {
            let exe = std::env::current_exe().ok();
            *loader = exe.and_then(|path| addr2line::Loader::new(path).ok());
        }
        loader
            .as_ref()
            .and_then(|loader| innermost_own_frame(loader, offset))
            .unwrap_or_else(|| format!("exe+{offset:#x}"))
    })
}

/// The innermost inlined frame that is not the standard library's.
fn innermost_own_frame(loader: &addr2line::Loader, offset: u64) -> Option<String> {
    let mut frames = loader.find_frames(offset).ok()?;
    let mut fallback = None;
    while let Ok(Some(frame)) = frames.next() {
        let Some(location) = frame.location else {
            continue;
        };
        let (Some(file), Some(line)) = (location.file, location.line) else {
            continue;
        };
        let function = frame
            .function
            .and_then(|f| f.demangle().ok().map(|name| name.into_owned()))
            .unwrap_or_default();
        let text = format!("{}:{line} {}", short(file), function);
        if !file.starts_with("/rustc/") && !file.contains("/library/") {
            return Some(text);
        }
        fallback.get_or_insert(text);
    }
    fallback
}

/// The last three parts of a path.
fn short(file: &str) -> &str {
    match file.rmatch_indices('/').nth(2) {
        Some((at, _)) => &file[at + 1..],
        None => file,
    }
}

fn kind(address: u64) -> &'static str {
    match crate::tracee::instruction(address) {
        [0xf0, ..] => " [lock]",
        [0x0f, 0x05, ..] => " [syscall]",
        [0xf3, 0xa4 | 0xa5 | 0xaa | 0xab, ..] => " [rep]",
        [0x87, ..] | [0x48 | 0x41 | 0x49, 0x87, ..] => " [xchg]",
        _ => "",
    }
}
