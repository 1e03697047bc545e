//! The slow way to make packets and to cut super-packets, for tests: one field at a time, checksums by another library.

use etherparse::{IpHeaders, Ipv4Header, Ipv6Header, NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};

use super::vnet::{Gso, HEADER_BYTES_MAX, Header};

/// A flow's packets.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    pub(crate) port: u16,
    pub(crate) sequence: u32,
    pub(crate) id: u16,
    pub(crate) push: bool,
    pub(crate) options: bool,
    pub(crate) tos: u8,
}

impl Flow {
    pub(crate) fn new(v6: bool, tcp: bool) -> Self {
        Self { v6, tcp, port: 1000, sequence: 0xffff_fc00, id: 0xfffe, push: false, options: tcp, tos: 0 }
    }

    pub(crate) fn v4_addresses() -> [[u8; 4]; 2] {
        [[10, 1, 0, 1], [10, 2, 0, 1]]
    }

    pub(crate) fn v6_addresses() -> [[u8; 16]; 2] {
        [1, 2].map(|site| [0xfd, 0, 0, 0, 0, 0, 0, site, 0, 0, 0, 0, 0, 0, 0, 1])
    }

    /// One whole packet, larger than a device would take if `payload` is.
    pub(crate) fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let ip = if self.v6 {
            let [source, destination] = Self::v6_addresses();
            let header = Ipv6Header { source, destination, hop_limit: 61, traffic_class: self.tos, ..Ipv6Header::default() };
            IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
        } else {
            let [source, destination] = Self::v4_addresses();
            let mut header = Ipv4Header::new(0, 61, etherparse::IpNumber::UDP, source, destination).expect("a short header");
            (header.identification, header.dont_fragment) = (self.id, true);
            header.dscp = etherparse::IpDscp::try_new(self.tos >> 2).expect("six bits");
            header.ecn = etherparse::IpEcn::try_new(self.tos & 3).expect("two bits");
            IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
        };
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ip(ip);
        if self.tcp {
            let mut tcp = builder.tcp(self.port, 80, self.sequence, 4096).ack(77);
            if self.push {
                tcp = tcp.psh();
            }
            if self.options {
                tcp = tcp.options_raw(&[1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 7]).expect("twelve bytes of options");
            }
            tcp.write(&mut bytes, payload).expect("memory");
        } else {
            builder.udp(self.port, 53).write(&mut bytes, payload).expect("memory");
        }
        bytes
    }

    pub(crate) fn headers(&self) -> usize {
        self.packet(&[]).len()
    }

    /// The flow's next packets: payload cut into `segment` bytes.
    pub(crate) fn cut(&self, payload: &[u8], segment: usize) -> Vec<Vec<u8>> {
        let last = payload.len().div_ceil(segment).saturating_sub(1);
        let part = |(index, part): (usize, &[u8])| {
            let sequence = self.sequence.wrapping_add((index * segment) as u32);
            Flow { id: self.id.wrapping_add(index as u16), sequence, push: self.push && index == last, ..self.clone() }.packet(part)
        };
        payload.chunks(segment).enumerate().map(part).collect()
    }

    /// The virtio header of a super-packet of this flow.
    pub(crate) fn header(&self, segment: usize) -> Header {
        let l4 = if self.v6 { 40 } else { 20 };
        let gso = match (self.tcp, self.v6) {
            (false, _) => Gso::Udp,
            (true, false) => Gso::TcpV4,
            (true, true) => Gso::TcpV6,
        };
        Header {
            checksum: Some((l4, if self.tcp { 16 } else { 6 })),
            gso,
            header_bytes: self.headers() as u16,
            segment_bytes: segment as u16,
        }
    }

    /// A read of a super-packet, as the kernel gives it: lengths of the whole, the checksum only begun.
    pub(crate) fn read(&self, payload: &[u8], segment: usize) -> Vec<u8> {
        let mut read = vec![0; HEADER_BYTES_MAX];
        self.header(segment).write(&mut read);
        let mut packet = self.packet(payload);
        let field = if self.v6 { 40 } else { 20 } + if self.tcp { 16 } else { 6 };
        // What the kernel leaves there is not to be relied upon when a super-packet is cut.
        packet[field..field + 2].copy_from_slice(&[0xab, 0xcd]);
        read.extend(packet);
        read
    }

    /// A read of an ordinary packet that is whole.
    pub(crate) fn plain(&self, payload: &[u8]) -> Vec<u8> {
        let mut read = vec![0; HEADER_BYTES_MAX];
        read.extend(self.packet(payload));
        read
    }
}

