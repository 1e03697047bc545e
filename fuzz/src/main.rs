//! `penstock-fuzz`: mutates the corpora on the stable compiler, replays a finding, writes the corpora, forges frames.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use penstock_fuzz::mutate::{Chance, mutate};
use penstock_fuzz::{TARGETS, Target, find, forge, seeds};

/// Hostile bytes for Penstock's parsers.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Name the targets.
    List,
    /// Mutate the corpus of a target and feed it. A panic ends the run and leaves the input in a file.
    Run {
        /// The target; `all`: each in turn.
        target: String,
        /// For how many seconds each.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// At most so many inputs each.
        #[arg(long, default_value_t = u64::MAX)]
        runs: u64,
        /// The same seed, the same inputs.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The corpora.
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus"))]
        corpus: PathBuf,
        /// Where a finding is left.
        #[arg(long, default_value = ".")]
        findings: PathBuf,
    },
    /// Feed one file to a target.
    Replay {
        /// The target.
        target: String,
        /// The file.
        file: PathBuf,
    },
    /// Write the corpora anew from their recipes. Files that no recipe makes stay.
    Seeds {
        /// Where to.
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus"))]
        corpus: PathBuf,
    },
    /// Forge frames, and see each of them die under its name.
    Forge {
        /// How many.
        #[arg(long, default_value_t = 1_000_000_000)]
        frames: u64,
        /// On so many threads.
        #[arg(long, default_value_t = 2)]
        threads: u64,
        /// The same seed, the same frames.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

fn main() -> ExitCode {
    match carry_out(Arguments::parse().order) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("penstock-fuzz: {reason}");
            ExitCode::from(2)
        }
    }
}

fn carry_out(order: Order) -> Result<(), String> {
    match order {
        Order::List => TARGETS.iter().for_each(|target| println!("{:<18} {}", target.name, target.about)),
        Order::Run { target, seconds, runs, seed, corpus, findings } => {
            let only = (target != "all").then(|| known(&target)).transpose()?;
            for target in TARGETS.iter().copied().filter(|_| only.is_none()).chain(only) {
                run(target, Duration::from_secs(seconds), runs, seed, &corpus, &findings)?;
            }
        }
        Order::Replay { target, file } => {
            let bytes = std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            (known(&target)?.run)(&bytes);
            println!("{target}: no finding in {}", file.display());
        }
        Order::Seeds { corpus } => seeds::write(&corpus).map_err(|error| format!("{}: {error}", corpus.display()))?,
        Order::Forge { frames, threads, seed } => return forge_all(frames, threads.max(1), seed),
    }
    Ok(())
}

fn known(name: &str) -> Result<Target, String> {
    find(name).ok_or_else(|| format!("there is no target {name}; `penstock-fuzz list` names them"))
}

/// The input under way, for whoever panics: the hook writes it down before the process ends.
static UNDER_WAY: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn run(target: Target, time: Duration, runs: u64, seed: u64, corpus: &Path, findings: &Path) -> Result<(), String> {
    let inputs = seeds::read(&corpus.join(target.name)).map_err(|error| format!("{}: {error}", corpus.join(target.name).display()))?;
    if inputs.is_empty() {
        return Err(format!("{} has no corpus in {}", target.name, corpus.display()));
    }
    let file = findings.join(format!("finding-{}-{seed}", target.name));
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let input = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
        match std::fs::write(&file, input.as_slice()) {
            Ok(()) => eprintln!("{}: the input is in {}", target.name, file.display()),
            Err(error) => eprintln!("{}: the input cannot be written to {}: {error}", target.name, file.display()),
        }
        before(panic);
    }));
    let (mut chance, begun, mut done, mut slowest) = (Chance::new(seed), Instant::now(), 0u64, Duration::ZERO);
    while done < runs && begun.elapsed() < time {
        let pick = |chance: &mut Chance| inputs.get(chance.below(inputs.len())).map(Vec::as_slice).unwrap_or_default();
        let (mut input, other) = (pick(&mut chance).to_vec(), pick(&mut chance));
        mutate(&mut input, other, &mut chance);
        UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&input);
        let start = Instant::now();
        (target.run)(&input);
        slowest = slowest.max(start.elapsed());
        done += 1;
    }
    let rate = done as f64 / begun.elapsed().as_secs_f64();
    println!("{:<18} {done:>10} inputs, {rate:.0} a second, the slowest {} ms, no finding", target.name, slowest.as_millis());
    drop(std::panic::take_hook());
    Ok(())
}

fn forge_all(frames: u64, threads: u64, seed: u64) -> Result<(), String> {
    let begun = Instant::now();
    let shares = (0..threads).map(|thread| (frames / threads + u64::from(thread < frames % threads), seed.wrapping_add(thread)));
    let running: Vec<_> = shares.map(|(share, seed)| std::thread::spawn(move || forge::run(share, seed))).collect();
    let (mut total, mut holds) = (0, true);
    for thread in running {
        let report = thread.join().map_err(|_| "a genuine frame was refused, or a sum does not hold")?;
        print!("{report}");
        total += report.total();
        holds &= report.holds();
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{total:>14}  in all, in {seconds:.1} s, {:.0} a second on {threads} threads", total as f64 / seconds);
    if holds { Ok(()) } else { Err("a forged frame was accepted, or a counter is not what was foretold".to_owned()) }
}
