//! What happens to one datagram: a function of the seed, the direction and the datagram's number in it, and of nothing else. So a run can be
//! had again, and no part of it depends on how another part went.

use std::time::Duration;

use super::script::Faults;

/// How a datagram is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Bits flip.
    Flip,
    /// The end is missing.
    Truncate,
    /// The end grows.
    Extend,
}

/// A change, and the number that its particulars are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alteration {
    /// Which.
    pub change: Change,
    /// What place and amount are drawn from.
    pub draw: u64,
}

/// What happens to one datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// It is lost, alone or in a burst.
    pub lost: bool,
    /// Each is a copy, sent so much later.
    pub again_after: Vec<Duration>,
    /// So many later ones overtake it.
    pub held_for: u32,
    /// It travels for so long.
    pub delay: Duration,
    /// What is changed of it.
    pub altered: Option<Alteration>,
    /// Forged copies beside it.
    pub forgeries: Vec<Alteration>,
    /// It is cut into IP fragments.
    pub fragmented: bool,
    /// Garbage beside it, drawn from this.
    pub garbage: Option<u64>,
}

/// One draw: the finaliser of SplitMix64 over everything it depends on.
pub(crate) fn draw(seed: u64, direction: usize, number: u64, purpose: u64) -> u64 {
    let mut mixed = seed;
    for part in [direction as u64, number, purpose] {
        mixed = scramble(mixed.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_add(part));
    }
    mixed
}

