//! How shared bytes are to lie in memory.

/// Options of a mapping or segment: where its pages come from, and when.
///
/// There is no option for NUMA: memory lies on the node of the CPU that touches it first, so run
/// [`populated`](Self::populated) on the node where it is to lie.
///
/// # Examples
///
/// ```
/// use multiprocess_shm::{HugePages, Mapping, Options};
///
/// let options = Options::new().huge_pages(HugePages::Advised).populated(true);
/// let mapping = Mapping::anonymous_with(c"frames", 8 << 20, &options)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct Options {
    pub(crate) huge_pages: HugePages,
    pub(crate) populated: bool,
    pub(crate) locked: bool,
    pub(crate) one_writer: bool,
}

/// Pages of 2 MiB in place of 4 KiB: fewer misses in the TLB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HugePages {
    /// The page size of the machine.
    #[default]
    No,
    /// Ask the kernel to use them where it can (`MADV_HUGEPAGE`); it may decline, as
    /// `/sys/kernel/mm/transparent_hugepage/shmem_enabled` says.
    Advised,
    /// From the pool that the administrator has set aside (`MFD_HUGETLB`), or
    /// [`CreateError::NoHugePages`](multiprocess_core::CreateError::NoHugePages). The size is
    /// rounded up to whole pages. Nameless memory only.
    Pool,
}

impl Options {
    /// Small pages, mapped at first use, written by everybody.
    pub const fn new() -> Self {
        Self {
            huge_pages: HugePages::No,
            populated: false,
            locked: false,
            one_writer: false,
        }
    }

    /// Which pages.
    pub const fn huge_pages(mut self, pages: HugePages) -> Self {
        self.huge_pages = pages;
        self
    }

    /// Map every page now and not at its first use (`MADV_POPULATE_WRITE`; Linux 5.14, older ones
    /// map at first use). Memory is reserved in any case.
    pub const fn populated(mut self, yes: bool) -> Self {
        self.populated = yes;
        self
    }

    /// Keep the pages from being swapped out (`mlock`), within `RLIMIT_MEMLOCK`.
    pub const fn locked(mut self, yes: bool) -> Self {
        self.locked = yes;
        self
    }

    /// One writer, many readers: nobody but this mapping can ever write the bytes
    /// (`F_SEAL_FUTURE_WRITE`; Linux 5.1). Others attach read-only. Nameless memory only.
    pub const fn one_writer(mut self, yes: bool) -> Self {
        self.one_writer = yes;
        self
    }
}
