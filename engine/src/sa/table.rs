//! A core's pairs by inbound SPI: open addressing over a fixed number of places, so that a look-up is a multiplication, a shift and
//! one or two loads, and nothing allocates. The pairs themselves stand without gaps, for those who go through all of them.
#![allow(clippy::vec_box, reason = "a pair keeps its box from the admin thread and back")]

use super::pair::Pair;

/// The pairs of one core.
#[derive(Debug)]
pub struct Table {
    places: Box<[Place]>,
    pairs: Vec<Box<Pair>>,
    /// How many pairs there may be.
    most: usize,
    /// What is left of a product is the number of a place.
    shift: u32,
}

/// An SPI and where its pair stands. SPI 0, which no pair has, is a free place.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    spi: u32,
    at: u32,
}

impl Table {
    /// Room for `pairs`.
    #[must_use]
    pub fn new(pairs: usize) -> Self {
        let most = pairs.max(8);
        // Half full at most, so that probes stay short.
        let places = (most * 2).next_power_of_two();
        let shift = u32::BITS - places.ilog2().min(u32::BITS - 1);
        Self { places: vec![Place::default(); places].into(), pairs: Vec::with_capacity(most), most, shift }
    }

    /// Not all of an SPI's bits are random (see [`penstock_uapi::Spi`]); a product by the golden ratio mixes them into its high bits
    /// (Knuth, The Art of Computer Programming, volume 3, section 6.4).
    #[inline]
    fn home(&self, spi: u32) -> usize {
        (spi.wrapping_mul(0x9e37_79b1) >> self.shift) as usize
    }

    #[inline]
    fn place_of(&self, spi: u32) -> Option<usize> {
        let mask = self.places.len() - 1;
        let mut at = self.home(spi);
        while self.places[at & mask].spi != spi {
            if self.places[at & mask].spi == 0 {
                return None;
            }
            at += 1;
        }
        (spi != 0).then_some(at & mask)
    }

    /// Where a pair stands among all of them.
    #[inline]
    fn find(&self, spi: u32) -> Option<usize> {
        self.place_of(spi).map(|place| self.places[place].at as usize)
    }

    /// The pair of an SPI.
    #[must_use]
    pub fn get(&self, spi: u32) -> Option<&Pair> {
        self.pairs.get(self.find(spi)?).map(|pair| &**pair)
    }

    /// The pair of an SPI.
    #[inline]
    pub fn get_mut(&mut self, spi: u32) -> Option<&mut Pair> {
        let at = self.find(spi)?;
        self.pairs.get_mut(at).map(|pair| &mut **pair)
    }

    /// Puts a pair in; gives back the one that had its SPI, or `Err` with the pair itself if the table is full.
    ///
    /// # Errors
    /// If there is no room, or its SPI is 0.
    pub fn insert(&mut self, pair: Box<Pair>) -> Result<Option<Box<Pair>>, Box<Pair>> {
        if let Some(at) = self.find(pair.spi) {
            return Ok(Some(std::mem::replace(&mut self.pairs[at], pair)));
        }
        if self.pairs.len() == self.most || pair.spi == 0 {
            return Err(pair);
        }
        let mask = self.places.len() - 1;
        let mut place = self.home(pair.spi);
        while self.places[place].spi != 0 {
            place = (place + 1) & mask;
        }
        self.places[place] = Place { spi: pair.spi, at: self.pairs.len() as u32 };
        self.pairs.push(pair);
        Ok(None)
    }

    /// Takes a pair out; the last one takes its place in their order.
    pub fn remove(&mut self, spi: u32) -> Option<Box<Pair>> {
        let place = self.place_of(spi)?;
        let at = self.places[place].at;
        let removed = self.pairs.swap_remove(at as usize);
        if let Some(moved) = self.pairs.get(at as usize).map(|pair| pair.spi)
            && let Some(place) = self.place_of(moved)
        {
            self.places[place].at = at;
        }
        self.close_gap(place);
        Some(removed)
    }

    /// Frees a place, so that later probes find what stood behind it.
    fn close_gap(&mut self, mut gap: usize) {
        let mask = self.places.len() - 1;
        self.places[gap] = Place::default();
        let mut at = (gap + 1) & mask;
        while self.places[at].spi != 0 {
            let home = self.home(self.places[at].spi);
            // Move it back unless its home lies between the gap and itself.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(gap) & mask) {
                self.places[gap] = std::mem::take(&mut self.places[at]);
                gap = at;
            }
            at = (at + 1) & mask;
        }
    }

    /// How many pairs there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.pairs.len()
    }

    /// The pair that stands there among all of them; pairs move when one is taken out.
    pub fn at_mut(&mut self, at: usize) -> Option<&mut Pair> {
        self.pairs.get_mut(at).map(|pair| &mut **pair)
    }

    /// Every pair, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.iter().map(|pair| &**pair)
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
                prop_assert_eq!((table.iter().count(), table.count()), (model.len(), model.len()));
                let stand: HashSet<_> = (0..40).filter_map(|at| table.at_mut(at).map(|pair| pair.spi)).collect();
                prop_assert_eq!(&stand, &model);
            }
        }
    }
}
