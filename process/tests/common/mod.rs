//! One body, three start methods.

use multiprocess::{Context, Process, StartMethod};
use serde::{Serialize, de::DeserializeOwned};

/// Declares a test that runs `$body` under all three methods. `fork` needs a process with one
/// thread, which libtest has not: its turn is in a child made by `spawn`, whose only thread then
/// forks.
#[macro_export]
macro_rules! under_all_methods {
    ($name:ident, $body:expr) => {
        #[test]
        fn $name() {
            let _watchdog = multiprocess_testkit::watchdog::Watchdog::seconds(120);
            let body: fn(StartMethod) = $body;
            body(StartMethod::Forkserver);
            body(StartMethod::Spawn);
            fn forked(method: StartMethod) {
                let body: fn(StartMethod) = $body;
                body(method)
            }
            Context::spawn_exec()
                .spawn(
                    |name: String| forked(name.parse().unwrap()),
                    "fork".to_owned(),
                )
                .unwrap()
                .join()
                .unwrap();
        }
    };
}

pub(crate) fn start<A, R>(
    method: StartMethod,
    f: impl Fn(A) -> R + Copy + 'static,
    args: A,
) -> Process<R>
where
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    Context::new(method).unwrap().spawn(f, args).unwrap()
}
