//! Cards, their habits and their terminals, and what genuine customers do with them.

use rand::Rng;
use rand_distr::{Distribution, LogNormal, Normal};

use crate::simulate::card_fraud::{DAY_MS, Draft, soon_after};

/// Side of the square map.
const MAP: f64 = 100.0;
/// Terminals that a card prefers.
const PREFERRED: usize = 16;
/// Devices that anyone may use: a kiosk, a library.
const PUBLIC_DEVICES: u32 = 40;

pub(crate) struct Card {
    home: (f64, f64),
    pub payments_per_day: f64,
    /// Mean and deviation of the logarithm of an amount.
    pub amount_mu: f64,
    pub amount_sigma: f64,
    /// Centre of the card's day, hours.
    hour: f64,
    /// Nearest terminals, the favourite first.
    pub terminals: Vec<u32>,
    /// The usual device and perhaps another.
    pub devices: Vec<u32>,
    away: Option<Trip>,
}

/// Terminals elsewhere, for some days.
struct Trip {
    days_left: u32,
    terminals: Vec<u32>,
}

pub(crate) struct Population {
    pub cards: Vec<Card>,
    map: TerminalMap,
    devices: u32,
}

impl Population {
    pub fn new(cards: u32, terminals: u32, payments_per_day: f64, rng: &mut impl Rng) -> Self {
        let map = TerminalMap::new(terminals, rng);
        let mut population = Self {
            cards: Vec::with_capacity(cards as usize),
            map,
            devices: PUBLIC_DEVICES,
        };
        for _ in 0..cards {
            let card = population.new_card(payments_per_day, rng);
            population.cards.push(card);
        }
        population
    }

    fn new_card(&mut self, payments_per_day: f64, rng: &mut impl Rng) -> Card {
        let home = (rng.random_range(0.0..MAP), rng.random_range(0.0..MAP));
        let mut devices = vec![self.new_device()];
        // A household shares a device; else one card in three has a second one.
        if let Some(other) = self.cards.last().filter(|_| rng.random_bool(0.08)) {
            devices.push(other.devices[0]);
        } else if rng.random_bool(0.33) {
            devices.push(self.new_device());
        }
        // The factor's mean is 1.
        let eagerness = normal(-0.125, 0.5, rng).exp();
        let mut terminals = self.map.near(home, PREFERRED);
        // The nearest is not always the favourite.
        for place in 0..terminals.len() {
            let other = rng.random_range(place..terminals.len().min(place + 4));
            terminals.swap(place, other);
        }
        Card {
            home,
            payments_per_day: payments_per_day * eagerness * 0.94,
            amount_mu: normal(3.4, 0.9, rng),
            amount_sigma: rng.random_range(0.3..0.7),
            hour: normal(14.0, 2.5, rng),
            terminals,
            devices,
            away: None,
        }
    }

    pub fn new_device(&mut self) -> u32 {
        self.devices += 1;
        self.devices - 1
    }

    /// Trips begin and end, devices are replaced.
    pub fn new_day(&mut self, rng: &mut impl Rng) {
        for index in 0..self.cards.len() {
            if rng.random_bool(1.0 / 150.0) {
                self.cards[index].devices[0] = self.new_device();
            }
            let starts = rng.random_bool(1.0 / 60.0);
            let card = &mut self.cards[index];
            match &mut card.away {
                Some(trip) if trip.days_left > 1 => trip.days_left -= 1,
                Some(_) => card.away = None,
                None if starts => {
                    let (x, y) = card.home;
                    let place = (
                        (x + rng.random_range(20.0..80.0)) % MAP,
                        (y + rng.random_range(20.0..80.0)) % MAP,
                    );
                    let days_left = rng.random_range(2..8);
                    let terminals = self.map.near(place, PREFERRED);
                    self.cards[index].away = Some(Trip {
                        days_left,
                        terminals,
                    });
                }
                None => {}
            }
        }
    }

