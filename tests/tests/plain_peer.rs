//! Given a Penstock and a peer that knows RFC 7296 and ESP in UDP and nothing beyond, with or without a NAT between and whichever side is
//! behind it, then they come up with one SA pair for all cores, the peer encapsulates, and no numbered datagram is lost or comes twice
//! on its way there and back, while each side in turn renews the keys of packets and of IKE.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use penstock_perf::lab::{Namespace, Site, SiteOptions, Wire};
use penstock_tests::counters::Counters;
use penstock_tests::mixed::{Behind, inner_addresses, lay};
use penstock_tests::nat::Nat;
use penstock_tests::plain::{Options, Order, Plain, Seen};

const NETWORKS: [&str; 2] = ["10.43.43.0/24", "10.43.100.0/24"];
/// Behind Penstock, and behind the peer.
const HOSTS: [&str; 2] = ["10.43.43.1", "10.43.100.1"];
/// Between two datagrams, and between two rekeys.
const PAUSE: Duration = Duration::from_millis(2);
const EVERY: Duration = Duration::from_secs(1);

struct Lab {
    site: [Site; 1],
    peer: Plain,
    /// Where Penstock sees the peer if nothing is between.
    peer_address: IpAddr,
    _wire: Wire,
    _nat: Option<Nat>,
}

impl Lab {
    /// Both up, begun by whoever can reach the other one.
    fn start(behind: Behind) -> Self {
        let [frankfurt, london] = ["frankfurt", "london"].map(|name| Namespace::new(name).expect("a namespace"));
        inner_addresses(&frankfurt, &NETWORKS[..1]).expect("an address");
        let (wire, nat, [_, to, own, other]) = lay(&frankfurt, &london, behind).expect("wires");
        let mut psk = [0; 32];
        aws_lc_rs::rand::fill(&mut psk).expect("a key");
        let options = Options { own, other, names: ["london", "frankfurt"], networks: [NETWORKS[1], NETWORKS[0]], psk: psk.to_vec() };
        let peer = Plain::start(&london, &options).expect("a socket");
        let waits = behind == Behind::StrongSwan;
        let start = if waits { "start = \"wait\"".to_owned() } else { format!("endpoint = \"{to}\"") };
        let config = format!(
            "[site]\nname = \"frankfurt\"\ncores = 2\n[interface.pen0]\naddress = [\"192.168.192.1/30\"]\n[peer.london]\n{start}\n\
             local_subnets = [\"{}\"]\nsubnets = [\"{}\"]\npsk_file = \"london.psk\"\n",
            NETWORKS[0], NETWORKS[1]
        );
        let hex: String = psk.iter().map(|byte| format!("{byte:02x}")).collect();
        let secrets = vec![("london.psk".into(), format!("0x{hex}"))];
        let mut site = Site::new("frankfurt", &frankfurt, SiteOptions { config, secrets, ..SiteOptions::default() }).expect("files");
        site.start().expect("it starts");
        if waits {
            let deadline = Instant::now() + Duration::from_secs(10);
            while site.show_json().is_err() {
                assert!(Instant::now() < deadline, "{}", site.log());
                std::thread::sleep(Duration::from_millis(20));
            }
            peer.order(Order::Initiate);
        }
        site.wait_up(Duration::from_secs(10)).unwrap_or_else(|error| panic!("{error:#}\n{:#?}", peer.seen()));
        Self { site: [site], peer, peer_address: own, _wire: wire, _nat: nat }
    }

    fn shown(&self) -> serde_json::Value {
        self.site[0].show_json().unwrap_or_else(|error| panic!("{error:#}"))["peers"][0].clone()
    }

    fn picture(&self) -> String {
        format!("{:#?}\n{}{}", self.peer.seen(), Counters::picture_of(&self.site), self.site[0].log())
    }

