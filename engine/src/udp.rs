//! The words that a UDP socket and we exchange beside a datagram: addresses as the kernel lays them out, and control messages
//! for segmentation, merging, addresses and the type of service. Plain bytes: nothing here needs `unsafe` or a descriptor.

pub mod address;
pub mod control;

/// Bytes of control messages that we make room for. What one receive brings at most (IPv6: address 40, traffic class 24, GRO 24,
/// overflows 24) needs 112.
pub const CONTROL_BYTES: usize = 128;

/// Bytes of the largest socket address that we use (`sockaddr_in6`).
pub const ADDRESS_BYTES: usize = 28;
