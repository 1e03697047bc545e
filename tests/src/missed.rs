//! Packets that the kernel throws away between Penstock and strongSwan because a queue is full: a program that should have emptied it
//! waited for a processor. A story that counts losses names these by the queue.

use std::fmt;

use penstock_perf::lab::Namespace;

/// What the queues of both sides had no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// At the device that charon reads what it is to encrypt from: 500 packets.
    pub charon_device: u64,
    /// At UDP sockets on its side, ordinary ones of 208 KiB.
    pub charon_sockets: u64,
    /// At the device that Penstock's engine reads.
    pub penstock_device: u64,
    /// At UDP sockets on its side.
    pub penstock_sockets: u64,
    /// On arrival at either end of the wire, before any program.
    pub wire: u64,
}

impl Missed {
    /// Reads the counters of both sides: each one's namespace, tunnel device and end of the wire, Penstock's first.
    ///
    /// # Panics
    /// If the kernel's counters cannot be read.
    #[must_use]
    pub fn read([penstock, charon]: [(&Namespace, &str, &str); 2]) -> Self {
        let device = |namespace: &Namespace, name: &str| namespace.device_counters(name).ok();
        let queue = |(namespace, tunnel, _): (&Namespace, &str, &str)| device(namespace, tunnel).map_or(0, |counters| counters.tx_dropped);
        let arrival = |(namespace, _, wire): (&Namespace, &str, &str)| device(namespace, wire).expect("a wire").rx_dropped;
        Self {
            charon_device: queue(charon),
            charon_sockets: socket_overflows(charon.0),
            penstock_device: queue(penstock),
            penstock_sockets: socket_overflows(penstock.0),
            wire: arrival(penstock) + arrival(charon),
        }
    }

    fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("at charon's device", self.charon_device),
            ("at sockets on charon's side", self.charon_sockets),
            ("at Penstock's device", self.penstock_device),
            ("at sockets on Penstock's side", self.penstock_sockets),
            ("on arrival from the wire", self.wire),
        ]
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.named().iter().map(|(_, packets)| packets).sum()
    }

    /// Those in front of charon: what Penstock's side lacks room for is not among them.
    #[must_use]
    pub fn at_charon(&self) -> u64 {
        self.charon_device + self.charon_sockets
    }

    /// What was missed since `before`. A device that was made anew counts from nothing.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        Self {
            charon_device: since(self.charon_device, before.charon_device),
            charon_sockets: since(self.charon_sockets, before.charon_sockets),
            penstock_device: since(self.penstock_device, before.penstock_device),
            penstock_sockets: since(self.penstock_sockets, before.penstock_sockets),
            wire: since(self.wire, before.wire),
        }
    }
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<_> =
            self.named().into_iter().filter(|(_, packets)| *packets > 0).map(|(name, packets)| format!("{packets} {name}")).collect();
        if named.is_empty() { f.write_str("no queue overflowed") } else { write!(f, "queues overflowed: {}", named.join(", ")) }
    }
}

/// `RcvbufErrors` of a namespace: datagrams that a socket had no room for.
fn socket_overflows(namespace: &Namespace) -> u64 {
    let snmp = namespace.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).expect("the namespace").expect("counters");
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let overflow = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "RcvbufErrors");
    overflow.and_then(|(_, value)| value.parse().ok()).expect("a counter")
}

#[cfg(test)]
mod tests {
    use super::Missed;

    #[test]
    fn what_was_missed_is_named_by_its_queue() {
        let before = Missed { charon_device: 3, wire: 1, ..Missed::default() };
        let now = Missed { charon_device: 10, penstock_sockets: 2, wire: 1, ..Missed::default() };
        let missed = now.since(&before);
        assert_eq!((missed.total(), missed.at_charon(), before.since(&now).charon_device), (9, 7, 3));
        assert_eq!(missed.to_string(), "queues overflowed: 7 at charon's device, 2 at sockets on Penstock's side");
        assert_eq!(Missed::default().to_string(), "no queue overflowed");
    }
}
