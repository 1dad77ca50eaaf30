//! What `process` asks of the operating system: fork and exec, pidfds, and
//! what is known about the running image.

pub(crate) mod environ;
pub(crate) mod exec;
pub(crate) mod fork;
pub(crate) mod image;
pub(crate) mod pidfd;

pub(crate) use multiprocess_shm::socket;
