//! The inner MTU that follows from the path's.

/// Bytes of an ESP packet before and behind its ciphertext: header 8, IV 8, ICV 16 (RFC 4303, RFC 4106).
const ESP_BYTES: u32 = 8 + 8 + 16;

/// Bytes of the ESP trailer inside the ciphertext without padding: pad length and next header.
const TRAILER_BYTES: u32 = 2;

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

/// Bytes of the ESP packet of an inner one.
#[must_use]
pub fn frame(inner: u16) -> u32 {
    ESP_BYTES + (u32::from(inner) + TRAILER_BYTES).next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::{frame, inner, outer_bytes};

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
}