/// The packets that a write stands for, as a kernel would cut them, each with its own checksums.
pub(crate) fn cut_write(write: &[u8]) -> Vec<Vec<u8>> {
    let (header, packet) = write.split_at(HEADER_BYTES_MAX);
    let header = Header::parse(header).expect("a virtio header");
    if header.gso == Gso::None {
        assert_eq!(header.checksum, None, "an ordinary packet keeps its checksum");
        return vec![packet.to_vec()];
    }
    let parsed = PacketHeaders::from_ip_slice(packet).expect("a packet");
    let payload = parsed.payload.slice();
    let (start, offset) = header.checksum.expect("a super-packet's checksum is never whole");
    assert_eq!(usize::from(header.header_bytes) + payload.len(), packet.len());
    let begun = &packet[usize::from(start + offset)..][..2];
    assert_eq!(begun, pseudo_sum(packet, usize::from(start)), "the pseudo-header's sum stands in the field");
    if let Some(NetHeaders::Ipv4(ip, _)) = &parsed.net {
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    }
    if let Some(TransportHeader::Udp(udp)) = &parsed.transport {
        assert_eq!(usize::from(udp.length), packet.len() - usize::from(start), "a kernel trims what it delivers to this length");
    }
    let (mut cut, segment) = (Vec::new(), usize::from(header.segment_bytes));
    let last = payload.len().div_ceil(segment) - 1;
    for (index, part) in payload.chunks(segment).enumerate() {
        let mut ip = parsed.net.clone().expect("an IP header");
        let mut transport = parsed.transport.clone().expect("a transport header");
        if let NetHeaders::Ipv4(v4, _) = &mut ip {
            v4.identification = v4.identification.wrapping_add(index as u16);
        }
        match &mut transport {
            TransportHeader::Tcp(tcp) => {
                tcp.sequence_number = tcp.sequence_number.wrapping_add((index * segment) as u32);
                tcp.psh &= index == last;
            }
            TransportHeader::Udp(udp) => udp.length = (8 + part.len()) as u16,
            _ => panic!("neither TCP nor UDP"),
        }
        cut.push(assemble(ip, transport, part));
    }
    cut
}

fn assemble(ip: NetHeaders, mut transport: TransportHeader, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let length = transport.header_len() + payload.len();
    match ip {
        NetHeaders::Ipv4(mut v4, extensions) => {
            v4.set_payload_len(length).expect("a short packet");
            v4.header_checksum = v4.calc_header_checksum();
            transport.update_checksum_ipv4(&v4, payload).expect("a short packet");
            IpHeaders::Ipv4(v4, extensions).write(&mut bytes).expect("memory");
        }
        NetHeaders::Ipv6(mut v6, extensions) => {
            v6.set_payload_length(length).expect("a short packet");
            transport.update_checksum_ipv6(&v6, payload).expect("a short packet");
            IpHeaders::Ipv6(v6, extensions).write(&mut bytes).expect("memory");
        }
        NetHeaders::Arp(_) => panic!("no IP packet"),
    }
    transport.write(&mut bytes).expect("memory");
    bytes.extend_from_slice(payload);
    bytes
}

/// RFC 9293 section 3.1, word by word.
fn pseudo_sum(packet: &[u8], l4: usize) -> [u8; 2] {
    let (addresses, protocol) = if packet[0] >> 4 == 6 { (&packet[8..40], packet[6]) } else { (&packet[12..20], packet[9]) };
    add(u32::from(protocol) + (packet.len() - l4) as u32, addresses).to_be_bytes()
}

/// RFC 1071 section 4.1.
fn add(initial: u32, bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)])));
    let mut sum = initial + words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Makes the checksums of a TCP or UDP packet right that a test has changed.
pub(crate) fn repair(packet: &mut [u8]) {
    let v6 = packet[0] >> 4 == 6;
    let (l4, protocol) = if v6 { (40, packet[6]) } else { (usize::from(packet[0] & 15) * 4, packet[9]) };
    let field = l4 + if protocol == 6 { 16 } else { 6 };
    packet[field..field + 2].fill(0);
    let begun = u16::from_be_bytes(pseudo_sum(packet, l4));
    let sum = !add(begun.into(), &packet[l4..]);
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    if !v6 {
        packet[10..12].fill(0);
        let sum = !add(0, &packet[..l4]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}
