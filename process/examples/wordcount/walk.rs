//! Which files to count.

use std::path::{Path, PathBuf};

use super::Failure;

pub(crate) struct Found {
    pub files: Vec<PathBuf>,
    pub problems: Vec<String>,
}

/// Regular files under `directory`, or the Rust sources there.
pub(crate) fn walk(directory: &Path, only_rust: bool) -> Result<Found, Failure> {
    // Asked by itself: a walk would only say that nothing was found.
    std::fs::read_dir(directory)
        .map_err(|error| Failure::Start(format!("{}: {error}", directory.display())))?;
    let mut found = Found {
        files: Vec::new(),
        problems: Vec::new(),
    };
    for entry in walkdir::WalkDir::new(directory) {
        match entry {
            Ok(entry) if !entry.file_type().is_file() => {}
            Ok(entry) if only_rust && entry.path().extension() != Some("rs".as_ref()) => {}
            Ok(entry) => found.files.push(entry.into_path()),
            Err(error) => found.problems.push(error.to_string()),
        }
    }
    Ok(found)
}

/// `$CARGO_HOME/registry/src`, where building this project put its dependencies.
pub(crate) fn registry_sources() -> Result<PathBuf, Failure> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
        .ok_or_else(|| Failure::Start("no HOME and no CARGO_HOME: name a directory".into()))?;
    Ok(home.join("registry").join("src"))
}