    /// Numbered datagrams there and back for four seconds, while `act` is done again and again. Nothing may be missing.
    fn loses_nothing(&self, act: impl Fn()) {
        let socket = self.site[0].namespace().enter(|| UdpSocket::bind((HOSTS[0], 0))).expect("the namespace").expect("a socket");
        socket.connect((HOSTS[1], 7)).expect("an address");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a time");
        let before = self.peer.seen();
        let (sent, mut back) = std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let end = Instant::now() + 4 * EVERY;
                let mut sent = 0_u32;
                while Instant::now() < end {
                    socket.send(&datagram(sent)).expect("sent");
                    sent += 1;
                    std::thread::sleep(PAUSE);
                }
                sent
            });
            let receiving = scope.spawn(|| {
                let (mut back, mut bytes) = (Vec::new(), [0; 2048]);
                // A second without one is the end.
                while let Ok(length) = socket.recv(&mut bytes) {
                    let number = u32::from_be_bytes(*bytes.first_chunk().expect("a number"));
                    assert_eq!(bytes[..length], datagram(number), "as it was sent");
                    back.push(number);
                }
                back
            });
            for _ in 0..3 {
                std::thread::sleep(EVERY);
                act();
            }
            (sending.join().expect("sent"), receiving.join().expect("received"))
        });
        back.sort_unstable();
        let missing: Vec<u32> = (0..sent).filter(|number| back.binary_search(number).is_err()).collect();
        let after = self.peer.seen();
        println!("{sent} sent, {} there, {} back", after.echoed - before.echoed, back.len());
        assert!(sent > 500 && missing.is_empty() && back.len() == sent as usize, "{missing:?} of {sent}\n{}", self.picture());
        let Seen { unknown, bad, again, unsent, .. } = after;
        assert_eq!((unknown, bad, again, unsent), (0, 0, 0, 0), "{}", self.picture());
        Counters::of_sites(&self.site).assert_no_drops(&[]);
    }

    /// Rekeys by each side in turn under load.
    fn renews_without_a_loss(&self) {
        let renewals = || self.site[0].log().matches("has new keys").count();
        for by_peer in [false, true] {
            let rekeyed = self.peer.seen().rekeyed;
            self.loses_nothing(|| match by_peer {
                true => self.peer.order(Order::RekeyChild),
                false => drop(self.site[0].penstock(&["peer", "rekey", "london"])),
            });
            assert!(self.peer.seen().rekeyed >= rekeyed + 3, "by the peer: {by_peer}\n{}", self.picture());
        }
        let before = renewals();
        self.loses_nothing(|| self.peer.order(Order::RekeyIke));
        assert!(renewals() >= before + 3, "{}", self.picture());
    }
}

/// A number and what follows from it, of a length that follows from it.
fn datagram(number: u32) -> Vec<u8> {
    let fill = number.to_be_bytes()[3];
    [&number.to_be_bytes()[..], &vec![fill; if number.is_multiple_of(2) { 60 } else { 1200 }]].concat()
}

#[test]
fn it_encapsulates_although_there_is_no_nat_and_loses_nothing() {
    let lab = Lab::start(Behind::Nobody);
    let seen = lab.peer.seen();
    assert!(seen.nat.there && !seen.nat.here, "Penstock says that it is behind a NAT: {}", lab.picture());
    let shown = lab.shown();
    assert_eq!(shown["sas"].as_array().map(Vec::len), Some(1), "one for both cores: {shown:#}");
    assert_eq!(shown["sas"][0]["remote"], format!("{}:4500", lab.peer_address), "{shown:#}");
    lab.renews_without_a_loss();
}

#[test]
fn behind_a_nat_it_is_answered_where_the_nat_lets_it_be() {
    let lab = Lab::start(Behind::StrongSwan);
    assert!(lab.peer.seen().nat.here, "{}", lab.picture());
    let remote = lab.shown()["sas"][0]["remote"].as_str().unwrap_or_default().to_owned();
    assert!(!remote.is_empty() && !remote.ends_with(":4500"), "the port that the NAT chose: {remote}\n{}", lab.picture());
    lab.renews_without_a_loss();
}

#[test]
fn penstock_behind_a_nat_reaches_it() {
    let lab = Lab::start(Behind::Penstock);
    assert!(lab.peer.seen().nat.there, "{}", lab.picture());
    lab.renews_without_a_loss();
}