fn scramble(mut word: u64) -> u64 {
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// From 0 up to but not 1.
fn fraction(draw: u64) -> f64 {
    (draw >> 11) as f64 / (1_u64 << 53) as f64
}

/// What each draw is for.
mod purpose {
    pub(super) const LOSS: u64 = 1;
    pub(super) const BURST: u64 = 2;
    pub(super) const AGAIN: u64 = 3;
    pub(super) const REORDER: u64 = 4;
    pub(super) const DEPTH: u64 = 5;
    pub(super) const JITTER: u64 = 6;
    pub(super) const TRUNCATE: u64 = 7;
    pub(super) const EXTEND: u64 = 8;
    pub(super) const FLIP: u64 = 9;
    pub(super) const PARTICULARS: u64 = 10;
    pub(super) const FRAGMENT: u64 = 11;
    pub(super) const GARBAGE: u64 = 12;
    pub(super) const GARBAGE_BYTES: u64 = 13;
    /// And all above.
    pub(super) const FORGERY: u64 = 1 << 32;
}

impl Decision {
    /// What happens to datagram `number` of a direction.
    #[must_use]
    pub fn of(seed: u64, direction: usize, number: u64, faults: &Faults) -> Self {
        let any = |purpose| draw(seed, direction, number, purpose);
        let happens = |chance: f64, purpose| chance > 0.0 && fraction(any(purpose)) < chance;
        // A burst is in its beginning, so that no state is carried from one datagram to the next.
        let in_burst = || {
            let first = number.saturating_sub(u64::from(faults.burst_frames).saturating_sub(1));
            (first..=number).any(|start| fraction(draw(seed, direction, start, purpose::BURST)) < faults.burst)
        };
        if happens(faults.loss, purpose::LOSS) || (faults.burst > 0.0 && faults.burst_frames > 0 && in_burst()) {
            return Self { lost: true, ..Self::default() };
        }
        let again = happens(faults.duplicate, purpose::AGAIN);
        let held = faults.reorder_depth > 0 && happens(faults.reorder, purpose::REORDER);
        let chances = [
            (faults.truncate, purpose::TRUNCATE, Change::Truncate),
            (faults.extend, purpose::EXTEND, Change::Extend),
            (faults.flip, purpose::FLIP, Change::Flip),
        ];
        let change = chances.into_iter().find(|(chance, purpose, _)| happens(*chance, *purpose)).map(|(_, _, change)| change);
        let forgery = |at: u32| {
            let draw = any(purpose::FORGERY + u64::from(at));
            let change = [Change::Flip, Change::Flip, Change::Truncate, Change::Extend][(draw & 3) as usize];
            Alteration { change, draw: scramble(draw) }
        };
        Self {
            lost: false,
            again_after: if again {
                faults.duplicate_after_ms.iter().map(|ms| Duration::from_millis((*ms).into())).collect()
            } else {
                Vec::new()
            },
            held_for: if held { 1 + (any(purpose::DEPTH) % u64::from(faults.reorder_depth)) as u32 } else { 0 },
            delay: Duration::from_secs_f64((faults.delay_ms + faults.jitter_ms * fraction(any(purpose::JITTER))) / 1e3),
            altered: change.map(|change| Alteration { change, draw: any(purpose::PARTICULARS) }),
            forgeries: (0..faults.forgeries).map(forgery).collect(),
            fragmented: happens(faults.fragment, purpose::FRAGMENT),
            garbage: happens(faults.garbage, purpose::GARBAGE).then(|| any(purpose::GARBAGE_BYTES)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Decision};
    use crate::faulty::Faults;

    fn run(seed: u64, direction: usize, faults: &Faults) -> Vec<Decision> {
        (0..20_000).map(|number| Decision::of(seed, direction, number, faults)).collect()
    }

    fn everything() -> Faults {
        Faults {
            loss: 0.01,
            burst: 0.001,
            duplicate: 0.02,
            reorder: 0.03,
            reorder_depth: 50,
            jitter_ms: 5.0,
            truncate: 0.01,
            extend: 0.01,
            flip: 0.01,
            forgeries: 2,
            fragment: 0.01,
            garbage: 0.01,
            ..Faults::default()
        }
    }

    #[test]
    fn the_same_seed_is_the_same_run_in_any_order() {
        let first = run(7, 0, &everything());
        assert_eq!(first, run(7, 0, &everything()));
        let mut backwards: Vec<_> = (0..20_000).rev().map(|number| Decision::of(7, 0, number, &everything())).collect();
        backwards.reverse();
        assert_eq!(first, backwards);
    }

    #[test]
    fn another_seed_or_direction_is_another_run() {
        let first = run(7, 0, &everything());
        assert_ne!(first, run(8, 0, &everything()));
        assert_ne!(first, run(7, 1, &everything()));
    }

    #[test]
    fn chances_are_what_the_script_says() {
        let decisions = run(3, 0, &Faults { loss: 0.1, duplicate: 0.2, ..Faults::default() });
        let lost = decisions.iter().filter(|decision| decision.lost).count();
        let again = decisions.iter().filter(|decision| !decision.again_after.is_empty()).count();
        assert!((1800..2200).contains(&lost) && (3300..3900).contains(&again), "{lost} {again}");
        let held = run(3, 0, &Faults { reorder: 1.0, reorder_depth: 40, ..Faults::default() });
        assert_eq!(held.iter().map(|decision| decision.held_for).min(), Some(1));
        assert_eq!(held.iter().map(|decision| decision.held_for).max(), Some(40));
    }

    #[test]
    fn a_burst_takes_its_whole_length_and_nothing_else_is_lost() {
        let decisions = run(3, 0, &Faults { burst: 0.001, burst_frames: 12, ..Faults::default() });
        let lost: Vec<bool> = decisions.iter().map(|decision| decision.lost).collect();
        let rows: Vec<usize> = lost.chunk_by(|a, b| a == b).filter(|row| row[0]).map(<[bool]>::len).collect();
        assert!(rows.len() > 5 && rows.iter().all(|row| *row >= 12 && *row < 48), "{rows:?}");
    }

    #[test]
    fn a_quiet_script_does_nothing() {
        assert!(run(1, 0, &Faults::default()).iter().all(|decision| *decision == Decision::default()));
    }

    #[test]
    fn forgeries_are_of_every_kind() {
        let decisions = run(1, 0, &Faults { forgeries: 5, ..Faults::default() });
        for change in [Change::Flip, Change::Truncate, Change::Extend] {
            assert!(decisions.iter().flat_map(|decision| &decision.forgeries).any(|forgery| forgery.change == change));
        }
    }
}
