//! How a child differs from its parent: environment, working directory, processors, niceness. Told
//! to it together with its call, and applied there before the call, whatever the start method.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};

use crate::entry::Refusal;
use crate::sys::environ::Environ;

/// What a [`Context`](crate::Context) sets of a child, beside its standard streams.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) environment: Changes,
    /// Bytes of a path.
    pub(crate) directory: Option<Vec<u8>>,
    pub(crate) processors: Option<Vec<usize>>,
    pub(crate) nice: Option<i32>,
}

/// Changes to an environment, in order: a later one of a key overrides.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Changes {
    pub(crate) cleared: bool,
    /// `None` removes.
    variables: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Changes {
    pub(crate) fn set(&mut self, key: &OsStr, value: Option<&OsStr>) {
        let value = value.map(|value| value.as_bytes().to_vec());
        self.variables.push((key.as_bytes().to_vec(), value));
    }

    pub(crate) fn clear(&mut self) {
        self.cleared = true;
        self.variables.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.cleared && self.variables.is_empty()
    }

    /// This process's variables with the changes.
    pub(crate) fn applied(&self) -> Vec<(OsString, OsString)> {
        let mut all: Vec<_> = match self.cleared {
            true => Vec::new(),
            false => std::env::vars_os().collect(),
        };
        for (key, value) in &self.variables {
            all.retain(|(other, _)| other.as_bytes() != key);
            if let Some(value) = value {
                let text = |bytes: &Vec<u8>| OsString::from_vec(bytes.clone());
                all.push((text(key), text(value)));
            }
        }
        all
    }

    /// The environment to install, if it is to change.
    pub(crate) fn environ(&self) -> io::Result<Option<Environ>> {
        if self.is_empty() {
            return Ok(None);
        }
        Environ::new(self.applied()).map(Some)
    }
}

impl Settings {
    /// Applies all but the environment to this process, which has one thread.
    pub(crate) fn apply(&self) -> Result<(), Refusal> {
        if let Some(increment) = self.nice {
            // -1 is a valid answer, too; the kernel's limits clamp, and only lowering is refused.
            rustix::process::nice(increment)
                .map_err(|error| format!("nice {increment}: {error}"))?;
        }
        if let Some(processors) = &self.processors {
            let mut set = CpuSet::new();
            for &cpu in processors {
                if cpu >= CpuSet::MAX_CPU {
                    return Err(format!("there is no processor {cpu}"));
                }
                set.set(cpu);
            }
            rustix::thread::sched_setaffinity(None, &set)
                .map_err(|error| format!("processors {processors:?}: {error}"))?;
        }
        if let Some(directory) = &self.directory {
            let directory = Path::new(OsStr::from_bytes(directory));
            std::env::set_current_dir(directory)
                .map_err(|error| format!("working directory {directory:?}: {error}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_of<'a>(all: &'a [(OsString, OsString)], key: &str) -> Option<&'a OsStr> {
        let found: Vec<_> = all.iter().filter(|(other, _)| other == key).collect();
        assert!(found.len() < 2, "{key} is there twice");
        found.first().map(|(_, value)| value.as_os_str())
    }

    #[test]
    fn later_changes_override() {
        let mut changes = Changes::default();
        assert!(changes.is_empty());
        changes.set("PATH".as_ref(), None);
        changes.set("A".as_ref(), Some("1".as_ref()));
        changes.set("A".as_ref(), Some("2".as_ref()));
        let all = changes.applied();
        assert_eq!(value_of(&all, "PATH"), None);
        assert_eq!(value_of(&all, "A"), Some("2".as_ref()));
        changes.clear();
        assert_eq!(changes.applied(), []);
        assert!(!changes.is_empty(), "an empty environment is a change");
    }

    #[test]
    fn keys_that_no_environment_can_hold_are_refused() {
        for (key, value) in [("", "1"), ("A=B", "1"), ("A\0", "1"), ("A", "1\0")] {
            let mut changes = Changes::default();
            changes.set(key.as_ref(), Some(value.as_ref()));
            assert!(changes.environ().is_err(), "{key:?} {value:?}");
        }
    }
}
