//! The window against a set, the inference against a search.

use std::collections::HashSet;

use penstock_uapi::Drop;
use proptest::prelude::*;

use super::Window;

/// What a window is: every number ever accepted, and the highest.
#[derive(Default)]
struct Model {
    seen: HashSet<u64>,
    top: u64,
}

impl Model {
    fn check(&self, bits: u64, sequence: u64) -> Result<(), Drop> {
        if sequence == 0 || self.top >= bits && sequence <= self.top - bits {
            Err(Drop::ReplayWindow)
        } else if self.seen.contains(&sequence) {
            Err(Drop::Replay)
        } else {
            Ok(())
        }
    }

    fn commit(&mut self, sequence: u64) {
        self.seen.insert(sequence);
        self.top = self.top.max(sequence);
    }
}

fn agree(bits: u32, numbers: impl IntoIterator<Item = u64>) {
    let (mut window, mut model) = (Window::new(bits), Model::default());
    for number in numbers {
        let expected = model.check(bits.into(), number);
        assert_eq!(window.check(number).map(|_| ()), expected, "{number} with top {}", model.top);
        if expected.is_ok() {
            let slot = window.check(number).expect("what was checked and not committed is still free");
            assert_eq!(slot.commit(), number > model.top);
            model.commit(number);
            assert_eq!(window.check(number).map(|_| ()), Err(Drop::Replay), "{number} just received");
        }
        assert_eq!(window.top(), model.top);
    }
}

/// A walk that leaps forward, and looks back mostly within a window's reach.
fn walk() -> impl Strategy<Value = Vec<u64>> {
    let step = prop_oneof![6 => 0..200u64, 2 => 0..3000u64, 1 => 60_000..200_000u64, 1 => Just(1u64 << 32)];
    let back = prop_oneof![5 => 0..64u64, 3 => 900..1200u64, 1 => 16_300..16_500u64, 1 => 65_400..65_700u64];
    proptest::collection::vec((step, back, any::<bool>()), 1..400).prop_map(|steps| {
        let mut top = 0u64;
        steps
            .into_iter()
            .map(|(step, back, forward)| {
                if forward {
                    top = top.saturating_add(step);
                    top
                } else {
                    top.saturating_sub(back)
                }
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn a_window_is_a_set_with_a_left_edge(bits in prop_oneof![Just(1024u32), Just(4096), Just(16_384), Just(65_536)], numbers in walk()) {
        agree(bits, numbers);
    }

    #[test]
    fn the_high_half_is_the_one_nearest_to_the_window(top in prop_oneof![0..200_000u64, (1u64 << 32) - 70_000..(1 << 32) + 70_000, any::<u64>()], low in any::<u32>(), near in any::<bool>(), offset in -70_000i64..70_000) {
        let mut window = Window::new(16_384);
        if top > 0 {
            window.check(top).expect("a fresh number").commit();
        }
        let low = if near { top.wrapping_add_signed(offset) as u32 } else { low };
        // The definition of appendix A: the only number with this low half in the 2^32 numbers from the window's left edge on.
        let edge = i128::from(top) - 16_383;
        let candidate = (0..3).map(|n| (i128::from(top >> 32) - 1 + n) * (1i128 << 32) + i128::from(low)).find(|number| (edge..edge + (1i128 << 32)).contains(number));
        let expected = candidate.and_then(|number| u64::try_from(number).ok());
        prop_assert_eq!(window.infer(low), expected);
    }
}

/// Numbers that come mostly once and mostly in order, so that the ring goes round full: small gaps, late ones,
/// repetitions, and now and then a jump of about a ring.
fn dense_walk(bits: u64, length: usize) -> impl Iterator<Item = u64> {
    let (mut state, mut top) = (0x9e37_79b9_7f4a_7c15_u64, 0_u64);
    let mut draw = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) % below
    };
    core::iter::repeat_with(move || match draw(256) {
        0..128 => {
            top += 1;
            top
        }
        128..160 => {
            top += 1 + draw(4);
            top
        }
        160 => {
            top += draw(3 * bits);
            top
        }
        161 => {
            top += 64 * draw(2 * bits / 64);
            top
        }
        _ => top.saturating_sub(draw(bits + 70)),
    })
    .take(length)
}

#[test]
fn a_ring_that_goes_round_full_agrees_with_the_set() {
    // 1,088 bits lie in a ring of 2,048.
    for (bits, length) in [(1024, 300_000), (1088, 300_000), (4096, 300_000), (65_536, 600_000)] {
        agree(bits, dense_walk(bits.into(), length));
    }
}

#[test]
fn edges_of_the_window() {
    for bits in [1024u32, 16_384, 65_536] {
        let width = u64::from(bits);
        for top in [1, 63, 64, 65, width - 1, width, width + 1, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, u64::MAX] {
            let back = |distance: u64| top.saturating_sub(distance);
            agree(bits, [top, back(width - 1), back(width), back(width + 1), 0, top, top.saturating_add(1), back(1), back(width - 1)]);
        }
    }
}

#[test]
fn every_order_of_eight_numbers() {
    fn permute(numbers: &mut Vec<u64>, at: usize) {
        if at == numbers.len() {
            agree(1024, numbers.iter().copied());
            return;
        }
        for other in at..numbers.len() {
            numbers.swap(at, other);
            permute(numbers, at + 1);
            numbers.swap(at, other);
        }
    }
    permute(&mut vec![1, 2, 63, 64, 65, 1024, 1025, 2049], 0);
}

#[test]
fn a_wild_width_is_held_within_the_bounds() {
    for (asked, gets) in [(0, 1024), (1, 1024), (1025, 1088), (u32::MAX - 64, 65_536)] {
        let mut window = Window::new(asked);
        window.check(100_000).expect("a fresh number").commit();
        assert_eq!(window.check(100_001 - gets).map(|_| ()), Ok(()), "{asked}");
        assert_eq!(window.check(100_000 - gets).map(|_| ()), Err(Drop::ReplayWindow), "{asked}");
    }
}

#[test]
fn the_high_half_turns_at_the_exact_left_edge() {
    let top = |number| {
        let mut window = Window::new(1024);
        let _ = window.check(number).expect("not received yet").commit();
        window
    };
    assert_eq!(Window::new(1024).bits(), 1024);
    // The last number in the window, and the first left of it, which can only be one of the next 2^32.
    assert_eq!((top(5000).infer(3977), top(5000).infer(3976)), (Some(3977), Some(1 << 32 | 3976)));
    // While the window begins at the first number there is, nothing lies left of it.
    for number in [1023, 1024, 1025] {
        assert_eq!((top(number).infer(900), top(number).infer(number as u32 + 1)), (Some(900), Some(number + 1)), "{number}");
    }
}
