//! What a file descriptor that crosses the socket is for.

/// The part a descriptor plays for its core. The numbers are bits of a frame's `roles` mask; the descriptors
/// stand beside the frame in ascending order of their bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Role {
    /// The core's queue of the TUN device.
    Tun = 1,
    /// The core's member of the IPv4 reuseport group on the IKE and ESP port.
    Shared4 = 2,
    /// The core's member of the IPv6 reuseport group.
    Shared6 = 4,
    /// The IPv4 socket with the core's own source port.
    Own4 = 8,
    /// The IPv6 socket with the core's own source port.
    Own6 = 16,
    /// The listening socket of the engine itself; handed back only, with core 0.
    Listen = 32,
    /// Control's own member of the IPv4 group, which comes with core 0. The engine never reads it: it only keeps it
    /// open, because a socket that leaves a reuseport group when control dies would let the last member take its
    /// index (`net/core/sock_reuseport.c`, `reuseport_detach_sock`), and the SPIs of that core would go nowhere.
    Ike4 = 64,
    /// As [`Role::Ike4`], of the IPv6 group.
    Ike6 = 128,
    /// The core's member of a second set of the IPv4 group. Two engines read a set each while one relieves the other; afterwards the
    /// engine keeps the set that it does not read open, for the reason of [`Role::Ike4`].
    Second4 = 256,
    /// As [`Role::Second4`], of the IPv6 group.
    Second6 = 512,
}

impl Role {
    /// All roles in the order in which descriptors travel.
    pub const ALL: [Self; 10] = [
        Self::Tun,
        Self::Shared4,
        Self::Shared6,
        Self::Own4,
        Self::Own6,
        Self::Listen,
        Self::Ike4,
        Self::Ike6,
        Self::Second4,
        Self::Second6,
    ];

    /// The bit of this role.
    #[must_use]
    pub fn bit(self) -> u32 {
        self as u32
    }

    /// The roles of a mask in travelling order; `None` if the mask holds an unknown bit.
    #[must_use]
    pub fn in_mask(mask: u32) -> Option<impl Iterator<Item = Self>> {
        let known = Self::ALL.iter().fold(0, |bits, role| bits | role.bit());
        (mask & !known == 0).then(|| Self::ALL.into_iter().filter(move |role| mask & role.bit() != 0))
    }

    /// The name used in messages to people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tun => "tun",
            Self::Shared4 => "udp4",
            Self::Shared6 => "udp6",
            Self::Own4 => "udp4-own-port",
            Self::Own6 => "udp6-own-port",
            Self::Listen => "listen",
            Self::Ike4 => "udp4-ike",
            Self::Ike6 => "udp6-ike",
            Self::Second4 => "udp4-second",
            Self::Second6 => "udp6-second",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Role;

    #[test]
    fn a_mask_names_its_roles_in_travelling_order_and_no_unknown_bit() {
        let roles = |mask| Role::in_mask(mask).map(Iterator::collect::<Vec<_>>);
        assert_eq!(roles(0), Some(Vec::new()));
        assert_eq!(roles(1023), Some(Role::ALL.to_vec()));
        for role in Role::ALL {
            assert_eq!(roles(role.bit()), Some(vec![role]));
        }
        assert_eq!(roles(8 | 1 | 64), Some(vec![Role::Tun, Role::Own4, Role::Ike4]));
        for bit in 10..32 {
            assert_eq!((roles(1 << bit), roles(1 << bit | 1)), (None, None));
        }
    }
}
