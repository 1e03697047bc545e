//! What the demo measures: wire and tunnel in turn, so that whatever this machine does meanwhile happens to both.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use penstock_perf::lab::{Family, Host, Pair};
use penstock_perf::load::{Direction, Latency, Meter, PingPong, Tcp, TcpOutcome, Udp, Usage, Verdict};
use penstock_perf::{Progress, Unit};
use serde_json::Value;

/// How much is measured.
pub(crate) struct Plan {
    /// How long each measurement takes.
    pub(crate) each: Duration,
    /// How often wire and tunnel take turns.
    pub(crate) rounds: usize,
}

/// Datagrams a second of each flow. What is asked is whether one is lost, not how many can be sent: so it is a rate at which the
/// queue of a TUN device, 500 packets, lasts for a quarter of a second in which a busy machine runs something else.
const DATAGRAMS_PER_SECOND: f64 = 1_000.0;
/// How long a busy machine may hold back the last datagrams.
const LINGER: Duration = Duration::from_secs(3);
/// The tunnel may be at most this many times slower than the wire.
const SLOWER_MAX: f64 = 4.0;

/// What one way, beside the tunnel or through it, did.
pub(crate) struct Way {
    pub(crate) gigabits: Vec<f64>,
    pub(crate) bytes: u64,
    pub(crate) retransmits: u64,
    /// Those of them whose first copy had arrived.
    pub(crate) needless: u64,
    pub(crate) intact: bool,
    pub(crate) usage: Usage,
    pub(crate) datagrams: Verdict,
    pub(crate) latency: Latency,
}

/// Everything that was seen.
pub(crate) struct Seen {
    pub(crate) wire: Way,
    pub(crate) tunnel: Way,
    /// Drops by reason and site, and other counts that must be zero; only those that are not.
    pub(crate) drops: BTreeMap<String, u64>,
    /// Ring or plain calls, and the suite, as the sites say.
    pub(crate) how: String,
}

impl Way {
    fn new() -> Result<Self> {
        let latency = Latency { times: Histogram::new(3)?, lost: 0 };
        let (usage, datagrams) = (Usage::default(), Verdict::default());
        Ok(Self { gigabits: Vec::new(), bytes: 0, retransmits: 0, needless: 0, intact: true, usage, datagrams, latency })
    }

    /// The median of the rounds.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.gigabits.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    fn add(&mut self, outcome: &TcpOutcome, usage: &Usage) {
        self.gigabits.push(outcome.gigabits());
        self.bytes += outcome.bytes();
        self.retransmits += outcome.retransmits();
        self.needless += outcome.needless();
        self.intact &= outcome.is_intact();
        self.usage.add(usage);
    }
}

impl Seen {
    /// What is not as it should be, one line each.
    pub(crate) fn faults(&self) -> Vec<String> {
        let (wire, tunnel) = (&self.wire, &self.tunnel);
        let mut faults = Vec::new();
        let mut unless = |good: bool, fault: String| {
            if !good {
                faults.push(fault);
            }
        };
        unless(wire.intact && tunnel.intact, "a TCP stream did not arrive as it was sent".into());
        unless(tunnel.datagrams.is_perfect(), format!("UDP through the tunnel: {}", tunnel.datagrams));
        unless(tunnel.latency.lost == 0, format!("{} round trips through the tunnel got no answer", tunnel.latency.lost));
        let (slow, fast) = (tunnel.median(), wire.median());
        unless(slow * SLOWER_MAX >= fast, format!("TCP through the tunnel: {slow:.2} Gb/s is less than a quarter of the wire's {fast:.2}"));
        // A needless one tells of a processor that was busy elsewhere, not of a lost packet.
        let needed = tunnel.retransmits - tunnel.needless;
        unless(needed <= wire.retransmits, format!("TCP segments sent again: {needed} through the tunnel, {} beside it", wire.retransmits));
        for (reason, count) in &self.drops {
            unless(false, format!("{reason}: {count}"));
        }
        faults
    }
}

