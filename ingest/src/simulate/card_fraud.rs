//! Card payments with three kinds of planted fraud.
//!
//! Cards have a home on a square map, a habit of spending (log-normal amounts around a level of
//! their own, which differs widely between cards), a rate of payments, a rhythm of the day, some
//! terminals near home that they prefer, and one or two devices. About 1 % of payments are fraud,
//! in equal parts of three kinds; `fraud_kind` names the kind and so the cause to be found:
//!
//! - `stolen_card`: for two to six days a thief pays beside the owner, in bursts of two to five
//!   payments within the hour, each three to eight times the card's own habit, on the card's own
//!   device and at its usual terminals. The cause is in the **card**'s history: the amounts are
//!   large for this card and ordinary for another.
//! - `skimmed_terminal`: for 28 days three in five payments at one terminal are fraud, with
//!   amounts, times, cards and devices like any other. The cause is in the **terminal**'s history
//!   and shows only in its labels.
//! - `device_ring`: for two to four days one device, a new one or one with a past, pays with many
//!   cards in bursts of four to ten, with amounts usual for each card. The cause is in the
//!   **device**'s history.
//!
//! So that none of this is trivial, genuine customers sometimes pay much more than usual, shop in
//! bursts, travel, get new devices, share one within a household, or use a public one.
//!
//! A seed gives the same payments, in order of time, whatever is done with them. They are made a
//! day at a time, so memory does not grow with the number of days.

use rand::Rng;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson};
use serde_json::json;

use crate::IngestError;
use crate::simulate::fraud::Campaigns;
use crate::simulate::population::Population;

/// Milliseconds of a day.
pub(crate) const DAY_MS: i64 = 86_400_000;
/// 2025-01-01, milliseconds since 1970 UTC.
pub const START_MS: i64 = 1_735_689_600_000;

/// Which stream to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The same seed gives the same payments.
    pub seed: u64,
    /// Number of days.
    pub days: u32,
    /// Start of the first day, milliseconds since 1970 UTC.
    pub start_ms: i64,
    /// Number of cards.
    pub cards: u32,
    /// Number of terminals.
    pub terminals: u32,
    /// Mean number of payments of a card on a day.
    pub payments_per_card_day: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            days: 30,
            start_ms: START_MS,
            cards: 2_000,
            terminals: 4_000,
            payments_per_card_day: 2.0,
        }
    }
}

/// A planted cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FraudKind {
    /// Large for the card.
    StolenCard,
    /// At a terminal that leaks cards.
    SkimmedTerminal,
    /// On a device that goes through many cards.
    DeviceRing,
}

impl FraudKind {
    /// All of them.
    pub const ALL: [FraudKind; 3] = [
        FraudKind::StolenCard,
        FraudKind::SkimmedTerminal,
        FraudKind::DeviceRing,
    ];

    /// Value of the column `fraud_kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            FraudKind::StolenCard => "stolen_card",
            FraudKind::SkimmedTerminal => "skimmed_terminal",
            FraudKind::DeviceRing => "device_ring",
        }
    }
}

/// One payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payment {
    /// Its number in the order of time, from 0.
    pub number: u64,
    /// When, milliseconds since 1970 UTC.
    pub tx_time_ms: i64,
    /// Number of the card.
    pub card: u32,
    /// Number of the terminal.
    pub terminal: u32,
    /// Number of the device.
    pub device: u32,
    /// Amount in hundredths.
    pub amount_cents: i64,
    /// Its cause, if it is a fraud.
    pub fraud: Option<FraudKind>,
}

impl Payment {
    /// `transaction_id`.
    pub fn transaction_id(&self) -> String {
        format!("T{:09}", self.number)
    }

    /// `card_id`.
    pub fn card_id(&self) -> String {
        format!("C{:06}", self.card)
    }

    /// `terminal_id`.
    pub fn terminal_id(&self) -> String {
        format!("M{:06}", self.terminal)
    }

    /// `device_id`.
    pub fn device_id(&self) -> String {
        format!("D{:06}", self.device)
    }

    /// The payment with its truth, as a line of a .jsonl file.
    pub fn to_json(&self) -> String {
        let (fraud, kind) = match self.fraud {
            Some(kind) => (1, format!("\"{}\"", kind.as_str())),
            None => (0, "null".into()),
        };
        let event = self.event_fields(self.tx_time_ms);
        format!("{{{event},\"is_fraud\":{fraud},\"fraud_kind\":{kind}}}")
    }

