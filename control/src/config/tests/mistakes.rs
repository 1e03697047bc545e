//! The table: what is replaced in the good configuration, by what, and the lines that come out.

use super::{GOOD, Place, STRONG};

struct Case {
    /// Replaced: each of these, by what stands beside it.
    edits: &'static [(&'static str, &'static str)],
    /// The whole output.
    lines: &'static [&'static str],
}

const PSK: &str = "psk_file = \"london.psk\"";
const ENDPOINT: &str = "endpoint = \"203.0.113.7\"";
const SUBNETS: &str = "[\"10.43.100.0/24\"]";
const LOCAL: &str = "[\"10.43.43.0/24\"]";
const ADDRESS: &str = "[\"192.168.192.1/30\"]";
const NAME: &str = "name = \"frankfurt\"";

const CASES: &[Case] = &[
    // One address of a family.
    Case {
        edits: &[(NAME, "name = \"frankfurt\"\nlisten = [\"198.51.100.7\", \"2001:db8::7\", \"198.51.100.8\"]")],
        lines: &[
            "penstock.toml:3: site.listen: 198.51.100.8 is a second IPv4 address; leave listen out to receive on all addresses, and choose each peer's by its local_address",
        ],
    },
    // Unknown keys, with what was meant.
    Case {
        edits: &[(ENDPOINT, r#"endpiont = "203.0.113.7""#)],
        lines: &["penstock.toml:8: peer.london.endpiont: unknown key; did you mean endpoint?"],
    },
    Case {
        edits: &[(PSK, "psk_file = \"london.psk\"\nlocal-subnet = []\nfoo = 1")],
        lines: &[
            "penstock.toml:12: peer.london.local-subnet: unknown key; did you mean local_subnets?",
            "penstock.toml:13: peer.london.foo: unknown key; [peer.london] knows endpoint, start, local_address, local_subnets, subnets, psk_file, psk_strength, local_id, remote_id, suites, ike_suites, ml_kem, source_port, per_core, window, rekey_child, rekey_ike, pfs, nat_keepalive, dpd and dpd_action",
        ],
    },
    Case {
        edits: &[(NAME, "name = \"frankfurt\"\nports = 4500")],
        lines: &["penstock.toml:3: site.ports: unknown key; did you mean port?"],
    },
    Case {
        edits: &[(ADDRESS, "[\"192.168.192.1/30\"]\naddresses = []")],
        lines: &["penstock.toml:6: interface.pen0.addresses: unknown key; did you mean address?"],
    },
    Case { edits: &[("[site]", "peers = 1\n[site]")], lines: &["penstock.toml:1: peers: unknown key; did you mean peer?"] },
    // Wrong types.
    Case {
        edits: &[(NAME, "name = 7\nport = \"4500\"\nlisten = \"198.51.100.7\"\ncpus = [1, \"2\"]\npersist = \"yes\"\npoll_us = 1.5")],
        lines: &[
            r#"penstock.toml:2: site.name: an integer stands where a string belongs; write for example name = "frankfurt""#,
            "penstock.toml:3: site.port: a string stands where an integer belongs; write for example port = 4500",
            r#"penstock.toml:4: site.listen: a string stands where an array of strings belongs; write for example listen = ["198.51.100.7"]"#,
            "penstock.toml:5: site.cpus: a string stands where an integer belongs; write for example cpus = [2, 3]",
            "penstock.toml:6: site.persist: a string stands where true or false belongs; write for example persist = true",
            "penstock.toml:7: site.poll_us: a fraction stands where an integer belongs; write for example poll_us = 50",
        ],
    },
    Case {
        edits: &[(SUBNETS, r#""10.43.100.0/24""#)],
        lines: &[
            r#"penstock.toml:10: peer.london.subnets: a string stands where an array of strings belongs; write for example subnets = ["10.43.100.0/24"]"#,
        ],
    },
    Case {
        edits: &[(ENDPOINT, "endpoint = 203"), (PSK, "psk_file = true\nper_core = 1\nsuites = \"aes128-gcm\"\nwindow = \"big\"")],
        lines: &[
            r#"penstock.toml:8: peer.london.endpoint: an integer stands where a string belongs; write for example endpoint = "203.0.113.7""#,
            r#"penstock.toml:11: peer.london.psk_file: true or false stands where a string belongs; write for example psk_file = "london.psk""#,
            "penstock.toml:12: peer.london.per_core: an integer stands where true or false belongs; write for example per_core = false",
            r#"penstock.toml:13: peer.london.suites: a string stands where an array of strings belongs; write for example suites = ["aes256-gcm", "aes128-gcm"]"#,
            "penstock.toml:14: peer.london.window: a string stands where an integer belongs; write for example window = 16384",
        ],
    },
    Case {
        edits: &[("[peer.london]", "[peer]")],
        lines: &[
            "penstock.toml:8: peer.endpoint: a string stands where a table belongs; write the header [peer.NAME] with a name of yours above its keys",
        ],
    },
    Case {
        edits: &[("[interface.pen0]", "[interface]")],
        lines: &[
            "penstock.toml:5: interface.address: an array stands where a table belongs; write the header [interface.NAME] with a name of yours above its keys",
        ],
    },
    Case {
        edits: &[("[site]\n", ""), (NAME, r#"site = "frankfurt""#)],
        lines: &["penstock.toml:1: site: a string stands where a table belongs; write for example [site]"],
    },
    // What is missing.
    Case {
        edits: &[(ENDPOINT, "")],
        lines: &[r#"penstock.toml:7: peer.london.endpoint: missing; add under [peer.london]: endpoint = "203.0.113.7""#],
    },
    Case {
        edits: &[("\nsubnets = [\"10.43.100.0/24\"]", ""), (PSK, "")],
        lines: &[
            r#"penstock.toml:7: peer.london.psk_file: missing; add under [peer.london]: psk_file = "london.psk""#,
            r#"penstock.toml:7: peer.london.subnets: missing; add under [peer.london]: subnets = ["10.43.100.0/24"]"#,
        ],
    },
    Case { edits: &[(NAME, "")], lines: &[r#"penstock.toml:1: site.name: missing; add under [site]: name = "frankfurt""#] },
    Case {
        edits: &[("[site]\nname = \"frankfurt\"", "")],
        lines: &[r#"penstock.toml:1: site: missing; add: [site], and under it: name = "frankfurt""#],
    },
    Case {
        edits: &[("[interface.pen0]\naddress = [\"192.168.192.1/30\"]", "")],
        lines: &[r#"penstock.toml:1: interface: missing; add: [interface.pen0], and under it: address = ["192.168.192.1/30"]"#],
    },
    Case {
        edits: &[(r#"address = ["192.168.192.1/30"]"#, "")],
        lines: &[r#"penstock.toml:4: interface.pen0.address: missing; add under [interface.pen0]: address = ["192.168.192.1/30"]"#],
    },
    Case {
        edits: &[(ADDRESS, "[]"), (SUBNETS, "[]"), (LOCAL, "[]"), (PSK, "psk_file = \"london.psk\"\nsuites = []")],
        lines: &[
            r#"penstock.toml:5: interface.pen0.address: is empty; write for example address = ["192.168.192.1/30"]"#,
            r#"penstock.toml:9: peer.london.local_subnets: is empty; write for example local_subnets = ["10.43.43.0/24"]"#,
            r#"penstock.toml:10: peer.london.subnets: is empty; write for example subnets = ["10.43.100.0/24"]"#,
            r#"penstock.toml:12: peer.london.suites: is empty; write for example suites = ["aes256-gcm", "aes128-gcm"]"#,
        ],
    },
    // Values out of range.
    Case {
        edits: &[(NAME, "name = \"frankfurt\"\nport = 0\ncores = 0\npoll_us = -1\nmark = 0\ntable = 254\nlisten = [\"224.0.0.1\", \"x\"]")],
        lines: &[
            "penstock.toml:3: site.port: 0 is out of range; write a number from 1 to 65535",
            "penstock.toml:4: site.cores: 0 is out of range; write a number from 1 to 256",
            "penstock.toml:5: site.poll_us: -1 is out of range; write a number from 0 to 100000",
            "penstock.toml:6: site.mark: 0 is out of range; write a number from 1 to 4294967295",
            "penstock.toml:7: site.table: 253, 254 and 255 are the system's own tables; name a table that nothing else uses: marked packets are kept off all of it",
            r#"penstock.toml:8: site.listen: "x" is no address; write an address of this machine, for example "198.51.100.7""#,
            "penstock.toml:8: site.listen: 224.0.0.1 is a multicast address; write an address of this machine",
        ],
    },
    Case {
        edits: &[(
            NAME,
            "name = \"frankfurt\"\nport = 65536\ncores = 257\ntable = 0x1_0000_0000\nmark = 99999999999999999999\nlisten = [\"::1\", \"::1\"]",
        )],
        lines: &[
            "penstock.toml:3: site.port: 65536 is out of range; write a number from 1 to 65535",
            "penstock.toml:4: site.cores: 257 is out of range; write a number from 1 to 256",
            "penstock.toml:5: site.table: 0x100000000 is out of range; write a number from 1 to 4294967295",
            "penstock.toml:6: site.mark: 99999999999999999999 is out of range; write a number from 1 to 4294967295",
            "penstock.toml:7: site.listen: holds the same item twice; keep one of them",
        ],
    },
    Case {
        edits: &[(NAME, "name = \"frankfurt\"\ncores = 2\ncpus = [1, 1]")],
        lines: &[
            "penstock.toml:3: site.cores: cpus already says how many workers run; keep cores or cpus",
            "penstock.toml:4: site.cpus: holds the same item twice; keep one of them",
        ],
    },
    Case {
        edits: &[(NAME, "name = \"frankfurt\"\ncores = 2\ncpus = [0, 1]")],
        lines: &["penstock.toml:3: site.cores: cpus already says how many workers run; keep cores or cpus"],
    },
    Case {
        edits: &[(NAME, "name = \"frankfurt\"\ncpus = []")],
        lines: &["penstock.toml:3: site.cpus: is empty; write for example cpus = [2, 3]"],
    },
    Case {
        edits: &[(ADDRESS, "[\"192.168.192.1/30\"]\nmtu = 1279")],
        lines: &["penstock.toml:6: interface.pen0.mtu: 1279 is out of range; write a number from 1280 to 9216"],
    },
    Case {
        edits: &[(ADDRESS, "[\"192.168.192.1/30\"]\nmtu = 9217")],
        lines: &["penstock.toml:6: interface.pen0.mtu: 9217 is out of range; write a number from 1280 to 9216"],
    },
    Case {
        edits: &[(PSK, "psk_file = \"london.psk\"\nwindow = 0")],
        lines: &["penstock.toml:12: peer.london.window: 0 would let recorded packets in again; write a number from 1024 to 65536"],
    },
    Case {
        edits: &[(PSK, "psk_file = \"london.psk\"\nrekey_child = \"61m\"\npfs = 1\nrekey_ike = \"25h\"")],
        lines: &[
            "penstock.toml:12: peer.london.rekey_child: 61m is out of range; write a time from 1s to 3600s",
            "penstock.toml:13: peer.london.pfs: an integer stands where true or false belongs; write for example pfs = true",
            "penstock.toml:14: peer.london.rekey_ike: 25h is out of range; write a time from 1s to 86400s",
        ],
    },
    Case {
        edits: &[(PSK, "psk_file = \"london.psk\"\ndpd = \"0s\"\ndpd_action = \"trap\"")],
        lines: &[
            "penstock.toml:12: peer.london.dpd: 0s is out of range; write a time from 1s to 3600s",
            "penstock.toml:13: peer.london.dpd_action: \"trap\" is no action; there are restart, hold and clear",
        ],
    },
    // Port 500 leads to 4500.
    Case {
        edits: &[(NAME, "name = \"frankfurt\"\nport = 4501\nike_port = 500")],
        lines: &[
            "penstock.toml:4: site.ike_port: peers that begin on port 500 go on to 4500, and site.port is another; leave ike_port out, or listen on 4500",
        ],
    },
    Case {
        edits: &[(NAME, "name = \"frankfurt\"\nike_port = 501")],
        lines: &["penstock.toml:3: site.ike_port: 501 cannot be chosen; write 500, or 0 for none"],
    },
    Case {
        edits: &[(NAME, "name = \"frankfurt\"\nike_port = 0"), (ENDPOINT, "endpoint = \"203.0.113.7:500\"")],
        lines: &[
            "penstock.toml:9: peer.london.endpoint: nothing can be sent to port 500 without a port 500 of our own; leave the port out, or let site.ike_port be 500",
        ],
    },
    // Who is not tried by itself is not restarted either; who is, needs an endpoint.
    Case {
        edits: &[(PSK, "psk_file = \"london.psk\"\nstart = \"demand\"\ndpd_action = \"restart\"")],
        lines: &[
            "penstock.toml:13: peer.london.dpd_action: it would be tried again, which start = \"demand\" rules out; leave it out, or write \"clear\"",
        ],
    },
    Case {
        edits: &[(ENDPOINT, "start = \"wait\""), (PSK, "psk_file = \"london.psk\"\ndpd_action = \"hold\"")],
        lines: &[
            "penstock.toml:12: peer.london.dpd_action: it would be tried again, which start = \"wait\" rules out; leave it out, or write \"clear\"",
        ],
    },
    Case {
        edits: &[(ENDPOINT, "start = \"later\"")],
        lines: &[
            "penstock.toml:7: peer.london.endpoint: missing; add under [peer.london]: endpoint = \"203.0.113.7\"",
            "penstock.toml:8: peer.london.start: \"later\" is no way to start; there are always, demand and wait",
        ],
    },
    Case {
        edits: &[(PSK, "psk_file = \"london.psk\"\nrekey_child = 60")],
        lines: &[
            "penstock.toml:12: peer.london.rekey_child: an integer stands where a string belongs; write for example rekey_child = \"1h\"",
        ],
    },
    Case {
        edits: &[(PSK, "psk_file = \"london.psk\"\nrekey_child = \"+60s\"")],
        lines: &[
            r#"penstock.toml:12: peer.london.rekey_child: "+60s" is no time; write seconds, minutes or hours, for example "90s", "45m" or "1h""#,
        ],
    },
    Case {
        edits: &[(PSK, "psk_file = \"london.psk\"\nwindow = 1023")],
        lines: &["penstock.toml:12: peer.london.window: 1023 is out of range; write a number from 1024 to 65536"],
    },
    Case {
        edits: &[(PSK, "psk_file = \"london.psk\"\nwindow = 65537\nsource_port = 500")],
        lines: &[
            "penstock.toml:12: peer.london.window: 65537 is out of range; write a number from 1024 to 65536",
            r#"penstock.toml:13: peer.london.source_port: 500 cannot be chosen; write source_port = 4500 to send from the IKE port, or "own" (the default) for one port a core"#,
        ],
    },
    Case {
        edits: &[(
            PSK,
            "psk_file = \"london.psk\"\nsource_port = \"any\"\nsuites = [\"aes128-cbc\"]\nike_suites = [\"3des-cbc\"]\npsk_strength = \"low\"",
        )],
        lines: &[
            r#"penstock.toml:12: peer.london.source_port: "any" cannot be chosen; write source_port = 4500 to send from the IKE port, or "own" (the default) for one port a core"#,
            r#"penstock.toml:13: peer.london.suites: "aes128-cbc" is no suite; there are aes256-gcm and aes128-gcm"#,
            r#"penstock.toml:14: peer.london.ike_suites: "3des-cbc" is no suite for IKE; there are aes256-gcm, aes128-gcm, aes256-cbc and aes128-cbc"#,
            r#"penstock.toml:15: peer.london.psk_strength: "low" is no strength; write psk_strength = "accept-weak", or leave the key out"#,
        ],
    },
    Case {
        edits: &[(PSK, "psk_file = \"london.psk\"\nsuites = [\"aes128-gcm\", \"aes128-gcm\"]")],
        lines: &["penstock.toml:12: peer.london.suites: holds the same item twice; keep one of them"],
    },
    // Names.
    Case {
        edits: &[(NAME, r#"name = "frank furt""#)],
        lines: &[
            r#"penstock.toml:2: site.name: "frank furt" is no site name; use 1 to 63 letters, digits, '.', '_' and '-', and begin with a letter, a digit or '_'"#,
        ],
    },
    Case {
        edits: &[("[peer.london]", r#"[peer."lon don"]"#)],
        lines: &[
            r#"penstock.toml:7: peer.lon don: "lon don" is no peer name; use 1 to 63 letters, digits, '.', '_' and '-', and begin with a letter, a digit or '_'"#,
        ],
    },
    Case {
        edits: &[("[interface.pen0]", "[interface.penstock-tunnel0]")],
        lines: &[
            r#"penstock.toml:4: interface.penstock-tunnel0: "penstock-tunnel0" has 16 bytes, and the kernel takes 15; use 1 to 15 letters, digits, '.', '_' and '-', for example [interface.pen0]"#,
        ],
    },
    Case {
        edits: &[("[interface.pen0]", r#"[interface."pen/0"]"#)],
        lines: &[
            r#"penstock.toml:4: interface.pen/0: "pen/0" is no interface name; use 1 to 15 letters, digits, '.', '_' and '-', for example [interface.pen0]"#,
        ],
    },
    Case {
        edits: &[("[interface.pen0]", "[interface.lo]")],
        lines: &[
            r#"penstock.toml:4: interface.lo: "lo" means something else to the system; use 1 to 15 letters, digits, '.', '_' and '-', for example [interface.pen0]"#,
        ],
    },
    Case {
        edits: &[("[interface.pen0]", "[interface.-pen]")],
        lines: &[
            r#"penstock.toml:4: interface.-pen: "-pen" is no interface name; use 1 to 15 letters, digits, '.', '_' and '-', for example [interface.pen0]"#,
        ],
    },
    Case {
        edits: &[("[interface.pen0]", r#"[interface.".."]"#)],
        lines: &[
            r#"penstock.toml:4: interface...: ".." is no interface name; use 1 to 15 letters, digits, '.', '_' and '-', for example [interface.pen0]"#,
        ],
    },
    Case {
        edits: &[(ADDRESS, "[\"192.168.192.1/30\"]\n[interface.pen1]\naddress = [\"10.0.0.1/24\"]")],
        lines: &["penstock.toml:6: interface.pen1: a second interface beside pen0; keep one; a daemon has one interface"],
    },
    // Prefixes and addresses.
    Case {
        edits: &[(SUBNETS, r#"["10.43.100.0/33", "10.43.300.0/24", "10.43.100.5/24", "2001:db8::/129", "10.0.0.0/+8"]"#)],
        lines: &[
            r#"penstock.toml:10: peer.london.subnets: "10.0.0.0/+8" has a prefix length that is not 0 to 32; write for example "10.43.0.0/24" or "2001:db8:43::/64""#,
            r#"penstock.toml:10: peer.london.subnets: "10.43.100.0/33" has a prefix length that is not 0 to 32; write for example "10.43.0.0/24" or "2001:db8:43::/64""#,
            r#"penstock.toml:10: peer.london.subnets: "10.43.100.5/24" has host bits set; write "10.43.100.0/24" for the network, or "10.43.100.5/32" for the one address"#,
            r#"penstock.toml:10: peer.london.subnets: "10.43.300.0/24" is no address prefix; write for example "10.43.0.0/24" or "2001:db8:43::/64""#,
            r#"penstock.toml:10: peer.london.subnets: "2001:db8::/129" has a prefix length that is not 0 to 128; write for example "10.43.0.0/24" or "2001:db8:43::/64""#,
        ],
    },
    Case {
        edits: &[(LOCAL, r#"["10.43.43.1/24"]"#)],
        lines: &[
            r#"penstock.toml:9: peer.london.local_subnets: "10.43.43.1/24" has host bits set; write "10.43.43.0/24" for the network, or "10.43.43.1/32" for the one address"#,
        ],
    },
    Case {
        edits: &[(SUBNETS, r#"["2001:db8::1/64", "224.0.0.0/4", "127.0.0.0/8"]"#)],
        lines: &[
            r#"penstock.toml:10: peer.london.subnets: "2001:db8::1/64" has host bits set; write "2001:db8::/64" for the network, or "2001:db8::1/128" for the one address"#,
            "penstock.toml:10: peer.london.subnets: 127.0.0.0/8 never leaves a machine or a link, and no tunnel carries it; write the prefix of a network",
            "penstock.toml:10: peer.london.subnets: 224.0.0.0/4 never leaves a machine or a link, and no tunnel carries it; write the prefix of a network",
        ],
    },
    Case {
        edits: &[(ADDRESS, r#"["192.168.192.1", "192.168.192.0/30", "192.168.192.3/30", "0.0.0.0/0", "127.0.0.1/8", "224.0.0.9/24"]"#)],
        lines: &[
            r#"penstock.toml:5: interface.pen0.address: "192.168.192.0/30" is the network's own or broadcast address; write the address of this machine in it, for example "192.168.192.1/30""#,
            r#"penstock.toml:5: interface.pen0.address: "192.168.192.1" has no prefix length; write for example "10.43.0.0/24" or "2001:db8:43::/64""#,
            r#"penstock.toml:5: interface.pen0.address: "192.168.192.3/30" is the network's own or broadcast address; write the address of this machine in it, for example "192.168.192.1/30""#,
            r#"penstock.toml:5: interface.pen0.address: 0.0.0.0 cannot be an interface's address; write a private address with its prefix length, for example "192.168.192.1/30""#,
            r#"penstock.toml:5: interface.pen0.address: 127.0.0.1 cannot be an interface's address; write a private address with its prefix length, for example "192.168.192.1/30""#,
            r#"penstock.toml:5: interface.pen0.address: 224.0.0.9 cannot be an interface's address; write a private address with its prefix length, for example "192.168.192.1/30""#,
        ],
    },
    Case {
        edits: &[(SUBNETS, "[\n  \"10.1.0.0/16\",\n  \"10.2.0.0/16\",\n  \"10.1.0.0/16\",\n]")],
        lines: &["penstock.toml:13: peer.london.subnets: holds the same item twice; keep one of them"],
    },
    Case {
        edits: &[(SUBNETS, r#"["10.43.43.0/24", "192.168.192.0/30"]"#)],
        lines: &[
            "penstock.toml:10: peer.london.subnets: 10.43.43.0/24 is on our own side (local_subnets); name only networks behind the peer",
            "penstock.toml:10: peer.london.subnets: 192.168.192.0/30 is on our own side (interface pen0); name only networks behind the peer",
        ],
    },
    Case {
        edits: &[(
            PSK,
            "psk_file = \"london.psk\"\n[peer.oslo]\nendpoint = \"198.51.100.9\"\nsubnets = [\"10.1.0.0/16\", \"10.43.100.0/24\"]\npsk_file = \"london.psk\"",
        )],
        lines: &[
            "penstock.toml:14: peer.oslo.subnets: 10.43.100.0/24 belongs to peer london already (penstock.toml:10); leave it with one of them",
        ],
    },
    // Endpoints and identities.
    Case {
        edits: &[(ENDPOINT, r#"endpoint = "203.0.113""#)],
        lines: &[
            r#"penstock.toml:8: peer.london.endpoint: "203.0.113" is neither an address nor a host name; write "203.0.113.7", "vpn.example.net" or "vpn.example.net:4500""#,
        ],
    },
    Case {
        edits: &[(ENDPOINT, r#"endpoint = "vpn.example.net:99999""#)],
        lines: &[
            r#"penstock.toml:8: peer.london.endpoint: "99999" is no port; write a number from 1 to 65535, and an IPv6 address as "[2001:db8::1]:4500""#,
        ],
    },
    Case {
        edits: &[(ENDPOINT, r#"endpoint = "[2001:db8::1""#)],
        lines: &[
            r#"penstock.toml:8: peer.london.endpoint: "[2001:db8::1" is no endpoint; write an IPv6 address with a port as "[2001:db8::1]:4500""#,
        ],
    },
    Case {
        edits: &[(ENDPOINT, r#"endpoint = "0.0.0.0""#)],
        lines: &[
            "penstock.toml:8: peer.london.endpoint: 0.0.0.0 is no address of one machine; write the address or name under which the peer is reached",
        ],
    },
    Case {
        edits: &[(ENDPOINT, r#"endpoint = "[ff02::1]:4500""#)],
        lines: &[
            "penstock.toml:8: peer.london.endpoint: ff02::1 is no address of one machine; write the address or name under which the peer is reached",
        ],
    },
    Case {
        edits: &[(ENDPOINT, "endpoint = \"203.0.113.7\"\nlocal_address = \"2001:db8::7\"")],
        lines: &[
            "penstock.toml:9: peer.london.local_address: 2001:db8::7 cannot reach the endpoint 203.0.113.7: one is IPv4, the other IPv6; use addresses of one family",
        ],
    },
    Case {
        edits: &[
            (NAME, "name = \"frankfurt\"\nlisten = [\"198.51.100.7\"]"),
            (ENDPOINT, "endpoint = \"203.0.113.7\"\nlocal_address = \"198.51.100.8\""),
        ],
        lines: &[
            r#"penstock.toml:10: peer.london.local_address: 198.51.100.8 is not among the addresses in site.listen, so answers would not arrive; add "198.51.100.8" to site.listen"#,
        ],
    },
    Case {
        edits: &[(ENDPOINT, "endpoint = \"203.0.113.7\"\nlocal_address = \"0.0.0.0\"\nlocal_id = \"a b\"\nremote_id = \"keyid:\"")],
        lines: &[
            "penstock.toml:9: peer.london.local_address: 0.0.0.0 is no address; write the address to send from, or leave the key out",
            r#"penstock.toml:10: peer.london.local_id: "a b" is no identity; write a name, an address, "user@name" or "keyid:..." without spaces, at most 255 bytes"#,
            r#"penstock.toml:11: peer.london.remote_id: "keyid:" is no key id; write "keyid:" and 1 to 255 characters, or "keyid:0x" and pairs of hex digits"#,
        ],
    },
    Case {
        edits: &[(
            PSK,
            "psk_file = \"london.psk\"\n[peer.oslo]\nendpoint = \"198.51.100.9\"\nsubnets = [\"10.44.0.0/16\"]\npsk_file = \"london.psk\"\nremote_id = \"london\"",
        )],
        lines: &[
            "penstock.toml:16: peer.oslo.remote_id: peer london has the same identities, so an incoming connection could be either; give each peer a remote_id of its own",
        ],
    },
    // Keys.
    Case {
        edits: &[(PSK, r#"psk_file = "none.psk""#)],
        lines: &[
            "penstock.toml:11: peer.london.psk_file: none.psk cannot be read (No such file or directory); make one with: penstock key psk --out none.psk",
        ],
    },
    Case {
        edits: &[(PSK, r#"psk_file = "peers.d""#)],
        lines: &["penstock.toml:11: peer.london.psk_file: peers.d is not a regular file; make one with: penstock key psk --out peers.d"],
    },
    // Syntax.
    Case { edits: &[(NAME, "name = frankfurt")], lines: &["penstock.toml:2: site.name: text without quotes; put it in double quotes"] },
    Case {
        edits: &[(NAME, r#"name = "frankfurt"#)],
        lines: &[r#"penstock.toml:2: site.name: invalid basic string, expected `"`; close the text with the quote that opened it"#],
    },
    Case {
        edits: &[(NAME, "name = \"frankfurt\"\nname = \"x\"")],
        lines: &["penstock.toml:3: site.name: duplicate key; keep one of them"],
    },
    Case {
        edits: &[(PSK, "psk_file = \"london.psk\"\n[peer.london]")],
        lines: &["penstock.toml:12: peer.london: duplicate key; keep one of them"],
    },
    Case {
        edits: &[("[peer.london]", "[peer.london")],
        lines: &["penstock.toml:7: peer.london: unclosed table, expected `]`; write a header as [site], [interface.pen0] or [peer.london]"],
    },
    Case {
        edits: &[(SUBNETS, r#"["10.43.100.0/24""#)],
        lines: &[
            r#"penstock.toml:11: peer.london.psk_file: missing comma between array elements, expected `,`; write an array as ["one", "two"]"#,
        ],
    },
    Case {
        edits: &[(SUBNETS, "10.43.100.0/24"), ("[site]", "[site]\n= 4")],
        lines: &[
            "penstock.toml:2: site: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`; correct the line: key = value, text in double quotes",
            "penstock.toml:11: peer.london.subnets: invalid float; correct the line: key = value, text in double quotes",
        ],
    },
    Case {
        edits: &[(NAME, "name"), (ENDPOINT, r#"endpoint = = "203.0.113.7""#)],
        lines: &[
            "penstock.toml:2: site: key with no value, expected `=`; write a setting as key = value",
            "penstock.toml:8: peer.london.endpoint: extra `=`; correct the line: key = value, text in double quotes",
        ],
    },
    // Several at once, in the order of their lines.
    Case {
        edits: &[
            (NAME, "name = \"frankfurt\"\nprot = 4500"),
            (ADDRESS, "[\"192.168.192.1/30\"]\nmtu = 100"),
            (ENDPOINT, r#"endpoint = "x y""#),
            (SUBNETS, r#"["10.43.43.0/24", "10.0.0.1/8"]"#),
            (PSK, "psk_file = \"london.psk\"\nwindow = true"),
        ],
        lines: &[
            "penstock.toml:3: site.prot: unknown key; did you mean port?",
            "penstock.toml:7: interface.pen0.mtu: 100 is out of range; write a number from 1280 to 9216",
            r#"penstock.toml:10: peer.london.endpoint: "x y" is neither an address nor a host name; write "203.0.113.7", "vpn.example.net" or "vpn.example.net:4500""#,
            r#"penstock.toml:12: peer.london.subnets: "10.0.0.1/8" has host bits set; write "10.0.0.0/8" for the network, or "10.0.0.1/32" for the one address"#,
            "penstock.toml:12: peer.london.subnets: 10.43.43.0/24 is on our own side (local_subnets); name only networks behind the peer",
            "penstock.toml:14: peer.london.window: true or false stands where an integer belongs; write for example window = 16384",
        ],
    },
];

#[test]
fn every_mistake_gives_its_line() {
    for (number, case) in CASES.iter().enumerate() {
        let place = Place::new(&format!("mistake-{number}"));
        let text = case.edits.iter().fold(GOOD.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from} is not in the good configuration");
            text.replace(from, to)
        });
        place.write("penstock.toml", text.as_bytes(), 0o644);
        assert_eq!(place.complaints(), case.lines, "{text}");
    }
}

/// Writes the key file as given and gives the complaints, or none.
fn with_key(place: &Place, octets: &[u8], mode: u32) -> Vec<String> {
    place.write("london.psk", octets, mode);
    match super::Config::load(&place.main()) {
        Ok(_) => Vec::new(),
        Err(_) => place.complaints(),
    }
}

#[test]
fn key_files_are_judged_at_the_line_that_names_them() {
    let place = Place::new("keys");
    let key = STRONG.as_bytes();
    assert_eq!(with_key(&place, key, 0o600), [""; 0]);
    for (octets, mode, line) in [
        (
            key,
            0o644,
            "london.psk is open to other users (mode 0644); run: chmod 600 london.psk, and make a new key if others may have read it",
        ),
        (
            key,
            0o640,
            "london.psk is open to other users (mode 0640); run: chmod 600 london.psk, and make a new key if others may have read it",
        ),
        (b"", 0o600, "london.psk is empty; make one with: penstock key psk --out london.psk"),
        (b"0s==\n", 0o600, "london.psk begins with 0s, but no base64 follows; make one with: penstock key psk --out london.psk"),
        (
            b"secret\n",
            0o600,
            "london.psk is a weak key: it has 6 characters that are worth 28 bits at most, and 128 are needed; make one with: penstock key psk --out london.psk.new, or set psk_strength = \"accept-weak\" if the other side dictates it",
        ),
    ] {
        assert_eq!(with_key(&place, octets, mode), [format!("penstock.toml:11: peer.london.psk_file: {line}")]);
    }
}

#[test]
fn files_in_peers_d_hold_peers_only_and_no_peer_twice() {
    let place = Place::new("peersd-mistakes");
    place.write("peers.d/a.toml", b"[site]\nname = \"x\"\n\n[interface.pen0]\n[extra]\n", 0o644);
    place.write(
        "peers.d/b.toml",
        b"\n[peer.london]\nendpoint = \"198.51.100.1\"\nsubnets = [\"10.7.0.0/16\"]\npsk_file = \"../london.psk\"\n",
        0o644,
    );
    place.write("peers.d/c.toml", b"[peer.oslo]\nsubnets = [\"10.43.100.0/24\"]\n# \xc3\xa4\n# \xff\n", 0o644);
    assert_eq!(
        place.complaints(),
        [
            "peers.d/a.toml:1: site: does not belong into peers.d; move it to penstock.toml, files in peers.d hold [peer.NAME] only",
            "peers.d/a.toml:4: interface: does not belong into peers.d; move it to penstock.toml, files in peers.d hold [peer.NAME] only",
            "peers.d/a.toml:5: extra: unknown key; this file knows peer",
            "peers.d/b.toml:2: peer.london: peer london stands in penstock.toml:7 already; rename or remove one of them",
            "peers.d/c.toml:4: syntax: is not UTF-8; save the file as UTF-8",
        ]
    );
}

#[test]
fn mistakes_in_every_file_come_out_in_the_order_of_files_and_lines() {
    let place = Place::new("order");
    place.write("penstock.toml", GOOD.replace("frankfurt", "frank furt").as_bytes(), 0o644);
    place.write("peers.d/a.toml", b"[peer.oslo]\nendpoint = 1\nsubnets = [\"10.43.100.0/24\"]\npsk_file = \"../london.psk\"\n", 0o644);
    let lines = place.complaints();
    let starts: Vec<_> = lines.iter().map(|line| line.splitn(3, ": ").take(2).collect::<Vec<_>>().join(": ")).collect();
    assert_eq!(
        starts,
        ["penstock.toml:2: site.name", "peers.d/a.toml:2: peer.oslo.endpoint", "peers.d/a.toml:3: peer.oslo.subnets"],
        "{lines:?}"
    );
}

#[test]
fn no_more_workers_than_an_spi_can_name() {
    let place = Place::new("cpus");
    let cpus = |count: usize| GOOD.replace("\n\n[interface", &format!("\ncpus = {:?}\n\n[interface", (0..count).collect::<Vec<_>>()));
    place.write("penstock.toml", cpus(256).as_bytes(), 0o644);
    assert_eq!(super::Config::load(&place.main()).expect("a good configuration").site.cpus.map(|cpus| cpus.len()), Some(256));
    place.write("penstock.toml", cpus(257).as_bytes(), 0o644);
    assert_eq!(place.complaints(), ["penstock.toml:3: site.cpus: names 257 CPUs; name 256 at most"]);
}
