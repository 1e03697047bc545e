//! Who counts as one sender among strangers: an IPv4 address, or an IPv6 network of 64 bits, because that is what one customer of a
//! provider has at least.

mod lab;

use std::net::SocketAddr;

use lab::{EAST, WEST, World};

fn first_message(spi: u64) -> Vec<u8> {
    let mut world = World::new(30);
    world.initiate(WEST, true);
    [&spi.to_be_bytes(), &world.sent[0].1[8..]].concat()
}

/// How many half-open handshakes one first message from each address leaves.
fn kept(addresses: &[&str]) -> usize {
    let mut world = World::new(31);
    for (number, address) in addresses.iter().enumerate() {
        let from = SocketAddr::new(address.parse().expect("an address"), 4500);
        world.inject(EAST, from, &first_message(number as u64 + 1));
    }
    world.sites[EAST].ike.half_open()
}

#[test]
fn addresses_of_one_ipv6_network_are_one_sender() {
    assert_eq!(kept(&["2001:db8:1:2::1", "2001:db8:1:2:8000::2", "2001:db8:1:2:ffff::3", "2001:db8:1:2::4", "2001:db8:1:2::5"]), 3);
}

#[test]
fn ipv6_networks_are_told_apart_by_each_of_their_64_bits() {
    let networks = ["2001:db8:1:2::1", "2001:db8:1:3::1", "2001:db8:0:2::1", "2001:db9:1:2::1", "a001:db8:1:2::1"];
    assert_eq!(kept(&networks), 5);
}

#[test]
fn ipv4_addresses_are_told_apart_by_each_of_their_32_bits() {
    assert_eq!(kept(&["11.0.0.1", "11.0.0.0", "11.0.1.1", "11.1.0.1", "139.0.0.1"]), 5);
    assert_eq!(kept(&["11.0.0.1"; 5]), 3);
}