    /// The payment as it stands on a topic, where nobody knows the truth yet; made at `tx_time_ms`.
    pub fn to_event_json(&self, tx_time_ms: i64) -> String {
        format!("{{{}}}", self.event_fields(tx_time_ms))
    }

    /// Its label as it stands on a topic, known from `known_at_ms` on.
    pub fn to_label_json(&self, known_at_ms: i64) -> String {
        let label = json!({
            "transaction_id": self.transaction_id(),
            "card_id": self.card_id(),
            "known_at": known_at_ms,
            "is_fraud": i64::from(self.fraud.is_some()),
        });
        label.to_string()
    }

    fn event_fields(&self, tx_time_ms: i64) -> String {
        format!(
            "\"transaction_id\":\"{}\",\"tx_time\":{tx_time_ms},\"card_id\":\"{}\",\
             \"terminal_id\":\"{}\",\"device_id\":\"{}\",\"amount\":{}.{:02}",
            self.transaction_id(),
            self.card_id(),
            self.terminal_id(),
            self.device_id(),
            self.amount_cents / 100,
            self.amount_cents % 100,
        )
    }
}

/// The payments of a seed, in order of time.
pub struct Simulator {
    options: Options,
    rng: ChaCha8Rng,
    population: Population,
    campaigns: Campaigns,
    day: u32,
    number: u64,
    /// Payments of the current day that have not been given out, latest first.
    today: Vec<Payment>,
}

impl Simulator {
    /// A simulator of `options`. Fails without cards or terminals.
    pub fn new(options: Options) -> Result<Self, IngestError> {
        let rate = options.payments_per_card_day;
        if options.cards == 0 || options.terminals == 0 || !(rate > 0.0 && rate <= 1000.0) {
            return Err(IngestError::Declaration {
                stream: "card-fraud".into(),
                message:
                    "a simulation needs cards, terminals and 0 to 1000 payments a card and day"
                        .into(),
            });
        }
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let population = Population::new(options.cards, options.terminals, rate, &mut rng);
        let campaigns = Campaigns::new(&population, f64::from(options.cards) * rate, &mut rng);
        Ok(Self {
            options,
            rng,
            population,
            campaigns,
            day: 0,
            number: 0,
            today: Vec::new(),
        })
    }

    /// How many payments are to be expected in all.
    pub fn payments_expected(&self) -> u64 {
        let per_day = f64::from(self.options.cards) * self.options.payments_per_card_day;
        (per_day * f64::from(self.options.days)) as u64
    }

    fn make_day(&mut self) {
        let day_ms = self.options.start_ms + i64::from(self.day) * DAY_MS;
        let rng = &mut self.rng;
        self.population.new_day(rng);
        self.campaigns.new_day(&mut self.population, rng);
        let mut drafts = Vec::new();
        for card in 0..self.options.cards {
            let rate = self.population.cards[card as usize].payments_per_day;
            let count = Poisson::new(rate).map_or(0.0, |poisson| poisson.sample(rng)) as u32;
            for _ in 0..count {
                self.population.genuine(card, rng, &mut drafts);
            }
        }
        for payment in &mut drafts {
            if self.campaigns.skims(payment.terminal, rng) {
                payment.fraud = Some(FraudKind::SkimmedTerminal);
            }
        }
        self.campaigns.pay(&self.population, rng, &mut drafts);
        // Equal times stand in no order of their making.
        drafts.shuffle(rng);
        drafts.sort_by_key(|payment| payment.at_ms);
        self.today
            .extend(drafts.iter().enumerate().map(|(index, draft)| Payment {
                number: self.number + index as u64,
                tx_time_ms: day_ms + draft.at_ms,
                card: draft.card,
                terminal: draft.terminal,
                device: draft.device,
                amount_cents: draft.amount_cents,
                fraud: draft.fraud,
            }));
        self.today.reverse();
        self.number += drafts.len() as u64;
        self.day += 1;
    }
}

impl Iterator for Simulator {
    type Item = Payment;

    fn next(&mut self) -> Option<Payment> {
        while self.today.is_empty() && self.day < self.options.days {
            self.make_day();
        }
        self.today.pop()
    }
}

/// A payment before it has a number.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    /// Milliseconds since the day's start.
    pub at_ms: i64,
    pub card: u32,
    pub terminal: u32,
    pub device: u32,
    pub amount_cents: i64,
    pub fraud: Option<FraudKind>,
}

/// `at_ms` and up to `spread_ms` after it, within the day.
pub(crate) fn soon_after(at_ms: i64, spread_ms: i64, rng: &mut impl Rng) -> i64 {
    (at_ms + rng.random_range(0..=spread_ms)).min(DAY_MS - 1)
}
