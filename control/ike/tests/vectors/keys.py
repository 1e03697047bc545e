#!/usr/bin/env python3
"""Recomputes keys.txt: the key schedule of IKEv2, written from the RFC with Python's hmac and the `cryptography` package.

    python3 keys.py > keys.txt

Inputs are fixed octets. RFC 7296 2.13 (prf+), 2.14 (SKEYSEED), 2.15 (AUTH), 2.17 (children); RFC 5282 (AES-GCM).
"""
import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def prf(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def prf_plus(key, seed, length):
    out, block, number = b"", b"", 1
    while len(out) < length:
        block = prf(key, block + seed + bytes([number]))
        out, number = out + block, number + 1
    return out[:length]


def show(name, value):
    print(name, "=", value.hex())


alice = x25519.X25519PrivateKey.from_private_bytes(bytes(range(32)))
bob = x25519.X25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
raw = (Encoding.Raw, PublicFormat.Raw)
show("x25519_bob", bob.public_key().public_bytes(*raw))
shared = alice.exchange(bob.public_key())
show("x25519_shared", shared)

one = ec.derive_private_key(int.from_bytes(bytes(range(1, 33)), "big"), ec.SECP256R1())
two = ec.derive_private_key(int.from_bytes(bytes(range(33, 65)), "big"), ec.SECP256R1())
show("p256_two", two.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:])
show("p256_shared", one.exchange(ec.ECDH(), two.public_key()))

nonce_i, nonce_r = bytes(range(100, 132)), bytes(range(150, 174))
spi_i, spi_r = bytes.fromhex("0123456789abcdef"), bytes.fromhex("fedcba9876543210")
psk = b"an example of a pre-shared key"

for name, size in (("256", 32), ("128", 16)):
    skeyseed = prf(nonce_i + nonce_r, shared)
    stream = prf_plus(skeyseed, nonce_i + nonce_r + spi_i + spi_r, 96 + 2 * (size + 4))
    sk_d, rest = stream[:32], stream[32:]
    sk_ei, rest = rest[: size + 4], rest[size + 4 :]
    sk_er, rest = rest[: size + 4], rest[size + 4 :]
    sk_pi, sk_pr = rest[:32], rest[32:]
    show(f"sk_d_{name}", sk_d)
    show(f"sk_pi_{name}", sk_pi)
    show(f"sk_pr_{name}", sk_pr)
    # The initiator's first encrypted message: head as associated data, one octet of pad length behind the payloads.
    head, plain, iv = b"the header and what precedes the IV", b"payloads", bytes(8)
    show(f"sealed_by_i_{name}", iv + AESGCM(sk_ei[:size]).encrypt(sk_ei[size:] + iv, plain + b"\0", head))
    # The responder pads by three octets.
    padded = plain + b"\1\2\3" + b"\3"
    show(f"sealed_by_r_{name}", iv + AESGCM(sk_er[:size]).encrypt(sk_er[size:] + iv, padded, head))
    keymat = prf_plus(sk_d, nonce_i + nonce_r, 2 * (size + 4))
    show(f"child_from_i_{name}", keymat[: size + 4])
    show(f"child_from_r_{name}", keymat[size + 4 :])
    auth = prf(prf(psk, b"Key Pad for IKEv2"), b"first message" + nonce_r + prf(sk_pi, b"\2\0\0\0name"))
    show(f"auth_i_{name}", auth)
