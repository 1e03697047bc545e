//! `penstock-perf`: the load generator by hand, over a plain wire between two namespaces. It tells what this machine and
//! the generator itself can do, which is what every figure of the tunnel is to be read against.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use penstock_perf::lab::{Namespace, Offload, Wire, WireOptions};
use penstock_perf::load::{Direction, Meter, PingPong, Tcp, Udp};

/// Measures what a plain wire between two network namespaces carries.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How long each measurement takes.
    #[arg(long, default_value_t = 3.0, global = true)]
    seconds: f64,
    /// The wire's MTU.
    #[arg(long, default_value_t = 1500, global = true)]
    mtu: u32,
    /// What happens to super-packets on the wire.
    #[arg(long, value_enum, default_value_t = Mode::Whole, global = true)]
    offload: Mode,
    /// Which way load flows.
    #[arg(long, value_enum, default_value_t = Way::Forward, global = true)]
    direction: Way,
    /// Over IPv6.
    #[arg(long, global = true)]
    v6: bool,
    #[command(subcommand)]
    load: Load,
}

#[derive(Subcommand)]
enum Load {
    /// Bulk over TCP.
    Tcp {
        /// Connections in each direction.
        #[arg(long, default_value_t = 1)]
        streams: usize,
        /// Compute and compare every byte.
        #[arg(long)]
        check: bool,
    },
    /// Numbered datagrams over UDP.
    Udp {
        /// Flows in each direction.
        #[arg(long, default_value_t = 1)]
        flows: usize,
        /// Payload bytes; without it every size that fits, in turn.
        #[arg(long)]
        size: Option<u16>,
        /// Datagrams a second of each flow; 0: as fast as it goes.
        #[arg(long, default_value_t = 10_000.0)]
        rate: f64,
        /// Datagrams handed to the kernel at once.
        #[arg(long, default_value_t = 1)]
        segments: u16,
        /// Receive merged buffers.
        #[arg(long)]
        merge: bool,
    },
    /// Round trips over UDP.
    Latency {
        /// Payload bytes.
        #[arg(long, default_value_t = 64)]
        size: usize,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// They pass whole.
    Whole,
    /// The sender's kernel cuts, the receiver's merges.
    Gro,
    /// The sender's kernel cuts, nothing merges.
    Plain,
}

#[derive(Clone, Copy, ValueEnum)]
enum Way {
    /// One way.
    Forward,
    /// The other way.
    Reverse,
    /// Both ways at once.
    Both,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !penstock_perf::is_root() {
        eprintln!("penstock-perf makes network namespaces: run it as root");
        return ExitCode::from(2);
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock-perf: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let offload = match arguments.offload {
        Mode::Whole => Offload::Whole,
        Mode::Gro => Offload::Gro,
        Mode::Plain => Offload::Plain,
    };
    let direction = match arguments.direction {
        Way::Forward => Direction::Forward,
        Way::Reverse => Direction::Reverse,
        Way::Both => Direction::Both,
    };
    let duration = Duration::try_from_secs_f64(arguments.seconds).context("--seconds")?;
    let (left, right) = (Namespace::new("left")?, Namespace::new("right")?);
    let wire = Wire::new(&left, &right, &WireOptions { mtu: arguments.mtu, offload, ..WireOptions::default() })?;
    let [first, second] = [0, 1].map(|side| if arguments.v6 { wire.host_v6(side) } else { wire.host_v4(side) });
    let meter = Meter::start(&[std::process::id()]);
    let bytes = match arguments.load {
        Load::Tcp { streams, check } => {
            let plan = Tcp { streams, check, duration, direction, ..Tcp::default() };
            let outcome = plan.run(&first, &second)?;
            println!("{:.2} Gb/s, {} retransmits, intact: {}", outcome.gigabits(), outcome.retransmits(), outcome.is_intact());
            outcome.bytes()
        }
        Load::Udp { flows, size, rate, segments, merge } => {
            let every = || Udp::every_size(u16::try_from(arguments.mtu).unwrap_or(u16::MAX), arguments.v6);
            let sizes = size.map_or_else(every, |size| vec![size]);
            let outcome = Udp { flows, sizes, rate, segments, merge, duration, direction, ..Udp::default() }.run(&first, &second)?;
            println!(
                "{}; {} sends refused; {:.2} Gb/s, {:.0} a second",
                outcome.total,
                outcome.refused,
                outcome.gigabits(),
                outcome.rate()
            );
            outcome.total.bytes
        }
        Load::Latency { size } => {
            let latency = PingPong { size, duration, ..PingPong::default() }.run(&first, &second)?;
            let [median, p99, p999, longest] = [50.0, 99.0, 99.9, 100.0].map(|percentile| latency.micros(percentile));
            println!(
                "{median:.1} us median, {p99:.1} 99 %, {p999:.1} 99.9 %, {longest:.1} longest; {} lost of {}",
                latency.lost,
                latency.times.len()
            );
            return Ok(());
        }
    };
    let usage = meter.stop();
    let gigabytes = bytes as f64 / 1e9;
    println!("{:.3} CPU s per GB on the whole machine, {:.2} s stolen of {:.2}", usage.machine / gigabytes, usage.steal, usage.wall);
    Ok(())
}
