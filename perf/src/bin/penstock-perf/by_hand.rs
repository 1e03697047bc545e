//! `tcp`, `udp` and `latency`: the load generator by hand, over a plain wire between two namespaces. It tells what this machine and
//! the generator itself can do, which is what every figure of the tunnel is to be read against.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use penstock_perf::lab::{Namespace, Offload, Wire, WireOptions};
use penstock_perf::load::{Direction, Meter, PingPong, Tcp, Udp};

/// What all three share.
#[derive(Args)]
pub(crate) struct Way {
    /// How long it takes.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// The wire's MTU.
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// What happens to super-packets on the wire.
    #[arg(long, value_enum, default_value_t = Mode::Whole)]
    offload: Mode,
    /// Which way load flows.
    #[arg(long, value_enum, default_value_t = Toward::Forward)]
    direction: Toward,
    /// Over IPv6.
    #[arg(long)]
    v6: bool,
}

/// Load over a plain wire.
#[derive(Subcommand)]
pub(crate) enum Load {
    /// Bulk over TCP.
    Tcp {
        #[command(flatten)]
        way: Way,
        /// Connections in each direction.
        #[arg(long, default_value_t = 1)]
        streams: usize,
        /// Compute and compare every byte.
        #[arg(long)]
        check: bool,
    },
    /// Numbered datagrams over UDP.
    Udp {
        #[command(flatten)]
        way: Way,
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
        #[command(flatten)]
        way: Way,
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
enum Toward {
    /// One way.
    Forward,
    /// The other way.
    Reverse,
    /// Both ways at once.
    Both,
}

/// Runs one load and prints what came of it.
pub(crate) fn run(load: &Load) -> Result<()> {
    let (Load::Tcp { way, .. } | Load::Udp { way, .. } | Load::Latency { way, .. }) = load;
    let offload = match way.offload {
        Mode::Whole => Offload::Whole,
        Mode::Gro => Offload::Gro,
        Mode::Plain => Offload::Plain,
    };
    let direction = match way.direction {
        Toward::Forward => Direction::Forward,
        Toward::Reverse => Direction::Reverse,
        Toward::Both => Direction::Both,
    };
    let duration = Duration::try_from_secs_f64(way.seconds).context("--seconds")?;
    let (left, right) = (Namespace::new("left")?, Namespace::new("right")?);
    let wire = Wire::new(&left, &right, &WireOptions { mtu: way.mtu, offload, ..WireOptions::default() })?;
    let [first, second] = [0, 1].map(|side| if way.v6 { wire.host_v6(side) } else { wire.host_v4(side) });
    let meter = Meter::start(&[std::process::id()]);
    let bytes = match *load {
        Load::Tcp { streams, check, .. } => {
            let plan = Tcp { streams, check, duration, direction, ..Tcp::default() };
            let outcome = plan.run(&first, &second)?;
            println!("{:.2} Gb/s, {} retransmits, intact: {}", outcome.gigabits(), outcome.retransmits(), outcome.is_intact());
            outcome.bytes()
        }
        Load::Udp { flows, size, rate, segments, merge, .. } => {
            let every = || Udp::every_size(u16::try_from(way.mtu).unwrap_or(u16::MAX), way.v6);
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
        Load::Latency { size, .. } => {
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
