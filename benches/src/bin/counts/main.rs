//! `cargo counts`: instructions per packet of every hot path, counted by callgrind, which no noise of the machine reaches. A program of
//! our own and not a harness such as gungraun, because what is wanted is a sum per packet, with and without the cipher, held against other scales.

mod callgrind;
mod cases;
mod record;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;

use callgrind::Count;
use cases::Case;
use record::Record;

/// By how much peers and prefixes may change the instructions of a packet.
const SCALE_MAX: f64 = 0.02;

/// Count the instructions of every hot path, per packet, with valgrind (Debian package: valgrind).
///
/// Writes perf/results/instructions/COMMIT.json and shows the change since the newest other file there.
#[derive(Debug, Parser)]
struct Arguments {
    /// Fail if the number of peers or prefixes changes the instructions of a packet by 2 % or more; writes no file
    #[arg(long)]
    check: bool,
    /// Only cases whose name contains this; writes no file
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Keep what callgrind writes in this folder, for callgrind_annotate
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Run one case and print by what its count is divided: what runs under valgrind
    #[arg(long, value_name = "NAME", hide = true)]
    case: Option<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("counts: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    if let Some(name) = &arguments.case {
        let case = Case::all().into_iter().find(|case| case.name == *name);
        ensure!(case.is_some(), "no case is called {name}");
        case.iter().for_each(|case| println!("{}", case.run()));
        return Ok(true);
    }
    callgrind::version()?;
    if let Some(folder) = &arguments.keep {
        std::fs::create_dir_all(folder)?;
    }
    let wanted = |case: &Case| {
        arguments.only.as_ref().is_none_or(|text| case.name.contains(text.as_str())) && (!arguments.check || case.name.contains('x'))
    };
    let cases: Vec<Case> = Case::all().into_iter().filter(wanted).collect();
    ensure!(!cases.is_empty(), "no case has such a name");
    let whole = arguments.only.is_none() && !arguments.check;
    let commit = Record::new(BTreeMap::new())?.commit;
    let before = Record::before(&commit)?;
    if let Some(before) = &before {
        println!("change since {}", before.commit);
    }
    println!("{:<28} {:>10} {:>10} {:>8} {:>10} {:>8} {:>8}", "instructions per packet", "all", "cipher", "copy", "own", "change", "scale");
    let (mut counts, mut holds) = (BTreeMap::new(), true);
    for case in &cases {
        let count = callgrind::count(&case.name, arguments.keep.as_deref())?;
        let scale = case.reference().and_then(|reference| counts.get(&reference)).map(|reference| change(reference, &count));
        let before = before.as_ref().and_then(|before| before.cases.get(&case.name)).map(|before| change(before, &count));
        holds &= scale.is_none_or(|scale| scale.abs() < SCALE_MAX);
        let [all, cipher, copy, own] = count.per_packet();
        println!("{:<28} {all:>10.1} {cipher:>10.1} {copy:>8.1} {own:>10.1} {:>8} {:>8}", case.name, percent(before), percent(scale));
        counts.insert(case.name.clone(), count);
    }
    if whole {
        println!("written: {}", Record::new(counts)?.write()?.display());
    }
    if !holds {
        eprintln!("counts: more peers or prefixes change the instructions of a packet by {:.0} % or more", SCALE_MAX * 100.0);
    }
    Ok(holds || !arguments.check)
}

/// By which share all instructions of a packet changed.
fn change(from: &Count, to: &Count) -> f64 {
    let [[from, ..], [to, ..]] = [from, to].map(Count::per_packet);
    to / from - 1.0
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(String::new, |share| format!("{:+.2} %", share * 100.0))
}
