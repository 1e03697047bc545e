//! `penstock`: the command. Everything is in [`penstock::cli`]; here it meets the real stdout and stderr.

use std::io::{BufWriter, stderr, stdout};
use std::process::ExitCode;

use clap::Parser;
use penstock::cli::{Cli, Streams, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = BufWriter::new(stdout().lock());
    run(&cli, &mut Streams::new(&mut out, &mut stderr().lock(), Streams::wants_colour()))
}
