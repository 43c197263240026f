//! The simulated network: who reaches whom, and how long it takes.
//!
//! Between nodes frames travel one by one and may be lost, doubled and delayed, and in some weather
//! each may overtake the others, which is worse than any TCP connection would do to them. Between a
//! client and a node bytes travel in order, in chunks of any size, until the connection breaks. A
//! link has a direction: a cut may be one-way.

use std::collections::{BTreeMap, BTreeSet};

use margay_log::id::Micros;
use margay_log::rng::Rng;

/// One end of a link: a node or a client, numbered by the simulation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum End {
    Node(usize),
    Client(usize),
}

/// How bad the network is. Chances are per mille and per frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub lost: u64,
    pub doubled: u64,
    /// A frame that dawdles takes up to this long instead of the usual.
    pub dawdles: u64,
    pub dawdle: Micros,
    pub usual_min: Micros,
    pub usual_max: Micros,
    /// Frames overtake each other, not only those that dawdle.
    pub overtakes: bool,
}

impl Weather {
    /// What a healthy network looks like.
    pub(super) const FAIR: Weather = Weather {
        lost: 0,
        doubled: 0,
        dawdles: 0,
        dawdle: Micros(0),
        usual_min: Micros(50),
        usual_max: Micros(500),
        overtakes: false,
    };

    /// Some weather, from fair to foul.
    pub(super) fn draw(rng: &mut Rng) -> Weather {
        let dawdle = if rng.chance(1, 3) { 2_000 } else { 300 };
        Weather {
            lost: if rng.chance(1, 2) { rng.below(150) } else { 0 },
            doubled: if rng.chance(1, 2) { rng.below(100) } else { 0 },
            dawdles: if rng.chance(1, 2) { rng.below(100) } else { 0 },
            dawdle: Micros::from_millis(1 + rng.below(dawdle)),
            usual_min: Micros(20 + rng.below(200)),
            usual_max: Micros(300 + rng.below(5_000)),
            overtakes: rng.chance(1, 4),
        }
    }
}

/// Links and weather.
#[derive(Debug)]
pub(super) struct Network {
    pub weather: Weather,
    /// Whatever goes to this end takes so much longer.
    pub late: Option<(End, Micros)>,
    cut: BTreeSet<(End, End)>,
    /// When the last frame arrives that was not to be overtaken.
    arrives: BTreeMap<(End, End), Micros>,
}

impl Network {
    pub(super) fn new(weather: Weather) -> Network {
        Network { weather, late: None, cut: BTreeSet::new(), arrives: BTreeMap::new() }
    }

    /// Whether `from` reaches `to` now.
    pub(super) fn reaches(&self, from: End, to: End) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// Cuts the link in this direction.
    pub(super) fn cut(&mut self, from: End, to: End) {
        self.cut.insert((from, to));
    }

    /// Whether any link is cut.
    pub(super) fn is_cut(&self) -> bool {
        !self.cut.is_empty()
    }

    /// Mends the link in this direction.
    pub(super) fn mend(&mut self, from: End, to: End) {
        self.cut.remove(&(from, to));
    }

    /// Mends everything.
    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    /// How long the copies of a frame that is sent now take: none if it is lost, two if it is
    /// doubled.
    pub(super) fn delays(
        &mut self,
        rng: &mut Rng,
        now: Micros,
        from: End,
        to: End,
    ) -> [Option<Micros>; 2] {
        if !self.reaches(from, to) || rng.chance(self.weather.lost, 1_000) {
            return [None, None];
        }
        let mut first = self.delay_to(rng, to);
        let usual = self
            .late
            .map_or(self.weather.usual_max, |(_, late)| self.weather.usual_max.after(late));
        if !self.weather.overtakes && first <= usual {
            let arrives = self.arrives.entry((from, to)).or_default();
            *arrives = now.after(first).max(*arrives);
            first = arrives.since(now);
        }
        let second = rng.chance(self.weather.doubled, 1_000).then(|| self.delay_to(rng, to));
        [Some(first), second]
    }

    /// How long one frame to this end takes.
    pub(super) fn delay_to(&self, rng: &mut Rng, to: End) -> Micros {
        let late = self.late.filter(|(end, _)| *end == to).map_or(Micros(0), |(_, late)| late);
        self.delay(rng).after(late)
    }

    /// How long it takes to any end that is not behind.
    pub(super) fn delay(&self, rng: &mut Rng) -> Micros {
        let Weather { dawdles, dawdle, usual_min, usual_max, .. } = self.weather;
        if rng.chance(dawdles, 1_000) {
            Micros(usual_max.0 + rng.below(dawdle.0.max(1)))
        } else {
            Micros(usual_min.0 + rng.below(usual_max.since(usual_min).0.max(1)))
        }
    }
}
