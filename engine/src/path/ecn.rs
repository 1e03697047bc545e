//! Explicit congestion notification through a tunnel (RFC 6040).

use crate::packet::ip::{self, Ip};

const ECN: u8 = 3;
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// The outer field of a packet that enters (section 4.1, normal mode): the inner mark, and a DSCP.
pub(super) fn enter(inner: u8, dscp: Option<u8>) -> u8 {
    dscp.map_or(inner & !ECN, |dscp| dscp << 2) | inner & ECN
}

/// The inner mark of a packet that leaves (section 4.2, figure 4); `None`: it has to be dropped.
pub(super) fn leave(inner: u8, outer: u8) -> Option<u8> {
    match (inner & ECN, outer & ECN) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

/// Carries the outer mark over to the packet; `false`: it has to be dropped.
pub(super) fn carry_over(packet: &mut [u8], ip: &mut Ip, outer: u8) -> bool {
    let Some(mark) = leave(ip.tos, outer) else { return false };
    let tos = ip.tos & !ECN | mark;
    if tos != ip.tos {
        ip::set_tos(packet, ip, tos);
        ip.tos = tos;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{CE, ECT_0, ECT_1, NOT_ECT, enter, leave};

    #[test]
    fn figure_4_of_the_rfc() {
        let none = None;
        let table = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), none]),
            (ECT_0, [Some(ECT_0), Some(ECT_1), Some(ECT_0), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE); 4]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NOT_ECT, ECT_1, ECT_0, CE].into_iter().zip(row) {
                assert_eq!(leave(0xb8 | inner, 0x20 | outer), expected, "{inner} in {outer}");
            }
        }
    }

    #[test]
    fn the_outer_field_has_the_inner_mark() {
        for mark in 0..4 {
            assert_eq!(enter(0xb8 | mark, None), 0xb8 | mark);
            assert_eq!(enter(0xb8 | mark, Some(8)), 0x20 | mark);
        }
    }
}
