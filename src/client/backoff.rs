//! How long to wait before trying again: twice as long each time, within bounds, with jitter.

use margay_log::id::Micros;

/// Numbers that look random and are a function of the seed (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A growing pause.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    min: Micros,
    max: Micros,
    pauses: u32,
}

impl Backoff {
    pub(super) fn new(min: Micros, max: Micros) -> Backoff {
        Backoff { min, max, pauses: 0 }
    }

    /// The next pause: between half of `min` · 2ⁿ and all of it.
    pub(super) fn next(&mut self, random: &mut Random) -> Micros {
        let full = self.min.0.saturating_mul(1 << self.pauses.min(20)).min(self.max.0).max(1);
        self.pauses = self.pauses.saturating_add(1);
        Micros(full - random.next() % full.div_ceil(2))
    }

    /// Things went well.
    pub(super) fn reset(&mut self) {
        self.pauses = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_within_bounds_and_differ_between_seeds() {
        let pauses = |seed| {
            let mut random = Random::new(seed);
            let mut backoff = Backoff::new(Micros(20_000), Micros(500_000));
            (0..40).map(|_| backoff.next(&mut random).0).collect::<Vec<u64>>()
        };
        for (n, pause) in pauses(1).into_iter().enumerate() {
            let full = (20_000u64 << n.min(20)).min(500_000);
            assert!((full / 2..=full).contains(&pause), "pause {n}: {pause}");
        }
        assert_eq!(pauses(1), pauses(1));
        assert_ne!(pauses(1), pauses(2));
    }
}
