//! A bar on a terminal, a line now and then otherwise.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::coordinator::Watch;
use super::report::complain;

pub(crate) struct Progress {
    bar: ProgressBar,
    plain: bool,
    last: Cell<Instant>,
}

impl Progress {
    pub(crate) fn new(files: u64) -> Self {
        let plain = !io::stderr().is_terminal();
        let target = if plain {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let style = "{bar:40} {pos}/{len} files  {msg}";
        let bar = ProgressBar::with_draw_target(Some(files), target)
            .with_style(ProgressStyle::with_template(style).expect("a constant template"));
        Self {
            bar,
            plain,
            last: Cell::new(Instant::now()),
        }
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Progress {
    fn at(&self, so_far: impl FnOnce() -> (u64, u64)) {
        let interval = Duration::from_millis(if self.plain { 1000 } else { 100 });
        if self.last.get().elapsed() < interval {
            return;
        }
        self.last.set(Instant::now());
        let (files, words) = so_far();
        self.bar.set_position(files);
        self.bar.set_message(format!("{words} words"));
        if self.plain {
            let all = self.bar.length().unwrap_or(0);
            let _ = writeln!(io::stderr(), "{files} of {all} files, {words} words");
        }
    }

    fn line(&self, line: &str) {
        self.bar.suspend(|| complain(line));
    }
}
