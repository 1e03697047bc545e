//! What the engine says on stderr. A line that cannot be written, because the disk is full or nobody reads any more, is lost: `eprintln` would end
//! the process for it.

use std::fmt::Display;
use std::io::Write;

/// Writes a line behind the program's name.
pub fn line(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "penstock-engine: {text}");
}
