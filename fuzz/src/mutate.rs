//! Mutation for the stable compiler: seeded, blind to coverage. It knows only what all our inputs share: octets, lengths of one,
//! two and four octets, and that parts of real messages are worth keeping.

/// Chance that replays (xorshift64*).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// Of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((self.draw() >> 16) as usize).checked_rem(bound).unwrap_or(0)
    }
}

/// Inputs grow to this at most.
pub const INPUT_BYTES_MAX: usize = 8 * 1024;

const NUMBERS: [u32; 16] = [0, 1, 2, 3, 4, 7, 8, 0x10, 0x20, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff];

/// Changes an input in one to eight places; `other` is another one to take parts from.
pub fn mutate(input: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    for _ in 0..=chance.below(8).min(chance.below(8)) {
        change(input, other, chance);
    }
    input.truncate(INPUT_BYTES_MAX);
}

fn change(input: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    let at = chance.below(input.len());
    let width = chance.below(8);
    let run = 1 + chance.below(1 << width);
    let end = (at + run).min(input.len());
    match chance.below(10) {
        0 => flip(input, at, chance),
        1 => put(input, at, &[chance.draw() as u8]),
        2 => number(input, at, chance),
        3 => input.truncate(at),
        4 => drop(input.drain(at..end)),
        5 => {
            let copy = input.get(at..end).unwrap_or_default().to_vec();
            insert(input, chance, &copy);
        }
        6 => {
            let from = chance.below(other.len());
            let part = other.get(from..(from + run).min(other.len())).unwrap_or_default();
            insert(input, chance, part);
        }
        7 => {
            let from = chance.below(other.len());
            put(input, at, other.get(from..).unwrap_or_default());
        }
        8 => {
            let noise: Vec<u8> = (0..run).map(|_| chance.draw() as u8).collect();
            put(input, at, &noise);
        }
        _ => nudge(input, at, chance),
    }
}

fn flip(input: &mut [u8], at: usize, chance: &mut Chance) {
    if let Some(octet) = input.get_mut(at) {
        *octet ^= 1 << chance.below(8);
    }
}

/// Writes over what is there.
fn put(input: &mut [u8], at: usize, bytes: &[u8]) {
    let room = input.get_mut(at..).unwrap_or_default();
    room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
}

fn insert(input: &mut Vec<u8>, chance: &mut Chance, bytes: &[u8]) {
    let at = chance.below(input.len() + 1);
    input.splice(at..at, bytes.iter().copied());
}

/// A number at a limit, or one that could be a true length here, in either order of octets.
fn number(input: &mut [u8], at: usize, chance: &mut Chance) {
    let left = input.len().saturating_sub(at) as u32;
    let value =
        if chance.below(2) == 0 { NUMBERS[chance.below(NUMBERS.len())] } else { left.wrapping_add(chance.below(9) as u32).wrapping_sub(4) };
    let width = [1, 2, 4][chance.below(3)];
    if chance.below(2) == 0 { put(input, at, &value.to_le_bytes()[..width]) } else { put(input, at, &value.to_be_bytes()[4 - width..]) }
}

/// One more or one less.
fn nudge(input: &mut [u8], at: usize, chance: &mut Chance) {
    if let Some(octet) = input.get_mut(at) {
        *octet = if chance.below(2) == 0 { octet.wrapping_add(1) } else { octet.wrapping_sub(1) };
    }
}
