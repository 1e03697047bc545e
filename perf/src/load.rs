//! The load generator. Both ends of every flow run on threads of this process, with sockets that were made inside the
//! namespaces of their [`crate::lab::Host`]s: so sender and receiver share a clock and a plan, and every count is exact.
//!
//! [`Tcp`] moves bulk, [`Udp`] numbered datagrams, [`PingPong`] measures round trips; a [`Meter`] beside them tells what
//! that cost in CPU time. [`Content`] is what they carry: any byte of it can be computed from its place alone.

mod checker;
mod content;
mod latency;
mod tcp;
mod udp;
mod usage;

pub use checker::{Checker, HEADER_BYTES, Verdict, stamp};
pub use content::Content;
pub use latency::{Latency, PingPong};
pub use tcp::{Direction, Tcp, TcpOutcome, TcpStreamOutcome};
pub use udp::{Udp, UdpOutcome};
pub use usage::{MachineTimes, Meter, Usage, kernel_thread_seconds, machine_times, process_fine_seconds, process_seconds, process_times};

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Direction, PingPong, Tcp, Udp};
    use crate::lab::{Namespace, Offload, Wire, WireOptions};

    /// A wire, or `None` where namespaces cannot be made.
    fn wire() -> Option<Wire> {
        if !crate::is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let left = Namespace::new("perf-load-left").expect("a namespace");
        let right = Namespace::new("perf-load-right").expect("a namespace");
        Some(Wire::new(&left, &right, &WireOptions::default()).expect("a wire"))
    }

    #[test]
    fn tcp_both_ways_arrives_whole() {
        let Some(wire) = wire() else { return };
        let plan = Tcp { streams: 2, duration: Duration::from_millis(300), direction: Direction::Both, ..Tcp::default() };
        let outcome = plan.run(&wire.host_v6(0), &wire.host_v6(1)).expect("it runs");
        assert!(outcome.is_intact() && outcome.bytes() > 1_000_000, "{outcome:?}");
        assert_eq!(outcome.streams.iter().filter(|stream| stream.forward).count(), 2);
    }

    #[test]
    fn every_size_of_datagram_arrives_whole() {
        let Some(wire) = wire() else { return };
        for (offload, segments, merge) in
            [(Offload::Whole, 1, false), (Offload::Whole, 40, true), (Offload::Gro, 40, true), (Offload::Plain, 40, false)]
        {
            wire.set_offload(offload).expect("veth can do it");
            let sizes = Udp::every_size(1500, false);
            let plan = Udp { flows: 2, count: 6000, sizes, segments, merge, direction: Direction::Both, ..Udp::default() };
            let outcome = plan.run(&wire.host_v4(0), &wire.host_v4(1)).expect("it runs");
            assert!(outcome.total.is_perfect() && outcome.total.sent == 24_000, "{offload:?} {segments}: {}", outcome.total);
        }
    }

    #[test]
    fn what_the_wire_loses_is_counted() {
        let Some(wire) = wire() else { return };
        let (from, to) = (wire.host_v4(1), wire.host_v4(0));
        let plan = Udp { duration: Duration::from_millis(800), ..Udp::default() };
        let outcome = std::thread::scope(|scope| {
            let run = scope.spawn(|| plan.run(&from, &to));
            std::thread::sleep(Duration::from_millis(300));
            wire.set_up(false).expect("ip can do it"); // the receiver's end: the sends still succeed
            run.join().expect("no panic").expect("it runs")
        });
        assert!(outcome.total.lost > 100 && outcome.total.received > 100, "{}", outcome.total);
        assert_eq!(outcome.total.lost + outcome.total.received, outcome.total.sent);
    }

    #[test]
    fn round_trips_are_measured() {
        let Some(wire) = wire() else { return };
        let plan = PingPong { duration: Duration::from_millis(200), ..PingPong::default() };
        let latency = plan.run(&wire.host_v4(0), &wire.host_v4(1)).expect("it runs");
        assert_eq!(latency.lost, 0);
        assert!(latency.times.len() > 100 && latency.micros(50.0) > 1.0 && latency.micros(50.0) <= latency.micros(100.0));
    }
}
