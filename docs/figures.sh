#!/bin/sh
# The figures of the README: replay speed and prequential quality on the public
# Fraud-Detection-Handbook stream, given as one Parquet file.
#   docs/figures.sh PATH-TO-SANDERLING PATH-TO-PARQUET
set -eu
bin=$1
data=$2
pipeline=pipelines/fraud-handbook
out=${OUT:-out/figures}
mkdir -p "$out"

fold="--start 2018-07-25 --folds 4 --step-days 7 --train-days 7 --delay-days 7 --test-days 7 --exclude-known"

echo "# evaluate: the pipeline as it is, three seeds"
for seed in 1 2 3; do
    # shellcheck disable=SC2086
    "$bin" evaluate $pipeline --input "$data" $fold --seed $seed --scores "$out/scores-$seed.parquet" --json \
        | tee "$out/evaluate-$seed.json"
done

echo "# evaluate: without the graph layer"
# shellcheck disable=SC2086
"$bin" evaluate $pipeline --input "$data" $fold --set model.graph=false --json | tee "$out/evaluate-no-graph.json"

echo "# evaluate: without anything the terminal knows"
# shellcheck disable=SC2086
"$bin" evaluate $pipeline --input "$data" $fold --set model.graph=false --set 'model.exclude=["terminal_*", "amount_to_terminal_*"]' --json \
    | tee "$out/evaluate-no-terminal.json"

echo "# replay: every feature and score, attributions for what is not approved"
"$bin" train $pipeline --input "$data" --from 2018-07-25 --to 2018-08-08 --seed 1 --out "$out/model"
"$bin" replay $pipeline --model "$out/model" --input "$data" --out "$out/replay" --json
