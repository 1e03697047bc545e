//! Given Penstock and another subject that an adaptor file brings up, when a short comparison runs, then the record is filled with
//! what was measured: both sides' processes with what they used, both wires, every round in turn, and nothing stays behind.

use std::time::Duration;

use penstock_perf::Progress;
use penstock_perf::compare::{self, Adaptor, Measure, Mode, Plan, Record, Sample, Subject, Variant, WireKind};

/// No tunnel at all: the inner addresses are routed over the wire. It shows how adaptors work without another VPN.
const ROUTED: &str = r#"
name = "routed"
addresses = ["10.90.0.1", "10.90.0.2"]
version = "echo one; echo two"
prepare = "echo prepared > $DIR/word"
up = '''
[ "$(cat $DIR/word)" = prepared ] && [ $SIDE != $OTHER ]
ip address add $INNER_LOCAL/32 dev lo
ip route add $INNER_REMOTE/32 via $REMOTE src $INNER_LOCAL
exec sleep 300
'''
"#;

fn compare() -> Record {
    let folder = std::env::temp_dir().join(format!("penstock-story-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("routed.toml");
    std::fs::write(&file, ROUTED).expect("a file");
    let routed = Adaptor::read(&file).expect("it is whole");
    let absent = Adaptor { name: "absent".into(), needs: vec!["no-such-vpn".into()], ..routed.clone() };
    let subjects = [Subject::penstock(), Subject::Other(Box::new(routed)), Subject::Other(Box::new(absent))];
    let wires = vec![WireKind { mode: Mode::Whole, mtu: 1500 }];
    let plan = Plan { rounds: 2, seconds: 0.4, loss_max: 0.01, idle_seconds: 0.3, wires, ..Plan::default() };
    let measures = [
        Measure::Tcp { streams: 1, reverse: true },
        Measure::RoundTrip { loaded: true },
        Measure::Flood { bytes: 64, super_packets: true },
        Measure::NoLoss { bytes: 1400, super_packets: false },
        Measure::Idle,
    ];
    let mut saved = 0;
    let record = compare::run(&plan, &measures, &subjects, &Progress::new(), |record| {
        saved += 1;
        assert_eq!(record.complete, saved > 2);
        Ok(())
    });
    std::fs::remove_dir_all(folder).expect("it is ours");
    record.expect("it runs")
}

fn check(sample: &Sample) {
    let what = format!("{sample:?}");
    let needed: &[&str] = match sample.measure.as_str() {
        "tcp-1-reversed" => &["goodput_gbps", "machine_cpu_s_per_gb", "wall_s"],
        "cpu-idle" => &["wall_s"],
        "rtt-loaded" => &["rtt_p50_us", "rtt_p99_99_us", "rtt_max_us", "round_trips", "goodput_gbps"],
        _ => &["received_pps", "sent_pps"],
    };
    assert!(needed.iter().all(|name| sample.values.get(*name).is_some_and(|value| *value > 0.0)), "{what}");
    let ours = sample.subject == "penstock" && !sample.beside;
    let counted: &[&str] = match sample.measure.as_str() {
        "tcp-1-reversed" => &["flow_moves", "inbound_handoff_out", "outbound_handoff_out", "dropped", "tunnel_cpu_s_per_gb"],
        "cpu-idle" => &["idle_core_share"],
        "rtt-loaded" => &["dropped"],
        _ => &["tunnel_ns_per_packet", "left_ns_per_packet", "right_ns_per_packet"],
    };
    assert!(!ours || counted.iter().all(|name| sample.values.contains_key(*name)), "{what}");
    assert_eq!(sample.measure.starts_with("tcp"), sample.values.contains_key("out_of_order"), "{what}");
    assert_eq!(sample.histogram.is_empty(), sample.measure != "rtt-loaded", "{what}");
    let expected: &[&str] = match (sample.beside, sample.subject.as_str()) {
        (true, _) => &[],
        (false, "penstock") => &["penstock-engine", "penstockd"],
        (false, _) => &["sleep"],
    };
    for name in expected {
        for side in ["left", "right"] {
            let found = sample.processes.iter().find(|process| process.name.starts_with(name) && process.side == side);
            assert!(found.is_some_and(|process| process.memory_bytes > 0), "no {name} on the {side}: {what}");
        }
    }
    assert!(!expected.is_empty() || sample.processes.is_empty(), "{what}");
}

#[test]
fn a_comparison_records_what_it_measured() {
    let record = compare();
    assert_eq!(record.failures, Vec::<String>::new());
    assert_eq!(record.missing["absent"], "not installed: no-such-vpn");
    assert_eq!(record.subjects["routed"], "one");
    assert!(record.machine.processors > 0 && record.machine.memory_bytes > 1 << 20 && record.machine.kernel.starts_with("Linux"));

    // Two rounds of four measures of two subjects, each with its wire before it, always in this order; then one look at both, idle
    assert_eq!(record.samples.len(), 2 * (4 * 2 * 2 + 2));
    for (index, sample) in record.samples.iter().enumerate() {
        check(sample);
        let (round, place) = (index / 18 + 1, index % 18);
        let expected = match place {
            16 => ("penstock", false),
            17 => ("routed", false),
            _ => (["penstock", "penstock", "routed", "routed"][place % 4], place % 2 == 0),
        };
        assert_eq!((sample.subject.as_str(), sample.beside, sample.round), (expected.0, expected.1, round));
    }
    let uso = record.samples.iter().find(|sample| sample.subject == "penstock" && !sample.beside && sample.measure == "udp-uso-64");
    let cost = uso.and_then(|sample| sample.values.get("tunnel_ns_per_packet")).copied().unwrap_or_default();
    assert!(cost > 10.0, "{cost} ns for a packet through both engines");
    for name in ["penstockd", "penstock-engine", "penstock"] {
        assert!(record.daemons.get(name).is_some_and(|words| words.starts_with(name) && words.contains("sha256 ")), "{:?}", record.daemons);
    }
    let engines = |sample: &Sample| -> f64 {
        let engines = sample.processes.iter().filter(|process| process.name.starts_with("penstock-engine"));
        engines.map(|process| process.user_seconds + process.system_seconds).sum()
    };
    let bulk = record.samples.iter().filter(|sample| sample.subject == "penstock" && !sample.beside && sample.measure == "tcp-1-reversed");
    let used: f64 = bulk.map(engines).sum();
    assert!(used > 0.0, "the engines moved bulk and used no time");

    let ratio = record.summary.iter().find(|line| line.subject == "routed" && line.value == "goodput_gbps").expect("it was measured");
    assert_eq!((ratio.to_wire.map(|ratio| ratio.n), ratio.penstock_to_this.map(|ratio| ratio.n)), (Some(2), Some(2)));
    let table = compare::table(&record);
    assert!(table.contains("absent is not here") && table.contains("tcp-1-reversed"), "{table}");

    // and nothing stays behind
    std::thread::sleep(Duration::from_millis(100));
    let own = format!("pen-{}-", std::process::id());
    let left = std::fs::read_dir("/run/netns")
        .map(|entries| entries.filter_map(Result::ok).filter(|entry| entry.file_name().to_string_lossy().starts_with(&own)).count());
    assert_eq!(left.unwrap_or_default(), 0);
}

#[test]
fn a_form_of_penstock_that_cannot_be_is_refused_before_anything_starts() {
    let plan = Plan { rounds: 1, seconds: 0.2, wires: vec![WireKind { mode: Mode::Whole, mtu: 1500 }], ..Plan::default() };
    for (name, why) in [("penstock-without-rings", "no feature \"rings\"; there are ring"), ("penstock-256", "there are only")] {
        let variant = Variant::parse(name).expect("a Penstock").expect("it means something");
        let subjects = [Subject::penstock(), Subject::Penstock(variant)];
        let refusal = compare::run(&plan, &[Measure::Idle], &subjects, &Progress::new(), |_| panic!("it ran")).expect_err("it cannot be");
        assert!(format!("{refusal:#}").contains(why), "{refusal:#}");
    }
}
