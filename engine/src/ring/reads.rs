//! Filled TUN buffers that wait for the path. A small packet does not wait behind super-packets of other flows: a round trip beside a
//! bulk stream would take as long as everything that the stream has pushed into the device. Within a flow the order stays.

use std::collections::VecDeque;

use crate::tun::flow::Flow;

/// The largest read that may overtake: one packet of the usual path.
const SMALL_BYTES: usize = 2048;

/// A filled buffer: which one, and how much of it.
pub(super) type Filled = (u16, usize);

/// The queue.
#[derive(Debug)]
pub(super) struct Reads {
    vnet_header_bytes: usize,
    small: VecDeque<Filled>,
    others: VecDeque<(Filled, Option<Flow>)>,
}

impl Reads {
    /// Room for `buffers`.
    #[must_use]
    pub(super) fn new(buffers: usize, vnet_header_bytes: usize) -> Self {
        Self { vnet_header_bytes, small: VecDeque::with_capacity(buffers), others: VecDeque::with_capacity(buffers) }
    }

    /// Adds a read: virtio header and packet.
    pub(super) fn push(&mut self, filled: Filled, read: &[u8]) {
        let small = read.len() <= SMALL_BYTES;
        if small && self.others.is_empty() {
            return self.small.push_back(filled);
        }
        let flow = read.get(self.vnet_header_bytes..).and_then(Flow::of);
        // What cannot be read is nobody's, and overtakes nothing.
        let alone = flow.as_ref().is_some_and(|flow| !self.others.iter().any(|(_, other)| other.as_ref().is_none_or(|it| it.may_be(flow))));
        if small && alone {
            self.small.push_back(filled);
        } else {
            self.others.push_back((filled, flow));
        }
    }

    /// The next of the small ones, which all go first. When none is left, those behind are in order whatever overtook them.
    pub(super) fn pop_small(&mut self) -> Option<Filled> {
        self.small.pop_front()
    }

    /// The next one.
    pub(super) fn pop(&mut self) -> Option<Filled> {
        self.small.pop_front().or_else(|| self.others.pop_front().map(|(filled, _)| filled))
    }

    /// Whether none waits.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.small.is_empty() && self.others.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Reads;

    /// A UDP packet of so many bytes from a port, behind a virtio header of 10 bytes.
    fn udp(port: u16, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; 10 + bytes];
        let packet = &mut read[10..];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(bytes as u16).to_be_bytes());
        packet[9] = 17;
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
        packet[20..22].copy_from_slice(&port.to_be_bytes());
        read
    }

    fn order(pushed: &[(u16, usize)]) -> Vec<u16> {
        let mut reads = Reads::new(8, 10);
        for (at, (port, bytes)) in (0..).zip(pushed) {
            reads.push((at, *bytes), &udp(*port, *bytes));
        }
        std::iter::from_fn(|| reads.pop()).map(|(at, _)| at).collect()
    }

    #[test]
    fn a_small_packet_overtakes_the_large_ones_of_other_flows() {
        assert_eq!(order(&[(1, 60_000), (1, 60_000), (2, 100), (3, 100)]), [2, 3, 0, 1]);
    }

    #[test]
    fn no_packet_overtakes_one_of_its_flow() {
        assert_eq!(order(&[(1, 60_000), (2, 60_000), (1, 100), (1, 60_000)]), [0, 1, 2, 3]);
        // The first small one of a flow holds back those behind it, too.
        assert_eq!(order(&[(1, 60_000), (2, 3000), (2, 100), (3, 100), (2, 100)]), [3, 0, 1, 2, 4]);
        assert_eq!(order(&[(2, 100), (2, 60_000), (2, 100)]), [0, 1, 2]);
    }

    #[test]
    fn what_cannot_be_read_stays_in_its_place() {
        let mut reads = Reads::new(8, 10);
        reads.push((0, 60_000), &udp(1, 60_000));
        reads.push((1, 10), &[0; 10]);
        reads.push((2, 110), &udp(2, 100));
        assert_eq!(std::iter::from_fn(|| reads.pop()).map(|(at, _)| at).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(reads.is_empty());
    }
}
