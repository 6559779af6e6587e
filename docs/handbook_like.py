"""Makes a stream in the way of the Fraud-Detection-Handbook's, of another seed and, if wanted, with drift.

    python docs/handbook_like.py 101 handbook-like.parquet --drift

What is tuned on the handbook's own stream can be tried on these. 5,000 cards and 10,000 terminals on a square, 157 days: a card pays
at the terminals within 5 of it, so often a day and such amounts as are its own. Fraud are amounts over 220 (kind 1), all payments
of a compromised terminal for 28 days (2), and a third of those of a compromised card for 14 days, five times as large (3). With drift the
rates and amounts of cards wander, 90 % of a compromised terminal's payments are fraud, one to three terminals a day are compromised, by months, for 14 to 42 days,
and amounts are 3 to 6 times as large. Needs numpy and pyarrow. The columns are the handbook's; `pipelines/fraud-handbook` reads them.
"""

import argparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CARDS, TERMINALS, DAYS = 5_000, 10_000, 157
START = np.datetime64("2018-04-01T00:00:00", "us")
DAY_S = 86_400


def payments(random, drift):
    """Seconds, card, terminal and amount of every payment, in order of time."""
    card_at, terminal_at = random.uniform(0, 100, (CARDS, 2)), random.uniform(0, 100, (TERMINALS, 2))
    mean, a_day = random.uniform(5, 100, CARDS), random.uniform(0, 4, CARDS)
    rows = []
    for card in range(CARDS):
        near = np.flatnonzero(np.sqrt(((terminal_at - card_at[card]) ** 2).sum(1)) < 5)
        if len(near) == 0:
            continue
        for day in range(DAYS):
            wandered = 1 + (0.3 * np.sin(day / 25 + card % 7) if drift else 0)
            for _ in range(random.poisson(a_day[card] * wandered)):
                second = int(random.normal(43_200, 20_000))
                if not 0 < second < DAY_S:
                    continue
                middle = mean[card] * (1 + 0.15 * drift * day / DAYS)
                amount = random.normal(middle, middle / 2)
                if amount < 0:
                    amount = random.uniform(0, 2 * middle)
                rows.append((day * DAY_S + second, card, random.choice(near), round(amount, 2)))
    columns = [np.array(column) for column in zip(*rows)]
    order = np.argsort(columns[0], kind="stable")
    return [column[order] for column in columns]


def rows_by(keys):
    """The rows of each key, in order."""
    order = np.argsort(keys, kind="stable")
    known, first = np.unique(keys[order], return_index=True)
    return dict(zip(known, np.split(order, first[1:])))


def compromise(random, drift, seed, second, card, terminal, amount):
    """The kind of fraud that each payment is, 0 for none; changes amounts."""
    day, kind, none = second // DAY_S, np.where(amount > 220, 1, 0), np.array([], int)
    of_terminal, of_card = rows_by(terminal), rows_by(card)
    for today in range(DAYS):
        terminals = 1 + (today // 30 + seed) % 3 if drift else 2
        for one in random.choice(TERMINALS, terminals, replace=False):
            days = int(random.integers(14, 43)) if drift else 28
            rows = of_terminal.get(one, none)
            rows = rows[(day[rows] >= today) & (day[rows] < today + days)]
            if drift:
                rows = rows[random.random(len(rows)) < 0.9]
            kind[rows] = 2
        for one in random.choice(CARDS, 3, replace=False):
            rows = of_card.get(one, none)
            rows = rows[(day[rows] >= today) & (day[rows] < today + 14)]
            if len(rows) >= 3:
                rows = random.choice(rows, len(rows) // 3, replace=False)
                amount[rows] = np.round(amount[rows] * (random.uniform(3, 6) if drift else 5), 2)
                kind[rows] = 3
    return kind


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int)
    parser.add_argument("out")
    parser.add_argument("--drift", action="store_true")
    args = parser.parse_args()
    random = np.random.default_rng(args.seed)
    second, card, terminal, amount = payments(random, args.drift)
    kind = compromise(random, args.drift, args.seed, second, card, terminal, amount)
    table = {
        "TRANSACTION_ID": np.arange(len(second)),
        "TX_DATETIME": START + (second * 1_000_000).astype("timedelta64[us]"),
        "CUSTOMER_ID": card.astype(str),
        "TERMINAL_ID": terminal.astype(str),
        "TX_AMOUNT": amount,
        "TX_TIME_SECONDS": second,
        "TX_TIME_DAYS": second // DAY_S,
        "TX_FRAUD": (kind > 0).astype(int),
        "TX_FRAUD_SCENARIO": kind,
    }
    pq.write_table(pa.table(table), args.out)
    print(f"{len(second)} payments, {(kind > 0).mean():.2%} fraud; of each kind {np.bincount(kind)[1:].tolist()}")


if __name__ == "__main__":
    main()
