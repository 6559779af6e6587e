"""LightGBM on the rows, features and folds of `sanderling evaluate`, for comparison.

    sanderling features pipelines/fraud-handbook --input DATA --out FEATURES
    sanderling evaluate pipelines/fraud-handbook --input DATA --start 2018-07-25 --exclude-known --scores SCORES
    python docs/against_lightgbm.py DATA FEATURES/features.parquet --start 2018-07-25 [--scores SCORES]

Needs lightgbm, scikit-learn, numpy and pyarrow. DATA is the Fraud-Detection-Handbook's stream as one Parquet file, or another
with columns of the same names, such as `docs/s_ffsd.py` writes.
Prints AUC, average precision and card precision at 100 alerts a day, mean of the folds; with
--scores those of Sanderling's own scores too, on the same rows; of each which share of each kind
of fraud is among the highest 0.7 % of the rows; and both figures again where the payment's card, or its
terminal, has no payment in the training days.
"""

import argparse
import datetime

import lightgbm
import numpy as np
import pyarrow.parquet as pq
from sklearn.metrics import average_precision_score, roc_auc_score

DAY_US = 86_400_000_000
ALERT_SHARE = 0.007
# What the handbook computes of a payment, and the ratios of its amount that anyone would add.
ORDINARY = [
    "amount", "is_night", "is_weekend",
    *(f"card_{what}_{days}d" for what in ("count", "mean") for days in (1, 7, 30)),
    "amount_to_card_mean_7d", "amount_to_card_mean_30d", "amount_to_card_max_30d",
    *(f"terminal_count_{days}d" for days in (1, 7, 30)),
    *(f"terminal_fraud_rate_{days}d" for days in (7, 14, 30, 45)),
]  # fmt: skip


def card_precision(score, fraud, day, card, alerts=100):
    found, shares = set(), []
    for today in np.unique(day):
        at = np.flatnonzero(day == today)
        best, bad = {}, set()
        for row in at[np.argsort(-score[at], kind="stable")]:
            best.setdefault(card[row], score[row])
            if fraud[row]:
                bad.add(card[row])
        cards = [c for c in best if c not in found][:alerts]
        hits = [c for c in cards if c in bad]
        found.update(hits)
        shares.append(len(hits) / alerts)
    return np.mean(shares)


