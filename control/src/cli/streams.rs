//! Where answers and complaints go.

use std::io::{IsTerminal, Write};

use super::Failure;

/// Stdout and stderr, or what stands for them in a test.
pub struct Streams<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    /// Whether stdout understands colours.
    pub colour: bool,
}

impl<'a> Streams<'a> {
    /// Answers go to `out`, complaints to `err`.
    pub fn new(out: &'a mut dyn Write, err: &'a mut dyn Write, colour: bool) -> Self {
        Self { out, err, colour }
    }

    /// Whether this process may colour its stdout: a terminal that is not a dumb one, and no `NO_COLOR`
    /// (no-color.org: set and not empty).
    #[must_use]
    pub fn wants_colour() -> bool {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        std::io::stdout().is_terminal() && !no_color && !dumb
    }

    /// Writes to stdout what was asked for.
    pub(super) fn answer(&mut self, text: &str) -> Result<(), Failure> {
        Ok(self.out.write_all(text.as_bytes())?)
    }

    /// Writes a line to stdout.
    pub(super) fn answer_line(&mut self, text: &str) -> Result<(), Failure> {
        self.answer(text)?;
        self.answer("\n")
    }

    /// Writes JSON to stdout.
    pub(super) fn json(&mut self, value: &impl serde::Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(|error| Failure::error(error.to_string()))?;
        self.answer_line(&text)
    }

    /// Writes a line to stderr. If that fails there is nowhere left to say so.
    pub(super) fn complain(&mut self, line: &str) {
        let clean: String = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let _ = writeln!(self.err, "penstock: {clean}");
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }
}
