//! Planted fraud: campaigns that begin, last some days and end.

use rand::Rng;
use rand_distr::{Distribution, Poisson};

use crate::simulate::card_fraud::{DAY_MS, Draft, FraudKind, soon_after};
use crate::simulate::population::{Population, favourite};

/// Share of all payments that each kind makes up.
const SHARE_OF_EACH_KIND: f64 = 0.0035;
/// Days that a terminal stays skimmed, and the share of its payments that are then fraud.
const SKIMMED_DAYS: u32 = 28;
const SKIMMED_SHARE: f64 = 0.6;
/// Frauds to expect of one stolen card, and of one ring.
const FRAUDS_OF_A_THEFT: f64 = 21.0;
const FRAUDS_OF_A_RING: f64 = 31.5;

pub(crate) struct Campaigns {
    stolen: Vec<Running>,
    skimmed: Vec<Running>,
    rings: Vec<Running>,
    payments_per_day: f64,
}

/// A campaign on one card, terminal or device.
struct Running {
    target: u32,
    days_left: u32,
}

impl Campaigns {
    /// Campaigns as if they had been beginning for long.
    pub fn new(population: &Population, payments_per_day: f64, rng: &mut impl Rng) -> Self {
        let (stolen, skimmed, rings) = (Vec::new(), Vec::new(), Vec::new());
        let mut campaigns = Self {
            stolen,
            skimmed,
            rings,
            payments_per_day,
        };
        for _ in 0..SKIMMED_DAYS {
            campaigns.age();
            campaigns.begin_skimming(population, rng);
        }
        campaigns
    }

    pub fn new_day(&mut self, population: &mut Population, rng: &mut impl Rng) {
        self.age();
        self.begin_skimming(population, rng);
        let frauds = self.payments_per_day * SHARE_OF_EACH_KIND;
        for _ in 0..count(frauds / FRAUDS_OF_A_THEFT, rng) {
            let (target, days_left) = (population.any_card(rng), rng.random_range(2..=6));
            self.stolen.push(Running { target, days_left });
        }
        for _ in 0..count(frauds / FRAUDS_OF_A_RING, rng) {
            let target = if rng.random_bool(0.5) {
                population.new_device()
            } else {
                population.cards[population.any_card(rng) as usize].devices[0]
            };
            self.rings.push(Running {
                target,
                days_left: rng.random_range(2..=4),
            });
        }
    }

    /// Whether a payment at `terminal` is made with skimmed data.
    pub fn skims(&self, terminal: u32, rng: &mut impl Rng) -> bool {
        self.skimmed.iter().any(|s| s.target == terminal) && rng.random_bool(SKIMMED_SHARE)
    }

    /// The day's payments of thieves and rings.
    pub fn pay(&self, population: &Population, rng: &mut impl Rng, drafts: &mut Vec<Draft>) {
        for theft in &self.stolen {
            let card = &population.cards[theft.target as usize];
            for _ in 0..rng.random_range(1..=2) {
                let from_ms = population.usual_time(theft.target, rng);
                for _ in 0..rng.random_range(2..=5) {
                    let factor = rng.random_range(3.0..8.0);
                    drafts.push(Draft {
                        at_ms: soon_after(from_ms, 3_600_000, rng),
                        card: theft.target,
                        terminal: favourite(&card.terminals, rng),
                        device: card.devices[0],
                        amount_cents: population.usual_amount(theft.target, factor, rng),
                        fraud: Some(FraudKind::StolenCard),
                    });
                }
            }
        }
        for ring in &self.rings {
            for _ in 0..rng.random_range(1..=2) {
                let from_ms = rng.random_range(DAY_MS / 3..DAY_MS - DAY_MS / 12);
                for _ in 0..rng.random_range(4..=10) {
                    let card = population.any_card(rng);
                    drafts.push(Draft {
                        at_ms: soon_after(from_ms, 2_400_000, rng),
                        card,
                        terminal: favourite(&population.cards[card as usize].terminals, rng),
                        device: ring.target,
                        amount_cents: population.usual_amount(card, 1.1, rng),
                        fraud: Some(FraudKind::DeviceRing),
                    });
                }
            }
        }
    }

    fn age(&mut self) {
        for running in [&mut self.stolen, &mut self.skimmed, &mut self.rings] {
            running
                .iter_mut()
                .for_each(|campaign| campaign.days_left -= 1);
            running.retain(|campaign| campaign.days_left > 0);
        }
    }

    fn begin_skimming(&mut self, population: &Population, rng: &mut impl Rng) {
        let terminals = f64::from(population.terminals());
        let a_terminal =
            self.payments_per_day / terminals * SKIMMED_SHARE * f64::from(SKIMMED_DAYS);
        let frauds = self.payments_per_day * SHARE_OF_EACH_KIND;
        for _ in 0..count(frauds / a_terminal, rng) {
            let target = rng.random_range(0..population.terminals());
            self.skimmed.push(Running {
                target,
                days_left: SKIMMED_DAYS,
            });
        }
    }
}

fn count(mean: f64, rng: &mut impl Rng) -> u32 {
    Poisson::new(mean).map_or(0.0, |poisson| poisson.sample(rng)) as u32
}
