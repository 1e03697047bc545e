//! What the sites and their kernels have counted: every frame that came is delivered, refused under a name, or lost before anybody saw it.

use anyhow::{Context, Result};
use penstock_uapi::counter::Stage;
use penstock_uapi::{Counter, Drop};
use serde::Serialize;
use serde_json::Value;

use crate::lab::{Pair, Site};

/// Counted since both sites started, both together.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    /// Inbound packets that were refused, before and after their authentication.
    pub refused: u64,
    /// Inner packets handed to the kernel.
    pub delivered: u64,
    /// Outbound packets dropped.
    pub outbound_drops: u64,
    /// Datagrams that the kernel had no room for or found wrong (`InErrors` of `Udp`, with what sockets had no room for), and frames
    /// dropped at the wire's ends.
    pub kernel: u64,
    /// What the kernel dropped at the tunnel devices.
    pub device: u64,
}

impl Counts {
    /// As of now.
    ///
    /// # Errors
    /// If a site does not answer.
    pub fn of(pair: &Pair) -> Result<Self> {
        let mut counts = Self::default();
        for site in &pair.sites {
            counts.add(site)?;
            let wire = site.namespace().device_counters(&pair.wire.device())?;
            counts.kernel += wire.rx_dropped + wire.rx_errors + udp_errors(site, "Udp")? + udp_errors(site, "Udp6").unwrap_or_default();
            let tunnel = site.namespace().device_counters("pen0")?;
            counts.device += tunnel.tx_dropped + tunnel.rx_dropped + tunnel.rx_errors;
        }
        Ok(counts)
    }

    fn add(&mut self, site: &Site) -> Result<()> {
        let state = site.show_json()?;
        for core in state["cores"].as_array().context("no cores are shown")? {
            self.delivered += core["counters"][Counter::DeliveredPackets.name()].as_u64().unwrap_or_default();
            for drop in Drop::ALL {
                let count = core["drops"][drop.name()].as_u64().unwrap_or_default();
                match drop.stage() {
                    Stage::Inbound | Stage::Deliver => self.refused += count,
                    Stage::Outbound | Stage::Send => self.outbound_drops += count,
                }
            }
        }
        Ok(())
    }

    /// What was counted since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            refused: self.refused - before.refused,
            delivered: self.delivered - before.delivered,
            outbound_drops: self.outbound_drops - before.outbound_drops,
            kernel: self.kernel - before.kernel,
            device: self.device - before.device,
        }
    }
}

/// The sums that stand at [`Counter`] and do not hold for a core of a site at rest, in words; `state` is what `penstock show --json` gives.
#[must_use]
pub fn broken_sums(state: &Value) -> Vec<String> {
    let site = state["site"]["name"].as_str().unwrap_or_default();
    let mut broken = Vec::new();
    for core in state["cores"].as_array().into_iter().flatten() {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let value = |counter: Counter| number(&core["counters"][counter.name()]);
        let lost = |stage: Stage| {
            Drop::ALL.iter().filter(|drop| drop.stage() == stage).map(|drop| number(&core["drops"][drop.name()])).sum::<u64>()
        };
        let opened = value(Counter::OpenedPackets);
        let sums = [
            (
                "outbound",
                value(Counter::OutboundPackets) + value(Counter::OutboundHandoffIn),
                value(Counter::SealedPackets) + value(Counter::OutboundHandoffOut) + number(&core["waiting"]) + lost(Stage::Outbound),
            ),
            ("send", value(Counter::SealedPackets), value(Counter::SentPackets) + lost(Stage::Send)),
            (
                "inbound",
                value(Counter::InboundFrames) + value(Counter::InboundHandoffIn),
                opened
                    + value(Counter::InboundHandoffOut)
                    + value(Counter::Keepalives)
                    + value(Counter::StrayIke)
                    + number(&core["parked"])
                    + lost(Stage::Inbound),
            ),
            ("deliver", opened, value(Counter::DeliveredPackets) + lost(Stage::Deliver)),
        ];
        let wrong = sums.iter().filter(|(_, came, went)| came != went);
        broken.extend(
            wrong.map(|(name, came, went)| format!("{site}, core {}: {name}: {came} came, {went} are accounted for", core["core"])),
        );
    }
    broken
}

/// `InErrors` in /proc/net/snmp or snmp6 of the site's namespace.
fn udp_errors(site: &Site, protocol: &str) -> Result<u64> {
    let file = if protocol == "Udp" { "snmp" } else { "snmp6" };
    let text = site.namespace().enter(|| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")))??;
    in_errors(&text, protocol).with_context(|| format!("no InErrors of {protocol} in {file}"))
}

fn in_errors(text: &str, protocol: &str) -> Option<u64> {
    let single = format!("{protocol}InErrors");
    if let Some(value) = text.lines().find_map(|line| line.strip_prefix(&single)) {
        return value.trim().parse().ok();
    }
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
    let at = lines.next()?.split_whitespace().position(|name| name == "InErrors")?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{broken_sums, in_errors};

    #[test]
    fn a_packet_that_is_not_accounted_for_is_missed() {
        let state = |delivered: u64, waiting: u64| {
            json!({"site": {"name": "a"}, "cores": [{
                "core": 1, "parked": 0, "waiting": waiting,
                "counters": {"outbound_packets": 10, "sealed_packets": 6, "sent_packets": 6, "inbound_frames": 5, "opened_packets": 4, "delivered_packets": delivered},
                "drops": {"no_sa": 3, "replay": 1, "ecn": 1},
            }]})
        };
        assert_eq!(broken_sums(&state(3, 1)), Vec::<String>::new());
        assert_eq!(broken_sums(&state(2, 1)), ["a, core 1: deliver: 4 came, 3 are accounted for"]);
        assert_eq!(broken_sums(&state(3, 0)), ["a, core 1: outbound: 10 came, 9 are accounted for"]);
    }

    #[test]
    fn the_kernels_errors_are_read_from_both_files() {
        let v4 = "Udp: InDatagrams NoPorts InErrors\nUdp: 10 2 7\nUdpLite: InDatagrams NoPorts InErrors\nUdpLite: 0 0 9\n";
        assert_eq!(in_errors(v4, "Udp"), Some(7));
        assert_eq!(in_errors("Udp6InDatagrams  \t4\nUdp6InErrors    \t5\n", "Udp6"), Some(5));
        assert_eq!(in_errors("Tcp: 1", "Udp"), None);
    }
}