/// Runs the plan on two sites that are up.
pub(crate) fn run(pair: &Pair, plan: &Plan, progress: &Progress) -> Result<Seen> {
    let (mut wire, mut tunnel) = (Way::new()?, Way::new()?);
    let engines = pair.sites.iter().map(|site| site.engine_pid()).collect::<Result<Vec<_>>>()?;
    let state = pair.sites[0].show_json()?;
    let mtu = state["interface"]["mtu"].as_u64().and_then(|mtu| u16::try_from(mtu).ok()).context("no MTU is shown")?;
    let inner = |side, family| pair.inner(side, family);
    let outer = [pair.outer(0, Family::V4), pair.outer(1, Family::V4)];
    let through = [inner(0, Family::V4), inner(1, Family::V4)];
    let through_v6 = [inner(0, Family::V6), inner(1, Family::V6)];

    for (name, hosts) in
        [("every byte, both ways, IPv4 in the tunnel", &through), ("every byte, both ways, IPv6 in the tunnel", &through_v6)]
    {
        let streams = if hosts[0].address.is_ipv4() { 1 } else { 2 };
        let outcome = tcp(progress, name, hosts, &Tcp { streams, direction: Direction::Both, ..bulk(plan) })?;
        tunnel.intact &= outcome.is_intact();
    }
    for round in 1..=plan.rounds {
        for (name, hosts, way, pids) in [("wire", &outer, &mut wire, &[][..]), ("tunnel", &through, &mut tunnel, &engines[..])] {
            let meter = Meter::start(pids);
            let outcome = tcp(progress, &format!("TCP, {name}, round {round} of {}", plan.rounds), hosts, &bulk(plan))?;
            way.add(&outcome, &meter.stop());
        }
    }
    wire.datagrams = datagrams(progress, plan, "wire", &outer, 1500)?;
    tunnel.datagrams = datagrams(progress, plan, "tunnel", &through, mtu)?;
    tunnel.datagrams.add(&datagrams(progress, plan, "tunnel, IPv6", &through_v6, mtu)?);
    for (name, hosts, way) in [("wire", &outer, &mut wire), ("tunnel", &through, &mut tunnel)] {
        let load = PingPong { duration: plan.each / 2, ..PingPong::default() };
        way.latency.add(&progress.step(&format!("round trips, {name}"), || load.run(&hosts[0], &hosts[1]))?)?;
    }
    Ok(Seen { wire, tunnel, drops: pair.drops()?, how: how(&state) })
}

/// Datagrams of every size that an IP packet of `mtu` bytes holds, both ways at once.
fn datagrams(progress: &Progress, plan: &Plan, name: &str, hosts: &[Host; 2], mtu: u16) -> Result<Verdict> {
    let sizes = Udp::every_size(mtu, hosts[0].address.is_ipv6());
    let (flows, rate, direction) = (2, DATAGRAMS_PER_SECOND, Direction::Both);
    let load = Udp { flows, rate, sizes, duration: plan.each, direction, linger: LINGER, ..Udp::default() };
    let work = |count: &AtomicU64| load.run_watched(&hosts[0], &hosts[1], count);
    let name = format!("UDP of every size, both ways, {name}");
    Ok(progress.counted(&name, plan.each, Unit::Datagrams, work, |outcome| outcome.total.to_string())?.total)
}

fn bulk(plan: &Plan) -> Tcp {
    Tcp { duration: plan.each, ..Tcp::default() }
}

fn tcp(progress: &Progress, name: &str, hosts: &[Host; 2], load: &Tcp) -> Result<TcpOutcome> {
    let told = |outcome: &TcpOutcome| {
        let content = if outcome.is_intact() { "every byte right" } else { "CONTENT DAMAGED" };
        format!("{:.2} Gb/s, {} retransmits, {content}", outcome.gigabits(), outcome.retransmits())
    };
    progress.counted(name, load.duration, Unit::Bytes, |count| load.run_watched(&hosts[0], &hosts[1], count), told)
}

fn how(state: &Value) -> String {
    let ring = state["cores"][0]["ring"] == true;
    let suite = state["peers"][0]["sas"][0]["suite"].as_str().unwrap_or("no suite").to_owned();
    format!("{suite}, {}", if ring { "io_uring" } else { "plain system calls" })
}
