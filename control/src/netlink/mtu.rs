//! The sizes that follow from one another: path, inner MTU, ESP frame, super-packet.

/// Bytes of an ESP packet before and behind its ciphertext: header 8, IV 8, ICV 16 (RFC 4303, RFC 4106).
const ESP_BYTES: u32 = 8 + 8 + 16;

/// Bytes of the ESP trailer inside the ciphertext without padding: pad length and next header.
const TRAILER_BYTES: u32 = 2;

/// The most bytes of one UDP payload over IPv4: 65,535 - 20 - 8.
const UDP_BYTES_MAX: u32 = 65_507;

/// The most segments of one UDP send (`UDP_MAX_SEGMENTS`).
const SEGMENTS_MAX: u32 = 128;

/// What the kernel takes off a device's limit before it cuts its data into super-packets: `MAX_TCP_HEADER` + 1 is at
/// most 321 (`net/core/sock.c`, `sk_dst_gso_max_size`). A little more keeps a full super-packet below the limit, at
/// which the kernel would cut it in software (`net/core/dev.c`, `gso_features_check`).
const TCP_HEADROOM: u32 = 384;

/// IPv4 or IPv6 and UDP headers in front of ESP.
#[must_use]
pub fn outer_bytes(v6: bool) -> u32 {
    if v6 { 40 + 8 } else { 20 + 8 }
}

/// The inner MTU that a path carries without fragments: 1438 over IPv4 and 1418 over IPv6 for a path of 1500, because
/// the ciphertext is a multiple of four (RFC 4303 section 2.4).
#[must_use]
pub fn inner(path: u32, v6: bool) -> u16 {
    let ciphertext = path.saturating_sub(outer_bytes(v6) + ESP_BYTES) & !3;
    u16::try_from(ciphertext.saturating_sub(TRAILER_BYTES)).unwrap_or(u16::MAX)
}

/// Bytes of the ESP packet of a full inner one.
#[must_use]
pub fn frame(inner: u16) -> u32 {
    ESP_BYTES + (u32::from(inner) + TRAILER_BYTES).next_multiple_of(4)
}

/// The device's `gso_max_size`: so many full segments as fit one UDP send once each is an ESP packet. With an inner MTU
/// of 1438 a frame has 1472 bytes, 44 fit; 44 x (1438 - 52) + 384 = 61,368.
#[must_use]
pub fn gso_bytes(inner: u16) -> u32 {
    let segments = (UDP_BYTES_MAX / frame(inner)).clamp(1, SEGMENTS_MAX);
    segments * u32::from(inner).saturating_sub(20 + 32) + TCP_HEADROOM
}

#[cfg(test)]
mod tests {
    use super::{UDP_BYTES_MAX, frame, gso_bytes, inner, outer_bytes};

    #[test]
    fn a_full_packet_fills_its_path_and_no_more() {
        assert_eq!((inner(1500, false), inner(1500, true)), (1438, 1418));
        for path in 1280..9100 {
            for v6 in [false, true] {
                let mtu = inner(path, v6);
                assert!(outer_bytes(v6) + frame(mtu) <= path);
                assert!(outer_bytes(v6) + frame(mtu + 1) > path);
            }
        }
    }

    #[test]
    fn one_super_packet_fits_one_send() {
        assert_eq!(gso_bytes(1438), 61_368);
        for mtu in 1280..9000 {
            // headers of 52 (IPv4 with timestamps), 60 and 72 bytes (IPv6); the kernel holds back at least 257 bytes
            for header in [52, 60, 72] {
                let segments = (gso_bytes(mtu) - 257) / (u32::from(mtu) - header);
                assert!(segments * frame(mtu) <= UDP_BYTES_MAX, "mtu {mtu}, header {header}: {segments} segments");
            }
        }
    }
}
