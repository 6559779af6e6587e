-- Features of a payment. A label row carries the label's value and no amount, so count(amount) counts
-- payments and count(is_fraud) counts labels that have become known. A day is a thousand payments.
SELECT
  amount,
  ln(1 + amount)                                                      AS log_amount,

  -- What the payer has been doing.
  (date_part('epoch', event_time)
    - max(CASE WHEN amount IS NOT NULL THEN date_part('epoch', event_time) END) OVER source_before)
    / 86400                                                           AS source_days_since_last,
  count(amount) OVER source_tenth                                     AS source_count_tenth,
  count(amount) OVER source_1d                                        AS source_count_1d,
  count(amount) OVER source_7d                                        AS source_count_7d,
  count(amount) OVER source_28d                                       AS source_count_28d,
  avg(amount) OVER source_7d                                          AS source_mean_7d,
  avg(amount) OVER source_28d                                         AS source_mean_28d,
  max(amount) OVER source_28d                                         AS source_max_28d,
  stddev(amount) OVER source_28d                                      AS source_stddev_28d,
  amount / nullif(avg(amount) OVER source_28d, 0)                     AS amount_to_source_mean_28d,
  count(distinct target) FILTER (WHERE stream = 'transactions')
    OVER source_28d                                                   AS source_targets_28d,
  count(distinct location) FILTER (WHERE stream = 'transactions')
    OVER source_28d                                                   AS source_locations_28d,
  count(distinct kind) FILTER (WHERE stream = 'transactions')
    OVER source_28d                                                   AS source_kinds_28d,
  coalesce(sum(is_fraud) OVER source_28d, 0)                          AS source_frauds_28d,
  count(is_fraud) OVER source_28d                                     AS source_labels_28d,
  avg(is_fraud) OVER source_28d                                       AS source_fraud_rate_28d,

  -- What the payee has been doing, and what labels have told of it.
  (date_part('epoch', event_time)
    - max(CASE WHEN amount IS NOT NULL THEN date_part('epoch', event_time) END) OVER target_before)
    / 86400                                                           AS target_days_since_last,
  count(amount) OVER target_tenth                                     AS target_count_tenth,
  count(amount) OVER pair_28d                                         AS pair_count_28d,
  count(amount) OVER target_1d                                        AS target_count_1d,
  count(amount) OVER target_7d                                        AS target_count_7d,
  avg(amount) OVER target_7d                                          AS target_mean_7d,
  stddev(amount) OVER target_7d                                       AS target_stddev_7d,
  amount / nullif(avg(amount) OVER target_7d, 0)                      AS amount_to_target_mean_7d,
  count(distinct source) FILTER (WHERE stream = 'transactions')
    OVER target_7d                                                    AS target_sources_7d,
  coalesce(sum(is_fraud) OVER target_7d, 0)                           AS target_frauds_7d,
  count(is_fraud) OVER target_7d                                      AS target_labels_7d,
  avg(is_fraud) OVER target_3d                                        AS target_fraud_rate_3d,
  avg(is_fraud) OVER target_7d                                        AS target_fraud_rate_7d,
  avg(is_fraud) OVER target_28d                                       AS target_fraud_rate_28d,

  -- The same of the place and of the kind of payment.
  count(amount) OVER location_tenth                                   AS location_count_tenth,
  count(amount) OVER kind_tenth                                       AS kind_count_tenth,
  count(amount) OVER location_1d                                      AS location_count_1d,
  count(amount) OVER location_7d                                      AS location_count_7d,
  avg(amount) OVER location_7d                                        AS location_mean_7d,
  amount / nullif(avg(amount) OVER location_7d, 0)                    AS amount_to_location_mean_7d,
  avg(is_fraud) OVER location_7d                                      AS location_fraud_rate_7d,
  avg(is_fraud) OVER location_28d                                     AS location_fraud_rate_28d,
  count(is_fraud) OVER location_28d                                   AS location_labels_28d,
  count(amount) OVER kind_1d                                          AS kind_count_1d,
  count(amount) OVER kind_7d                                          AS kind_count_7d,
  avg(amount) OVER kind_7d                                            AS kind_mean_7d,
  amount / nullif(avg(amount) OVER kind_7d, 0)                        AS amount_to_kind_mean_7d,
  avg(is_fraud) OVER kind_7d                                          AS kind_fraud_rate_7d,
  avg(is_fraud) OVER kind_28d                                         AS kind_fraud_rate_28d,
  count(is_fraud) OVER kind_28d                                       AS kind_labels_28d
FROM events
WINDOW
  source_before AS (PARTITION BY source ORDER BY event_time RANGE BETWEEN INTERVAL '60 days' PRECEDING AND INTERVAL '1 second' PRECEDING),
  target_before AS (PARTITION BY target ORDER BY event_time RANGE BETWEEN INTERVAL '60 days' PRECEDING AND INTERVAL '1 second' PRECEDING),
  source_tenth AS (PARTITION BY source ORDER BY event_time RANGE BETWEEN INTERVAL '144 minutes' PRECEDING AND CURRENT ROW),
  target_tenth AS (PARTITION BY target ORDER BY event_time RANGE BETWEEN INTERVAL '144 minutes' PRECEDING AND CURRENT ROW),
  location_tenth AS (PARTITION BY location ORDER BY event_time RANGE BETWEEN INTERVAL '144 minutes' PRECEDING AND CURRENT ROW),
  kind_tenth AS (PARTITION BY kind ORDER BY event_time RANGE BETWEEN INTERVAL '144 minutes' PRECEDING AND CURRENT ROW),
  pair_28d AS (PARTITION BY source, target ORDER BY event_time RANGE BETWEEN INTERVAL '28 days' PRECEDING AND CURRENT ROW),
  source_1d    AS (PARTITION BY source ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
  source_7d    AS (PARTITION BY source ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW),
  source_28d AS (PARTITION BY source ORDER BY event_time RANGE BETWEEN INTERVAL '28 days' PRECEDING AND CURRENT ROW),
  target_1d    AS (PARTITION BY target ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
  target_3d    AS (PARTITION BY target ORDER BY event_time RANGE BETWEEN INTERVAL '3 days' PRECEDING AND CURRENT ROW),
  target_7d    AS (PARTITION BY target ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW),
  target_28d AS (PARTITION BY target ORDER BY event_time RANGE BETWEEN INTERVAL '28 days' PRECEDING AND CURRENT ROW),
  location_1d  AS (PARTITION BY location ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
  location_7d  AS (PARTITION BY location ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW),
  location_28d AS (PARTITION BY location ORDER BY event_time RANGE BETWEEN INTERVAL '28 days' PRECEDING AND CURRENT ROW),
  kind_1d      AS (PARTITION BY kind ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
  kind_7d      AS (PARTITION BY kind ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW),
  kind_28d AS (PARTITION BY kind ORDER BY event_time RANGE BETWEEN INTERVAL '28 days' PRECEDING AND CURRENT ROW)
