//! The object file this code was loaded from: where it lies, and which build it is.

use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

/// A place in our own image: offsets are counted from here, so that they mean the same in a
/// process that loaded the same file at another address.
static ANCHOR: u64 = u64::from_le_bytes(*b"MPANCHOR");

/// What was found out about the image, once.
#[derive(Debug)]
pub(crate) struct Image {
    /// Bounds of its loaded segments.
    start: usize,
    end: usize,
    /// Its GNU build id; else device, inode, size and time of the executable.
    pub(crate) identity: Vec<u8>,
}

impl Image {
    /// The image that contains this code.
    pub(crate) fn own() -> &'static Image {
        static OWN: OnceLock<Image> = OnceLock::new();
        OWN.get_or_init(find)
    }

    /// Distance of `address` from the anchor; `None` if it lies in another image.
    pub(crate) fn offset_of<T>(&self, address: &'static T) -> Option<i64> {
        let address = std::ptr::from_ref(address).expose_provenance();
        self.holds::<T>(address)
            .then(|| (address as i64).wrapping_sub(anchor() as i64))
    }

    /// The inverse: an address inside the image, aligned for `T`, or `None`.
    pub(crate) fn address_of<T>(&self, offset: i64) -> Option<*const T> {
        let address = (anchor() as i64).wrapping_add(offset) as usize;
        let aligned = address.is_multiple_of(align_of::<T>());
        // An exposed address, and not one derived from the anchor: that one may be used for the
        // anchor's own bytes only, and an optimised build takes advantage of it.
        (aligned && self.holds::<T>(address)).then(|| std::ptr::with_exposed_provenance(address))
    }

    fn holds<T>(&self, address: usize) -> bool {
        address >= self.start
            && address
                .checked_add(size_of::<T>())
                .is_some_and(|end| end <= self.end)
    }
}

fn anchor() -> usize {
    std::ptr::from_ref(&ANCHOR).addr()
}

fn find() -> Image {
    let mut image = Image {
        start: 0,
        end: 0,
        identity: Vec::new(),
    };
    // SAFETY: `visit` matches the callback's signature, and `image` outlives the call, which
    // is the only user of the pointer.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut image).cast()) };
    if image.identity.is_empty() {
        image.identity = executable_identity();
    }
    image
}

/// Called for each loaded object until it returns non-zero.
unsafe extern "C" fn visit(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    image: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader passes a valid info and our own pointer through.
    let (info, image) = unsafe { (&*info, &mut *image.cast::<Image>()) };
    // SAFETY: the loader vouches for the table it reports.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    let at = |header: &libc::Elf64_Phdr| info.dlpi_addr as usize + header.p_vaddr as usize;
    let (mut start, mut end) = (usize::MAX, 0);
    for header in headers.iter().filter(|h| h.p_type == libc::PT_LOAD) {
        start = start.min(at(header));
        end = end.max(at(header) + header.p_memsz as usize);
    }
    if !(start..end).contains(&anchor()) {
        return 0;
    }
    (image.start, image.end) = (start, end);
    for header in headers.iter().filter(|h| h.p_type == libc::PT_NOTE) {
        // SAFETY: a PT_NOTE segment of a loaded object is mapped and readable.
        let notes =
            unsafe { std::slice::from_raw_parts(at(header) as *const u8, header.p_memsz as usize) };
        if let Some(id) = build_id(notes) {
            image.identity = id.to_vec();
        }
    }
    1
}

/// The `NT_GNU_BUILD_ID` among ELF notes: {name size, description size, type} and both, each
/// padded to 4 bytes.
fn build_id(mut notes: &[u8]) -> Option<&[u8]> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let word = |notes: &[u8], at: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(notes.get(at..at + 4)?.try_into().ok()?))
    };
    loop {
        let name_len = word(notes, 0)? as usize;
        let len = word(notes, 4)? as usize;
        let kind = word(notes, 8)?;
        let start = 12 + name_len.next_multiple_of(4);
        let id = notes.get(start..start.checked_add(len)?)?;
        if kind == NT_GNU_BUILD_ID && notes.get(12..16) == Some(b"GNU\0") {
            return Some(id);
        }
        notes = notes.get(start + len.next_multiple_of(4)..)?;
    }
}

/// For binaries linked without a build id: which file runs. `/proc/self/exe` names the inode
/// that runs, also after the path was overwritten.
fn executable_identity() -> Vec<u8> {
    let Ok(file) = std::fs::metadata("/proc/self/exe") else {
        return Vec::new();
    };
    [
        file.dev(),
        file.ino(),
        file.size(),
        file.mtime() as u64,
        file.mtime_nsec() as u64,
    ]
    .iter()
    .flat_map(|number| number.to_le_bytes())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_holds_its_own_statics_and_nothing_else() {
        static HERE: u64 = 7;
        let image = Image::own();
        assert!(!image.identity.is_empty());
        let offset = image.offset_of(&HERE).unwrap();
        assert_eq!(image.address_of::<u64>(offset), Some(&raw const HERE));
        assert_eq!(image.address_of::<u64>(offset + 1), None, "not aligned");
        for outside in [i64::MAX, i64::MIN, 1 << 40, -(1 << 40)] {
            assert_eq!(image.address_of::<u64>(outside & !7), None);
        }
        let heap: &'static u64 = Box::leak(Box::new(7));
        assert_eq!(image.offset_of(heap), None);
    }

    #[test]
    fn broken_notes_are_no_build_id() {
        assert_eq!(build_id(&[]), None);
        assert_eq!(build_id(&[255; 40]), None);
        let mut note = Vec::new();
        for word in [4u32, 2, 3] {
            note.extend(word.to_ne_bytes());
        }
        note.extend(b"GNU\0");
        note.extend([9, 8, 0, 0]);
        assert_eq!(build_id(&note), Some([9, 8].as_slice()));
    }
}
