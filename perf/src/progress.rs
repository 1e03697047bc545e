//! What happens just now: a moving line on a terminal, one line a step elsewhere. On stderr, since it is not the result.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Shows steps one after the other.
pub struct Progress {
    terminal: bool,
}

/// What the number of a step counts.
#[derive(Clone, Copy)]
pub enum Unit {
    /// Bytes of content.
    Bytes,
    /// Datagrams.
    Datagrams,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// Moves where stderr is a terminal.
    #[must_use]
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    /// A step of unknown length.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn step<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        self.told(name, work, |_| format!("{:.1} s", start.elapsed().as_secs_f64()))
    }

    /// The same; `told` makes its outcome into words.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn told<T>(&self, name: &str, work: impl FnOnce() -> Result<T>, told: impl FnOnce(&T) -> String) -> Result<T> {
        let bar = self.terminal.then(ProgressBar::new_spinner);
        if let Some(bar) = &bar {
            bar.set_message(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        let outcome = work();
        let words = outcome.as_ref().map(told).unwrap_or_default();
        self.end(bar.as_ref(), name, &words, outcome.is_ok());
        outcome
    }

    /// A step that takes about `expected` and counts in the number it is given. `told` makes its outcome into words.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn counted<T>(
        &self,
        name: &str,
        expected: Duration,
        unit: Unit,
        work: impl FnOnce(&AtomicU64) -> Result<T>,
        told: impl FnOnce(&T) -> String,
    ) -> Result<T> {
        let bar = self.terminal.then(|| {
            let bar = ProgressBar::new(expected.as_millis() as u64);
            bar.set_style(ProgressStyle::with_template("  {prefix} {wide_bar} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.with_prefix(name.to_owned())
        });
        let (count, done) = (AtomicU64::new(0), AtomicBool::new(false));
        let outcome = std::thread::scope(|scope| {
            if let Some(bar) = &bar {
                scope.spawn(|| watch(bar, &count, &done, unit));
            }
            let outcome = work(&count);
            done.store(true, Ordering::Release);
            outcome
        });
        let words = outcome.as_ref().map(told).unwrap_or_default();
        self.end(bar.as_ref(), name, &words, outcome.is_ok());
        outcome
    }

    fn end(&self, bar: Option<&ProgressBar>, name: &str, words: &str, well: bool) {
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        if !well {
            // The signal that interrupts this program reaches what it has started at the same moment.
            std::thread::sleep(Duration::from_millis(100));
            crate::lab::cleanup::give_way();
        }
        eprintln!("{} {name:<48} {words}", if well { "  done  " } else { "  FAILED" });
    }
}

fn watch(bar: &ProgressBar, count: &AtomicU64, done: &AtomicBool, unit: Unit) {
    let start = Instant::now();
    while !done.load(Ordering::Acquire) {
        bar.set_position(start.elapsed().as_millis() as u64);
        let count = count.load(Ordering::Relaxed);
        bar.set_message(match unit {
            Unit::Bytes => format!("{:.2} GB", count as f64 / 1e9),
            Unit::Datagrams => format!("{count} datagrams"),
        });
        std::thread::sleep(Duration::from_millis(100));
    }
}
