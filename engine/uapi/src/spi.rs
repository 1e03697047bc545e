//! Our inbound SPIs, made so that a socket filter can pick the core from the first four bytes of a packet without a table.
//!
//! ```text
//!   bit 31                            10  9       8  7         0
//!     0 | 21 random bits                | generation | core        received and owned by `core`
//!     1 | 8 bits entrance | 13 random   | generation | core        received by `entrance`, owned by `core`
//! ```
//! The second form is for peers that send several SAs from one address and port. The kernel then merges packets of several SAs into
//! one buffer, and a buffer goes to one core. With one entrance for all SAs of the peer, what is handed over and what is not goes the
//! same way, and packets keep their order.

use core::fmt;

/// A security parameters index (RFC 4303 section 2.1) chosen by this site.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spi(u32);

impl Spi {
    /// Set in an SPI that names its entrance.
    pub const ENTRANCE_BIT: u32 = 1 << 31;
    /// Where the entrance stands in such an SPI: 8 bits from here.
    pub const ENTRANCE_SHIFT: u32 = 23;

    /// Composes an SPI that is received where it is owned. `random` gives its low 21 bits; `None` if those are zero, because an SPI
    /// below 1024 could be one of the reserved values 0 to 255.
    #[must_use]
    pub fn compose(random: u32, generation: u8, core: u8) -> Option<Self> {
        let random = random & 0x001f_ffff;
        (random != 0).then(|| Self(random << 10 | u32::from(generation & 3) << 8 | u32::from(core)))
    }

    /// Composes an SPI that is received by the core `entrance`, whichever core owns it. `random` gives its low 13 bits.
    #[must_use]
    pub fn compose_with_entrance(random: u32, generation: u8, core: u8, entrance: u8) -> Self {
        let above = Self::ENTRANCE_BIT | u32::from(entrance) << Self::ENTRANCE_SHIFT;
        Self(above | (random & 0x1fff) << 10 | u32::from(generation & 3) << 8 | u32::from(core))
    }

    /// Reads a value that came over the wire or the socket; `None` for the reserved values (RFC 4303 section 2.1).
    #[must_use]
    pub fn new(value: u32) -> Option<Self> {
        (value > 255).then_some(Self(value))
    }

    /// The value in host byte order.
    #[must_use]
    pub fn value(self) -> u32 {
        self.0
    }

    /// The core that owns this inbound SA.
    #[must_use]
    pub fn core(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// The core whose socket receives it.
    #[must_use]
    pub fn entrance(self) -> u8 {
        if self.0 & Self::ENTRANCE_BIT == 0 { self.core() } else { (self.0 >> Self::ENTRANCE_SHIFT) as u8 }
    }

    /// The engine generation that this inbound SA was made for, 0 to 3.
    #[must_use]
    pub fn generation(self) -> u8 {
        self.0.to_le_bytes()[1] & 3
    }
}

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spi({:08x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Spi;

    #[test]
    fn an_spi_gives_back_core_and_generation() {
        for core in 0..=255 {
            for generation in 0..4 {
                let spi = Spi::compose(0x2a_bcde, generation, core).expect("random bits are not zero");
                assert_eq!((spi.core(), spi.generation()), (core, generation));
                assert!(spi.value() > 255);
            }
        }
        for (core, entrance) in [(0, 0), (3, 0), (0, 255), (255, 1)] {
            let spi = Spi::compose_with_entrance(0xffff_ffff, 2, core, entrance);
            assert_eq!((spi.core(), spi.generation(), spi.entrance()), (core, 2, entrance));
            assert_eq!(Spi::compose(0xffff_ffff, 2, core).map(Spi::entrance), Some(core));
        }
        assert_eq!(Spi::compose(0, 1, 7), None);
        assert_eq!(Spi::compose(0xffc0_0000, 1, 7), None);
        assert_eq!(Spi::new(255), None);
        let spi = Spi::new(0x00ab_cdef).expect("not reserved");
        assert_eq!(format!("{spi} {spi:?}"), "00abcdef Spi(00abcdef)");
    }
}
