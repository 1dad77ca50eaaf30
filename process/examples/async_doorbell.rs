//! An async task waits for an event that another process sets, and the runtime goes on.
//!
//! ```sh
//! cargo run --release -p multiprocess --example async_doorbell
//! ```

use std::error::Error;
use std::time::Duration;

use multiprocess::{Context, Event, SharedDoorbell, Source};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long a ring can be missing before the sources are looked at all the same: a process may be
/// killed between setting something and ringing.
const BOUND: Duration = Duration::from_secs(1);

/// The child: works, publishes, rings.
fn work((done, bell): (Event, SharedDoorbell)) {
    std::thread::sleep(Duration::from_millis(200));
    done.set();
    bell.ring().expect("the parent's eventfd");
}

/// Waits until one of `sources` is ready. The one right loop, for tokio.
async fn any_of(
    bell: &AsyncFd<SharedDoorbell>,
    sources: &[&dyn Source],
) -> Result<usize, Box<dyn Error>> {
    loop {
        if let Some(index) = bell.get_ref().poll_any(sources)? {
            return Ok(index);
        }
        // A timeout is no error: look again.
        if let Ok(readable) = tokio::time::timeout(BOUND, bell.readable()).await {
            // Edge-triggered: forgotten here, and read by the next `poll_any`.
            readable?.clear_ready();
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let stop = Event::new()?;
    let done = Event::new()?;
    // SAFETY: a doorbell owns its descriptor, and never replaces or closes it before it is dropped.
    let bell =
        unsafe { AsyncFd::register_with_interest(SharedDoorbell::new()?, Interest::READABLE)? };
    let theirs = bell.get_ref().try_clone()?;
    let worker = Context::default().spawn(work, (done.clone(), theirs))?;

    // On the same thread: it ticks while the other task waits.
    let ticker = tokio::spawn(async {
        let mut ticks = 0_u32;
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            ticks += 1;
            if ticks.is_multiple_of(5) {
                println!("the runtime is alive: {ticks} ticks");
            }
        }
    });
    let index = any_of(&bell, &[&*stop, &*done]).await?;
    ticker.abort();
    println!("source {index} is ready");
    worker.join()?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    multiprocess::init(); // first line: the child starts here
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run())
}
