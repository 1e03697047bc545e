//! A core's pairs by inbound SPI: open addressing over a fixed number of places, so that a look-up is a shift, a mask and one
//! or two loads, and nothing allocates.

use super::pair::Pair;

/// The pairs of one core.
#[derive(Debug)]
pub struct Table {
    places: Box<[Option<Box<Pair>>]>,
    used: usize,
}

impl Table {
    /// Room for `pairs`.
    #[must_use]
    pub fn new(pairs: usize) -> Self {
        // Half full at most, so that probes stay short.
        let places = (pairs.max(8) * 2).next_power_of_two();
        Self { places: std::iter::repeat_with(|| None).take(places).collect(), used: 0 }
    }

    /// An SPI's random bits stand above its core and generation.
    fn home(&self, spi: u32) -> usize {
        (spi >> 10) as usize & (self.places.len() - 1)
    }

    fn place_of(&self, spi: u32) -> Option<usize> {
        let mut at = self.home(spi);
        loop {
            match &self.places[at] {
                None => return None,
                Some(pair) if pair.spi == spi => return Some(at),
                Some(_) => at = (at + 1) & (self.places.len() - 1),
            }
        }
    }

    /// The pair of an SPI.
    #[must_use]
    pub fn get(&self, spi: u32) -> Option<&Pair> {
        self.place_of(spi).and_then(|at| self.places[at].as_deref())
    }

    /// The pair of an SPI.
    pub fn get_mut(&mut self, spi: u32) -> Option<&mut Pair> {
        self.place_of(spi).and_then(|at| self.places[at].as_deref_mut())
    }

    /// Puts a pair in; gives back the one that had its SPI, or `Err` with the pair itself if the table is full.
    ///
    /// # Errors
    /// If there is no room.
    pub fn insert(&mut self, pair: Box<Pair>) -> Result<Option<Box<Pair>>, Box<Pair>> {
        if let Some(at) = self.place_of(pair.spi) {
            return Ok(self.places[at].replace(pair));
        }
        if (self.used + 1) * 2 > self.places.len() {
            return Err(pair);
        }
        let mut at = self.home(pair.spi);
        while self.places[at].is_some() {
            at = (at + 1) & (self.places.len() - 1);
        }
        self.places[at] = Some(pair);
        self.used += 1;
        Ok(None)
    }

    /// Takes a pair out and closes the gap, so that later probes find what stood behind it.
    pub fn remove(&mut self, spi: u32) -> Option<Box<Pair>> {
        let mask = self.places.len() - 1;
        let mut gap = self.place_of(spi)?;
        let removed = self.places[gap].take();
        self.used -= 1;
        let mut at = (gap + 1) & mask;
        while let Some(pair) = &self.places[at] {
            let home = self.home(pair.spi);
            // Move it back unless its home lies between the gap and itself.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(gap) & mask) {
                self.places[gap] = self.places[at].take();
                gap = at;
            }
            at = (at + 1) & mask;
        }
        removed
    }

    /// Every pair, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.places.iter().filter_map(|place| place.as_deref())
    }

    /// Every pair, in no order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Pair> {
        self.places.iter_mut().filter_map(|place| place.as_deref_mut())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::Table;
    use crate::sa::pair::Pair;

    proptest! {
        #[test]
        fn is_a_set(steps in proptest::collection::vec((any::<bool>(), 0..40u32), 1..300)) {
            let (mut table, mut model) = (Table::new(8), HashSet::new());
            for (insert, number) in steps {
                // Homes collide on purpose: sixteen places, forty SPIs.
                let spi = ((number % 10) << 10) | ((number / 10) << 16) | (1 << 30);
                if insert {
                    let fits = model.contains(&spi) || model.len() < 8;
                    prop_assert_eq!(table.insert(Box::new(Pair::expected(spi, 0))).is_ok(), fits);
                    if fits {
                        model.insert(spi);
                    }
                } else {
                    prop_assert_eq!(table.remove(spi).map(|pair| pair.spi), model.take(&spi));
                }
                for number in 0..40u32 {
                    let spi = ((number % 10) << 10) | ((number / 10) << 16) | (1 << 30);
                    prop_assert_eq!(table.get(spi).is_some(), model.contains(&spi));
                }
                prop_assert_eq!(table.iter().count(), model.len());
            }
        }
    }
}
