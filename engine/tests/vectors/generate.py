#!/usr/bin/env python3
"""Makes esp.json: ESP frames by Scapy and OpenSSL (through the `cryptography` package), which share no code with the engine.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install scapy==2.8.0 cryptography==50.0.2
    /tmp/venv/bin/python generate.py > esp.json

The output is the same each time: keys and contents come out of a hash of their names.
"""

import hashlib
import json
import struct

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Raw


def material(name, length):
    out = b""
    while len(out) < length:
        out += hashlib.sha256(f"{name} {len(out)}".encode()).digest()
    return out[:length]


def inner_packets():
    """Inner packets of both families, with every padding length and with a payload of a full path."""
    for length in (0, 1, 2, 3, 15, 16, 17, 64, 1410):
        data = Raw(material(f"payload {length}", length))
        yield "v4", IP(src="10.43.43.2", dst="10.43.100.9", tos=0x28) / UDP(sport=5001, dport=5002) / data
        yield "v6", IPv6(src="fd43:43::2", dst="fd43:100::9", tc=0x28, fl=0x1234) / TCP(sport=80, dport=5002, flags="PA") / data
    yield "v4", IP(src="10.43.43.2", dst="10.43.100.9") / ICMP() / Raw(b"ping")
    yield "v6", IPv6(src="fd43:43::2", dst="fd43:100::9") / ICMPv6EchoRequest(data=b"ping")


def sequences(esn):
    """Numbers in rising order, less than 2^32 and a window apart: around the edges of the 32-bit halves."""
    low = [1, 2, 3, 0x7FFF_FFFF, 0xFFFF_FFFE, 0xFFFF_FFFF]
    if not esn:
        return low
    return low + [1 << 32, (1 << 32) + 1, (1 << 32) + 0x9000_0000, (2 << 32) + 7, (2 << 32) + 0xF000_0000, 3 << 32]


def association(bits, esn):
    name = f"aes-{bits}-gcm{'-esn' if esn else ''}"
    key, salt = material(f"{name} key", bits // 8), material(f"{name} salt", 4)
    spi = int.from_bytes(material(f"{name} spi", 4), "big") | 1 << 30
    packets, numbers = list(inner_packets()), sequences(esn)
    frames = []
    for at, (family, packet) in enumerate(packets):
        # The packets are dealt to the numbers evenly; where a number has several, they follow it closely.
        base = numbers[at * len(numbers) // len(packets)]
        sequence = base if not frames or base > frames[-1]["sequence"] else frames[-1]["sequence"] + 1
        if not esn and sequence > 0xFFFF_FFFF:
            break
        # Ours is the sequence number as IV; every fourth frame has that of a peer which does something else.
        iv = struct.pack("!Q", sequence) if at % 4 else material(f"{name} iv {at}", 8)
        tunnel = IP(src="192.0.2.1", dst="198.51.100.1") if at % 3 else IPv6(src="2001:db8::1", dst="2001:db8:1::1")
        sa = SecurityAssociation(ESP, spi=spi, crypt_algo="AES-GCM", crypt_key=key + salt, tunnel_header=tunnel, esn_en=esn)
        sa.seq_num = sequence & 0xFFFF_FFFF  # as an argument of encrypt(), Scapy takes 0 for "none given"
        inner = bytes(packet)
        outer = sa.encrypt(packet.__class__(inner), iv=iv, esn_en=esn, esn=sequence >> 32)
        frames.append({
            "sequence": sequence,
            "own_iv": bool(at % 4),
            "next_header": 4 if family == "v4" else 41,
            "inner": inner.hex(),
            "frame": bytes(outer[ESP]).hex(),
        })
    return {"name": name, "key": key.hex(), "salt": salt.hex(), "esn": esn, "spi": spi, "frames": frames}


if __name__ == "__main__":
    print(json.dumps([association(bits, esn) for bits in (128, 256) for esn in (True, False)], indent=1))
