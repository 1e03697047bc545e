#!/usr/bin/env python3
"""Recomputes keys.txt: the key schedule of IKEv2, written from the RFC with Python's hmac and the `cryptography` package.

    python3 keys.py > keys.txt

Inputs are fixed octets. RFC 7296 2.13 (prf+), 2.14 (SKEYSEED), 2.15 (AUTH), 2.17 (children), 2.18 (rekey); RFC 5282 (AES-GCM);
RFC 4868 (HMAC-SHA2); RFC 7296 3.14 (AES-CBC); RFC 9242 3.3.2 (IntAuth).
"""
import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def prf(digest, key, data):
    return hmac.new(key, data, digest).digest()


def prf_plus(digest, key, seed, length):
    out, block, number = b"", b"", 1
    while len(out) < length:
        block = prf(digest, key, block + seed + bytes([number]))
        out, number = out + block, number + 1
    return out[:length]


def show(name, value):
    print(name, "=", value.hex())


def cut(stream, *lengths):
    for length in lengths:
        yield stream[:length]
        stream = stream[length:]


def aes(key, mode, data):
    encryptor = Cipher(algorithms.AES(key), mode).encryptor()
    return encryptor.update(data) + encryptor.finalize()


alice = x25519.X25519PrivateKey.from_private_bytes(bytes(range(32)))
bob = x25519.X25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
raw = (Encoding.Raw, PublicFormat.Raw)
show("x25519_bob", bob.public_key().public_bytes(*raw))
shared = alice.exchange(bob.public_key())
show("x25519_shared", shared)

for name, curve, size in (("p256", ec.SECP256R1(), 32), ("p384", ec.SECP384R1(), 48)):
    one = ec.derive_private_key(int.from_bytes(bytes(range(1, size + 1)), "big"), curve)
    two = ec.derive_private_key(int.from_bytes(bytes(range(size + 1, 2 * size + 1)), "big"), curve)
    show(name + "_two", two.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:])
    show(name + "_shared", one.exchange(ec.ECDH(), two.public_key()))

nonce_i, nonce_r = bytes(range(100, 132)), bytes(range(150, 174))
spi_i, spi_r = bytes.fromhex("0123456789abcdef"), bytes.fromhex("fedcba9876543210")
psk = b"an example of a pre-shared key"
head, plain = b"the header and what precedes the IV", b"payloads"


def gcm(sk_a, sk_e, text, padding):
    """The first message of a sender: the IV is a counter, the padding its own choice."""
    iv = bytes(8)
    return iv + AESGCM(sk_e[:-4]).encrypt(sk_e[-4:] + iv, text + padding + bytes([len(padding)]), head)


def cbc(digest):
    def seal(sk_a, sk_e, text, padding):
        """The IV is the encrypted counter, and the padding fills the block."""
        iv = aes(sk_e, modes.ECB(), bytes(16))
        padding += bytes(-(len(text) + len(padding) + 1) % 16)
        sealed = iv + aes(sk_e, modes.CBC(iv), text + padding + bytes([len(padding)]))
        return sealed + hmac.new(sk_a, head + sealed, digest).digest()[: digest().digest_size // 2]

    return seal


for name, digest, sk_a, sk_e, seal in (
    ("256", hashlib.sha256, 0, 36, gcm),
    ("128", hashlib.sha256, 0, 20, gcm),
    ("256_prf384", hashlib.sha384, 0, 36, gcm),
    ("128_prf512", hashlib.sha512, 0, 20, gcm),
    ("cbc256_sha256", hashlib.sha256, 32, 32, cbc(hashlib.sha256)),
    ("cbc128_sha384", hashlib.sha384, 48, 16, cbc(hashlib.sha384)),
    ("cbc256_sha512", hashlib.sha512, 64, 32, cbc(hashlib.sha512)),
):
    size = digest().digest_size
    skeyseed = prf(digest, nonce_i + nonce_r, shared)
    stream = prf_plus(digest, skeyseed, nonce_i + nonce_r + spi_i + spi_r, 3 * size + 2 * (sk_a + sk_e))
    sk_d, sk_ai, sk_ar, sk_ei, sk_er, sk_pi, sk_pr = cut(stream, size, sk_a, sk_a, sk_e, sk_e, size, size)
    show(f"sk_d_{name}", sk_d)
    show(f"sk_pi_{name}", sk_pi)
    show(f"sk_pr_{name}", sk_pr)
    # The initiator's first encrypted message, and the responder's with three octets of padding.
    show(f"sealed_by_i_{name}", seal(sk_ai, sk_ei, plain, b""))
    show(f"sealed_by_r_{name}", seal(sk_ar, sk_er, plain, b"\1\2\3"))
    keymat = prf_plus(digest, sk_d, nonce_i + nonce_r, 2 * 36)
    show(f"child_from_i_{name}", keymat[:36])
    show(f"child_from_r_{name}", keymat[36:])
    auth = prf(digest, prf(digest, psk, b"Key Pad for IKEv2"), b"first message" + nonce_r + prf(digest, sk_pi, b"\2\0\0\0name"))
    show(f"auth_i_{name}", auth)
    # RFC 9242: what IKE_INTERMEDIATE leaves stands behind.
    bound = b"first message" + nonce_r + prf(digest, sk_pi, b"\2\0\0\0name") + b"IntAuth"
    show(f"auth_i_bound_{name}", prf(digest, prf(digest, psk, b"Key Pad for IKEv2"), bound))
    # The IKE SA that takes over: SK_d of the old one and a fresh secret, then its own keys.
    renewed = prf_plus(digest, prf(digest, sk_d, shared + nonce_i + nonce_r), nonce_i + nonce_r + spi_i + spi_r, size)
    show(f"sk_d_renewed_{name}", renewed)

# RFC 9242 3.3.2: header and payload header as if the payloads stood there in clear and whole (46: encrypted, 43: IKE_INTERMEDIATE,
# 34: the key exchange payload inside, method 36).
inner = bytes([0, 0]) + (8 + 1184).to_bytes(2, "big") + (36).to_bytes(2, "big") + bytes(2) + bytes([5]) * 1184
chunk = spi_i + spi_r + bytes([46, 0x20, 43, 0x08]) + (1).to_bytes(4, "big") + (28 + 4 + len(inner)).to_bytes(4, "big")
chunk += bytes([34, 0]) + (4 + len(inner)).to_bytes(2, "big") + inner
show("int_auth_i", prf(hashlib.sha256, bytes([7]) * 32, chunk))
