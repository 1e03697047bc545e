//! Our inbound SPIs: 22 random bits, 2 bits engine generation, 8 bits core, so that a socket filter can pick
//! the core from the first four bytes of a packet without a table.

use core::fmt;

/// A security parameters index (RFC 4303 section 2.1) chosen by this site.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spi(u32);

impl Spi {
    /// Composes an SPI. `random` gives its low 22 bits; `None` if those are zero, because an SPI below 1024
    /// could be one of the reserved values 0 to 255.
    #[must_use]
    pub fn compose(random: u32, generation: u8, core: u8) -> Option<Self> {
        let random = random & 0x003f_ffff;
        (random != 0).then(|| Self(random << 10 | u32::from(generation & 3) << 8 | u32::from(core)))
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
        assert_eq!(Spi::compose(0, 1, 7), None);
        assert_eq!(Spi::compose(0xffc0_0000, 1, 7), None);
        assert_eq!(Spi::new(255), None);
    }
}
