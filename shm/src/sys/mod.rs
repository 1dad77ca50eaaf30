//! The seam to the operating system: who a process is, and how much memory there is.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use linux::*;
#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "linux_ofd.rs"]
pub(crate) mod ofd;
