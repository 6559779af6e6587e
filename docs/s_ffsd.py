"""Rewrites the public S-FFSD file as a stream that `pipelines/s-ffsd` reads.

    python docs/s_ffsd.py S-FFSD.csv s-ffsd.parquet

The file knows the order of its payments and no times; here a day passes with every thousand of them. Payments without a
label keep none. Needs pyarrow; reads .csv and .csv.gz. Then, for the figures of the README:

    sanderling evaluate pipelines/s-ffsd --input s-ffsd.parquet --start 2020-01-01 --folds 1 --train-days 28 --delay-days 1 \\
        --test-days 18 --scores scores.parquet
    sanderling features pipelines/s-ffsd --input s-ffsd.parquet --out features
    python docs/against_lightgbm.py s-ffsd.parquet features/features.parquet --start 2020-01-01 --folds 1 --train-days 28 \\
        --delay-days 1 --test-days 18 --count-known --scores scores.parquet
"""

import argparse

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

DAY_US = 86_400_000_000
PAYMENTS_A_DAY = 1_000
# 2020-01-01.
START_US = 1_577_836_800_000_000
UNLABELLED = 2


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv")
    parser.add_argument("out")
    args = parser.parse_args()
    rows = pyarrow.csv.read_csv(args.csv)
    times = [START_US + i * DAY_US // PAYMENTS_A_DAY for i in range(rows.num_rows)]
    labels = rows["Labels"].cast(pa.int64())
    table = pa.table(
        {
            "TRANSACTION_ID": pa.array(range(rows.num_rows), pa.int64()),
            "TX_DATETIME": pa.array(times, pa.timestamp("us")),
            "CUSTOMER_ID": rows["Source"],
            "TERMINAL_ID": rows["Target"],
            "LOCATION": rows["Location"],
            "KIND": rows["Type"],
            "TX_AMOUNT": rows["Amount"],
            "TX_FRAUD": pc.if_else(pc.equal(labels, UNLABELLED), pa.scalar(None, pa.int64()), labels),
        }
    )
    pyarrow.parquet.write_table(table, args.out)
    print(f"{table.num_rows} payments, {pc.count(table['TX_FRAUD']).as_py()} labelled")


if __name__ == "__main__":
    main()
