//! The log of the daemon: one line an event on stderr, with fixed field names, for people and for `grep`.
//!
//! ```text
//! penstockd info event=peer-up peer=london local="10.1.0.0/24" remote="10.2.0.0/24"
//! ```
//! No field ever holds a key. Time and host are the supervisor's to add.

use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};

/// How urgent a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// The ordinary course.
    Info,
    /// Somebody should look.
    Warning,
    /// Something does not work.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Writes a line. Values with anything but plain characters are quoted, and control characters are replaced. What cannot be written, because
/// the disk is full or nobody reads any more, is lost: `eprintln` would end the process for it.
pub(crate) fn line(level: Level, event: &str, fields: &[(&str, &dyn Display)]) {
    let _ = writeln!(io::stderr(), "{}", format_line(level, event, fields));
}

fn format_line(level: Level, event: &str, fields: &[(&str, &dyn Display)]) -> String {
    let mut line = format!("penstockd {} event={event}", level.name());
    for (name, value) in fields {
        let text: String = value.to_string().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let plain = !text.is_empty() && !text.contains([' ', '"', '=']);
        // Writing to a String cannot fail.
        let _ = if plain { write!(line, " {name}={text}") } else { write!(line, " {name}=\"{}\"", text.replace('"', "'")) };
    }
    line
}

pub(crate) fn info(event: &str, fields: &[(&str, &dyn Display)]) {
    line(Level::Info, event, fields);
}

pub(crate) fn warning(event: &str, fields: &[(&str, &dyn Display)]) {
    line(Level::Warning, event, fields);
}

pub(crate) fn error(event: &str, fields: &[(&str, &dyn Display)]) {
    line(Level::Error, event, fields);
}

#[cfg(test)]
mod tests {
    use super::{Level, format_line};

    #[test]
    fn one_event_is_one_line() {
        let line = format_line(Level::Info, "peer-up", &[("peer", &"london"), ("why", &"a \"b\"\nc"), ("n", &7), ("e", &"")]);
        assert_eq!(line, "penstockd info event=peer-up peer=london why=\"a 'b'\u{fffd}c\" n=7 e=\"\"");
    }
}
