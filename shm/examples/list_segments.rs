//! Lists the named segments of this machine, who uses them, and what is left over of the dead.
//!
//! `cargo run -p multiprocess-shm --example list_segments [-- --clean-up]`

use multiprocess_shm::{DIRECTORY, NamedState, clean_up, list};

fn main() -> std::io::Result<()> {
    for segment in list(DIRECTORY)? {
        let what = match segment.state {
            NamedState::Finished {
                creator,
                creator_died,
                ..
            } => {
                let fate = if creator_died { ", who has died" } else { "" };
                format!("a segment by process {creator}{fate}")
            }
            NamedState::Unfinished { creator, .. } => format!("unfinished, by process {creator}"),
            _ => "plain bytes".to_owned(),
        };
        let users = segment.users()?;
        let state = match segment.is_leftover() {
            true => "left over".to_owned(),
            false => format!("used by {users:?}"),
        };
        println!(
            "{:24} {:>12} bytes  {what}, {state}",
            segment.name(),
            segment.size
        );
    }
    if std::env::args().any(|argument| argument == "--clean-up") {
        println!("{} removed", clean_up(DIRECTORY)?);
    }
    Ok(())
}
