//! A node's own clock: it runs a little faster or slower than the others', begins anywhere, and
//! jumps forward when the machine was suspended. It never runs backwards, as the clocks that nodes
//! read do not.

use margay_log::id::Micros;
use margay_log::rng::Rng;

/// How much faster or slower than true time a clock runs, at most, in parts per million: what
/// quartz does in bad conditions.
const DRIFT_PPM_MAX: u64 = 100;

/// See the module's text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// True time and the clock's time, at the last jump.
    since: Micros,
    then: Micros,
    /// Its microseconds per million true ones.
    rate: u64,
}

impl Clock {
    pub(super) fn draw(rng: &mut Rng) -> Clock {
        Clock {
            since: Micros(0),
            then: Micros(rng.below(1 << 40)),
            rate: 1_000_000 - DRIFT_PPM_MAX + rng.below(2 * DRIFT_PPM_MAX + 1),
        }
    }

    /// What it shows at a time.
    pub(super) fn at(&self, now: Micros) -> Micros {
        let passed = u128::from(now.since(self.since).0) * u128::from(self.rate) / 1_000_000;
        self.then.after(Micros(passed as u64))
    }

    /// When it shows `shown`, or a moment later.
    pub(super) fn when(&self, shown: Micros) -> Micros {
        let passed = u128::from(shown.since(self.then).0) * 1_000_000 / u128::from(self.rate);
        self.since.after(Micros(u64::try_from(passed).unwrap_or(u64::MAX).saturating_add(1)))
    }

    /// It jumps forward.
    pub(super) fn jump(&mut self, now: Micros, by: Micros) {
        (self.then, self.since) = (self.at(now).after(by), now);
    }
}
