//! Whether the Boost lines can be measured: a C++ compiler finds Boost's headers. Asked once.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// C++ compilers, in the order in which they are tried.
const COMPILERS: [&str; 2] = ["c++", "g++"];

/// What every C++ peer is compiled with.
pub(crate) const FLAGS: [&str; 3] = ["-std=c++17", "-O2", "-pthread"];

/// Every part of Boost.Interprocess is in the package that has this header.
const PROBE: &[u8] = b"#include <boost/interprocess/sync/interprocess_mutex.hpp>\n";

/// The compiler that finds Boost's headers, or why there is none.
pub(crate) fn compiler() -> Result<&'static str, &'static str> {
    static FOUND: OnceLock<Result<&str, &str>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let mut why = "no C++ compiler: c++ (Debian: g++)";
        for compiler in COMPILERS {
            match compiles(compiler) {
                Some(true) => return Ok(compiler),
                Some(false) => why = "no boost headers (Debian: libboost-dev)",
                None => {}
            }
        }
        Err(why)
    })
}

/// Whether `compiler` compiles the probe; `None` if there is no such compiler.
fn compiles(compiler: &str) -> Option<bool> {
    let mut child = Command::new(compiler)
        .args(FLAGS)
        .args(["-fsyntax-only", "-x", "c++", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    if let Some(mut source) = child.stdin.take() {
        // A compiler that does not read has failed, and its status says so.
        let _ = source.write_all(PROBE);
    }
    Some(child.wait().is_ok_and(|status| status.success()))
}
