//! The command as a process: what a shell sees of it.

use std::io::Read;
use std::process::{Command, Output, Stdio};

fn penstock(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    command.args(words).stdin(Stdio::null());
    command
}

fn output(words: &[&str]) -> Output {
    penstock(words).output().expect("the command runs")
}

#[test]
fn misuse_is_2_no_daemon_is_3_and_help_is_0() {
    for (words, code) in [
        (["dance"].as_slice(), 2),
        (&["--run-dir", "/nonexistent"], 3),
        (&["show", "--run-dir", "/nonexistent"], 3),
        (&["check", "/nonexistent"], 3),
        (&["--help"], 0),
        (&["key", "psk"], 0),
    ] {
        assert_eq!(output(words).status.code(), Some(code), "{words:?}");
    }
    let silent = output(&["--run-dir", "/nonexistent"]);
    assert!(silent.stdout.is_empty() && !silent.stderr.is_empty(), "reasons go to stderr");
}

#[test]
fn a_reader_that_stops_early_is_no_error() {
    for words in [["key", "psk"].as_slice(), &["check", "/nonexistent"], &["--help"]] {
        // A pipe that nobody reads any more, before the command has begun.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut child = penstock(words).stdout(writer).stderr(Stdio::piped()).spawn().expect("the command runs");
        let mut complaint = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut complaint).expect("text");
        assert_eq!((child.wait().expect("its end").code(), complaint.as_str()), (Some(0), ""), "{words:?}");
    }
}

#[test]
fn there_is_no_colour_unless_a_terminal_asks_for_it() {
    let help = penstock(&["--help"]).env("TERM", "xterm").env_remove("NO_COLOR").output().expect("the command runs");
    assert!(!help.stdout.contains(&0x1b));
}