def measure(score, rows, kinds):
    fraud, day, card = rows["fraud"], rows["day"], rows["card"]
    figures = [roc_auc_score(fraud, score), average_precision_score(fraud, score)]
    figures.append(card_precision(score, fraud, day, card))
    alert = score >= np.quantile(score, 1 - ALERT_SHARE)
    return figures + [alert[rows["kind"] == k].mean() if (rows["kind"] == k).any() else np.nan for k in kinds]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("features")
    parser.add_argument("--start", type=datetime.date.fromisoformat, required=True)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--step-days", type=int, default=7)
    parser.add_argument("--train-days", type=int, default=7)
    parser.add_argument("--delay-days", type=int, default=7)
    parser.add_argument("--test-days", type=int, default=7)
    parser.add_argument("--train-from", type=datetime.date.fromisoformat)
    parser.add_argument("--count-known", action="store_true", help="as evaluate without --exclude-known")
    parser.add_argument("--exclude", default="", help="comma-separated features to leave out")
    parser.add_argument("--only", help="comma-separated features to keep, or `ordinary` for " + ", ".join(ORDINARY))
    parser.add_argument("--scores", help="scores of `sanderling evaluate`")
    args = parser.parse_args()

    data, table = pq.read_table(args.data), pq.read_table(args.features)
    place = np.full(int(np.max(data["TRANSACTION_ID"])) + 1, -1)
    ids = data["TRANSACTION_ID"].to_numpy()
    place[ids] = np.arange(len(ids))
    at = place[table["TRANSACTION_ID"].to_numpy()]
    left_out = {"_topic", "_partition", "_offset", "TRANSACTION_ID", "event_time", *args.exclude.split(",")}
    only = ORDINARY if args.only == "ordinary" else args.only.split(",") if args.only else table.column_names
    names = [name for name in table.column_names if name in only and name not in left_out]
    x = np.column_stack([table[name].cast("float64").to_numpy() for name in names])
    time = table["event_time"].cast("timestamp[us]").cast("int64").to_numpy()
    rows = {
        "labelled": ~np.isnan(data["TX_FRAUD"].cast("float64").to_numpy()[at]),
        "fraud": data["TX_FRAUD"].cast("float64").to_numpy()[at] == 1,
        "card": data["CUSTOMER_ID"].to_numpy()[at],
        "terminal": data["TERMINAL_ID"].to_numpy()[at],
        "day": time // DAY_US,
    }
    rows["kind"] = data["TX_FRAUD_SCENARIO"].to_numpy()[at] if "TX_FRAUD_SCENARIO" in data.column_names else rows["fraud"] * 1
    kinds = [k for k in np.unique(rows["kind"]) if k != 0]
    own = None
    if args.scores:
        scores = pq.read_table(args.scores)
        ids, folds = scores["TRANSACTION_ID"].to_numpy(), scores["fold"].to_numpy()
        own = [dict(zip(ids[folds == f], scores["score"].to_numpy()[folds == f])) for f in range(args.folds)]

    first = (args.start - datetime.date(1970, 1, 1)).days
    names_of = ["AUC", "AP", "CP@100"] + [f"kind {k}" for k in kinds]
    print(f"{'':<24}" + "".join(f"{name:>9}" for name in names_of))
    figures = {"LightGBM": [], "Sanderling": []}
    unseen = {(who, key): [] for who in figures for key in ("card", "terminal")}
    for fold in range(args.folds):
        begin = first + fold * args.step_days
        train_end = begin + args.train_days
        test = train_end + args.delay_days
        day, fraud, card = rows["day"], rows["fraud"], rows["card"]
        train_from = (args.train_from - datetime.date(1970, 1, 1)).days if args.train_from else begin
        train = (day >= train_from) & (day < train_end) & rows["labelled"]
        tested = (day >= test) & (day < test + args.test_days) & rows["labelled"]
        if not args.count_known:
            # Cards that are known to be compromised on a test day do not count from then on.
            known_from = {}
            for i in np.flatnonzero(fraud & (day >= begin) & (day < test + args.test_days)):
                known = -1 if day[i] < train_end else day[i] + args.delay_days + 1
                known_from[card[i]] = min(known_from.get(card[i], known), known)
            tested &= np.array([d < known_from.get(c, np.inf) for c, d in zip(card, day)])
        model = lightgbm.LGBMClassifier(
            n_estimators=400, learning_rate=0.03, num_leaves=31, min_child_samples=50,
            colsample_bytree=0.5, subsample=0.8, subsample_freq=1, reg_lambda=5, verbose=-1, n_jobs=1,
        ).fit(x[train], fraud[train])
        test_rows = {key: values[tested] for key, values in rows.items()}
        scores = {"LightGBM": model.predict_proba(x[tested])[:, 1]}
        if own:
            of = own[fold]
            scores["Sanderling"] = np.array([of[i] for i in table["TRANSACTION_ID"].to_numpy()[tested]])
        for who, score in scores.items():
            figures[who].append(measure(score, test_rows, kinds))
            for key in ("card", "terminal"):
                new = ~np.isin(test_rows[key], rows[key][train])
                if test_rows["fraud"][new].any():
                    of_new = test_rows["fraud"][new], score[new]
                    both = [roc_auc_score(*of_new), average_precision_score(*of_new)]
                    unseen[who, key].append([*both, new.sum(), of_new[0].sum()])
            line = "".join(f"{figure:9.3f}" for figure in figures[who][-1])
            print(f"{who:<12}{datetime.date(1970, 1, 1) + datetime.timedelta(days=begin)}  {line}")
    for who, each in figures.items():
        if each:
            print(f"{who:<12}{'mean':<12}" + "".join(f"{figure:9.3f}" for figure in np.mean(each, axis=0)))
            if len(each) > 1:
                print(f"{who:<12}{'spread':<12}" + "".join(f"{figure:9.3f}" for figure in np.std(each, axis=0, ddof=1)))
    for (who, key), each in unseen.items():
        if each:
            auc, precision, count, frauds = np.mean(each, axis=0)
            print(
                f"{who:<12}{key} not in training: AUC {auc:.3f}, AP {precision:.3f}, "
                f"of {count:.0f} rows with {frauds:.1f} frauds a fold ({len(each)} folds)"
            )


if __name__ == "__main__":
    main()