    /// One genuine payment, or a short burst of them.
    pub fn genuine(&self, index: u32, rng: &mut impl Rng, drafts: &mut Vec<Draft>) {
        let card = &self.cards[index as usize];
        let at_ms = self.usual_time(index, rng);
        let burst = if rng.random_bool(0.03) {
            rng.random_range(1..=2)
        } else {
            0
        };
        for extra in 0..=burst {
            let terminals = card
                .away
                .as_ref()
                .map_or(&card.terminals, |trip| &trip.terminals);
            let device = match rng.random_range(0..1000) {
                0..6 => rng.random_range(0..PUBLIC_DEVICES),
                6..200 => card.devices[card.devices.len() - 1],
                _ => card.devices[0],
            };
            // Now and then much more than usual: furniture, a flight.
            let factor = match rng.random_range(0..1000) {
                0..12 => rng.random_range(2.5..6.0),
                _ if card.away.is_some() => 1.3,
                _ => 1.0,
            };
            drafts.push(Draft {
                at_ms: if extra == 0 {
                    at_ms
                } else {
                    soon_after(at_ms, 1_800_000, rng)
                },
                card: index,
                terminal: favourite(terminals, rng),
                device,
                amount_cents: self.usual_amount(index, factor, rng),
                fraud: None,
            });
        }
    }

    /// A time of the day at which the card's owner pays, milliseconds.
    pub fn usual_time(&self, card: u32, rng: &mut impl Rng) -> i64 {
        let hour = normal(self.cards[card as usize].hour, 3.5, rng).rem_euclid(24.0);
        ((hour * 3_600_000.0) as i64).clamp(0, DAY_MS - 1)
    }

    /// `factor` times an amount that the card's owner would pay, hundredths.
    pub fn usual_amount(&self, card: u32, factor: f64, rng: &mut impl Rng) -> i64 {
        let card = &self.cards[card as usize];
        let amount = LogNormal::new(card.amount_mu, card.amount_sigma)
            .map_or(0.0, |habit| habit.sample(rng));
        ((amount * factor * 100.0).round() as i64).clamp(50, 2_000_000)
    }

    pub fn terminals(&self) -> u32 {
        self.map.places.len() as u32
    }

    /// A card chosen evenly.
    pub fn any_card(&self, rng: &mut impl Rng) -> u32 {
        rng.random_range(0..self.cards.len()) as u32
    }
}

/// One of `terminals`, the first ones more often.
pub(crate) fn favourite(terminals: &[u32], rng: &mut impl Rng) -> u32 {
    let share: f64 = rng.random_range(0.0..1.0);
    let place = (share * share * terminals.len() as f64) as usize;
    terminals[place.min(terminals.len() - 1)]
}

pub(crate) fn normal(mean: f64, deviation: f64, rng: &mut impl Rng) -> f64 {
    Normal::new(mean, deviation).map_or(mean, |normal| normal.sample(rng))
}

/// Terminals by place, in square cells so that the nearest are found without looking at all.
struct TerminalMap {
    places: Vec<(f64, f64)>,
    cells: Vec<Vec<u32>>,
    side: usize,
}

impl TerminalMap {
    fn new(terminals: u32, rng: &mut impl Rng) -> Self {
        let side = ((f64::from(terminals) / 8.0).sqrt() as usize).max(1);
        let mut cells = vec![Vec::new(); side * side];
        let mut places = Vec::with_capacity(terminals as usize);
        for terminal in 0..terminals {
            let place = (rng.random_range(0.0..MAP), rng.random_range(0.0..MAP));
            let (x, y) = Self::cell(place, side);
            cells[x * side + y].push(terminal);
            places.push(place);
        }
        Self {
            places,
            cells,
            side,
        }
    }

    fn cell(place: (f64, f64), side: usize) -> (usize, usize) {
        let index = |v: f64| ((v / MAP * side as f64) as usize).min(side - 1);
        (index(place.0), index(place.1))
    }

    /// About the `count` nearest, nearest first; all if there are fewer.
    fn near(&self, place: (f64, f64), count: usize) -> Vec<u32> {
        let (x, y) = Self::cell(place, self.side);
        let mut found: Vec<u32> = Vec::new();
        for reach in 1..=self.side {
            found.clear();
            for cx in x.saturating_sub(reach)..=(x + reach).min(self.side - 1) {
                for cy in y.saturating_sub(reach)..=(y + reach).min(self.side - 1) {
                    found.extend(&self.cells[cx * self.side + cy]);
                }
            }
            if found.len() >= count {
                break;
            }
        }
        let distance = |terminal: &u32| {
            let (x, y) = self.places[*terminal as usize];
            (x - place.0).powi(2) + (y - place.1).powi(2)
        };
        found.sort_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.cmp(b)));
        found.truncate(count);
        found
    }
}
