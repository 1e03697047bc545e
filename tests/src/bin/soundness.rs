//! `cargo soundness`: the tests under tools that see what a test alone cannot: Miri, loom and ThreadSanitizer. First each tool has to
//! report the faults that `engine/src/handoff/planted.rs` plants; a tool that is silent there proves nothing by its silence later.
//! All but loom need a nightly compiler with `rust-src` and `miri`.

use std::process::{Command, ExitCode, Stdio};

/// A cargo command under a tool.
struct Tool {
    name: &'static str,
    finds: &'static str,
    /// Words behind `cargo`; the packages and tests follow.
    cargo: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    /// Built for the target by name, so that build scripts and macros are left as they are.
    targeted: bool,
    nightly: bool,
    /// What it has to report, test by test.
    planted: &'static [(&'static str, &'static str)],
    /// Arguments of each run that has to pass.
    runs: &'static [&'static [&'static str]],
}

const RACE: &str = "handoff::planted::a_queue_without_its_orders";
const FREED: &str = "handoff::planted::an_item_read_after_it_was_freed";
const BEYOND: &str = "handoff::planted::a_read_beyond_the_end";

/// A process of its own in which the sandbox is on: the tools' own calls are refused there.
const JAILED: &str = "a_jailed_engine_carries_everything";

const TOOLS: [Tool; 3] = [
    Tool {
        name: "loom",
        finds: "every order of two threads in the queue and the bell",
        cargo: &["test", "--quiet"],
        environment: &[],
        targeted: false,
        nightly: false,
        planted: &[],
        // Its own planted fault is a test that has to panic.
        runs: &[&["-p", "penstock-engine", "--lib", "--", "handoff::loomed"]],
    },
    Tool {
        name: "miri",
        finds: "undefined behaviour and races in what makes no system call and takes no minutes to interpret",
        cargo: &["miri", "test", "--quiet"],
        environment: &[("MIRIFLAGS", "-Zmiri-disable-isolation"), ("PROPTEST_CASES", "4")],
        targeted: false,
        nightly: true,
        planted: &[(RACE, "Data race detected"), (FREED, "has been freed"), (BEYOND, "Undefined Behavior")],
        runs: &[
            &["-p", "penstock-uapi", "--lib"],
            &[
                "-p",
                "penstock-engine",
                "--lib",
                "--",
                "packet::ip",
                "tun::flow",
                "tun::vnet",
                "slots::",
                "ring::reads",
                "path::waiting",
                "handoff::planted",
            ],
        ],
    },
    Tool {
        name: "threads",
        finds: "races (ThreadSanitizer, with a standard library that is watched too)",
        cargo: &["test", "--quiet", "-Zbuild-std"],
        // With two kinds of panic there would be two standard libraries.
        environment: &[
            ("RUSTFLAGS", "-Zsanitizer=thread"),
            ("CARGO_PROFILE_DEV_PANIC", "unwind"),
            ("CARGO_TARGET_DIR", "target/threads"),
            ("TSAN_OPTIONS", "halt_on_error=1"),
        ],
        targeted: true,
        nightly: true,
        planted: &[(RACE, "ThreadSanitizer: data race")],
        runs: &[
            &["-p", "penstock-engine", "--lib", "--", "--skip", "handoff::loomed"],
            &["-p", "penstock-engine", "--test", "gateway", "--", "--test-threads=1", "--skip", JAILED],
        ],
    },
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.is_empty() || wanted.iter().any(|name| !TOOLS.iter().any(|tool| tool.name == name)) {
        eprintln!("usage: cargo soundness TOOL...");
        for tool in &TOOLS {
            eprintln!("  {:<10} {}", tool.name, tool.finds);
        }
        return ExitCode::from(2);
    }
    for tool in TOOLS.iter().filter(|tool| wanted.iter().any(|name| tool.name == name)) {
        if let Err(reason) = tool.run() {
            eprintln!("soundness: {}: {reason}", tool.name);
            return ExitCode::from(1);
        }
    }
    ExitCode::SUCCESS
}

impl Tool {
    fn run(&self) -> Result<(), String> {
        for (test, report) in self.planted {
            eprintln!("soundness: {}: has to report {test}", self.name);
            self.reports(test, report)?;
        }
        for run in self.runs {
            eprintln!("soundness: {}: {}", self.name, run.join(" "));
            let status = self.cargo(run).status().map_err(|error| format!("cannot be run: {error}"))?;
            if !status.success() {
                return Err(format!("{} failed", run.join(" ")));
            }
        }
        Ok(())
    }

    /// A planted fault is reported in the tool's own words; a failure for another reason would say nothing.
    fn reports(&self, test: &str, report: &str) -> Result<(), String> {
        let arguments = ["-p", "penstock-engine", "--lib", "--", "--ignored", "--exact", "--nocapture", test];
        let output = self.cargo(&arguments).stdin(Stdio::null()).output().map_err(|error| format!("cannot be run: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        if !output.status.success() && said.contains(report) {
            return Ok(());
        }
        Err(format!("does not report {test} as `{report}`; it said:\n{said}"))
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let (program, toolchain): (_, &[&str]) = if self.nightly { ("rustup", &["run", "nightly", "cargo"]) } else { ("cargo", &[]) };
        let mut command = Command::new(program);
        command.args(toolchain).args(self.cargo).envs(self.environment.iter().copied());
        // What the cargo that runs this has set is for another compiler.
        for name in ["CARGO", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"] {
            command.env_remove(name);
        }
        if self.targeted {
            command.arg("--target").arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH));
        }
        command.args(arguments);
        command
    }
}
