-- Features of a card payment. A label row carries the label's value and no amount, so
-- count(amount) counts payments and count(is_fraud) counts labels that have become known.
SELECT
  -- The payment itself.
  amount,
  ln(1 + amount)                                                      AS log_amount,
  date_part('hour', event_time)                                       AS hour,
  CASE WHEN date_part('hour', event_time) < 6 THEN 1 ELSE 0 END       AS is_night,
  CASE WHEN date_part('dow', event_time) IN (0, 6) THEN 1 ELSE 0 END  AS is_weekend,

  -- What the card has been doing.
  count(amount) OVER card_15m                                         AS card_count_15m,
  count(amount) OVER card_1h                                          AS card_count_1h,
  count(amount) OVER card_6h                                          AS card_count_6h,
  count(amount) OVER card_1d                                          AS card_count_1d,
  count(amount) OVER card_7d                                          AS card_count_7d,
  count(amount) OVER card_30d                                         AS card_count_30d,
  sum(amount) OVER card_1d                                            AS card_sum_1d,
  avg(amount) OVER card_1d                                            AS card_mean_1d,
  avg(amount) OVER card_7d                                            AS card_mean_7d,
  avg(amount) OVER card_30d                                           AS card_mean_30d,
  max(amount) OVER card_7d                                            AS card_max_7d,
  max(amount) OVER card_30d                                           AS card_max_30d,
  stddev(amount) OVER card_30d                                        AS card_stddev_30d,
  amount / nullif(avg(amount) OVER card_7d, 0)                        AS amount_to_card_mean_7d,
  amount / nullif(avg(amount) OVER card_30d, 0)                       AS amount_to_card_mean_30d,
  amount / nullif(max(amount) OVER card_30d, 0)                       AS amount_to_card_max_30d,
  (amount - avg(amount) OVER card_30d)
    / nullif(stddev(amount) OVER card_30d, 0)                         AS amount_z_card_30d,
  amount / nullif(avg(amount) OVER card_earlier, 0)                   AS amount_to_card_mean_earlier,
  avg(amount) OVER card_7d / nullif(avg(amount) OVER card_earlier, 0) AS card_mean_7d_to_earlier,
  max(amount) OVER card_1d                                            AS card_max_1d,
  stddev(amount) OVER card_7d                                         AS card_stddev_7d,
  stddev(amount) OVER card_earlier                                    AS card_stddev_earlier,
  max(amount) OVER card_earlier                                       AS card_max_earlier,
  amount / nullif(max(amount) OVER card_earlier, 0)                   AS amount_to_card_max_earlier,
  (amount - avg(amount) OVER card_earlier)
    / nullif(stddev(amount) OVER card_earlier, 0)                     AS amount_z_card_earlier,
  max(amount) OVER card_7d / nullif(avg(amount) OVER card_earlier, 0) AS card_max_7d_to_earlier,
  coalesce(sum(is_fraud) OVER card_7d, 0)                             AS card_frauds_7d,
  coalesce(sum(is_fraud) OVER card_30d, 0)                            AS card_frauds_30d,
  avg(is_fraud) OVER card_30d                                         AS card_fraud_rate_30d,
  (date_part('epoch', event_time)
    - max(CASE WHEN is_fraud = 1 THEN date_part('epoch', event_time) END) OVER card_30d)
    / 86400                                                           AS card_days_since_fraud,

  -- What the terminal has been doing.
  count(amount) OVER terminal_1d                                      AS terminal_count_1d,
  count(amount) OVER terminal_7d                                      AS terminal_count_7d,
  count(amount) OVER terminal_30d                                     AS terminal_count_30d,
  avg(amount) OVER terminal_7d                                        AS terminal_mean_7d,
  avg(amount) OVER terminal_30d                                       AS terminal_mean_30d,
  amount / nullif(avg(amount) OVER terminal_30d, 0)                   AS amount_to_terminal_mean_30d,

  -- What labels have told about the terminal. A label is known seven days after its payment, so the
  -- last payment known to be genuine is older than its label by that.
  coalesce(sum(is_fraud) OVER terminal_1d, 0)                         AS terminal_frauds_1d,
  coalesce(sum(is_fraud) OVER terminal_3d, 0)                         AS terminal_frauds_3d,
  coalesce(sum(is_fraud) OVER terminal_7d, 0)                         AS terminal_frauds_7d,
  coalesce(sum(is_fraud) OVER terminal_14d, 0)                        AS terminal_frauds_14d,
  coalesce(sum(is_fraud) OVER terminal_21d, 0)                        AS terminal_frauds_21d,
  coalesce(sum(is_fraud) OVER terminal_30d, 0)                        AS terminal_frauds_30d,
  coalesce(sum(is_fraud) OVER terminal_45d, 0)                        AS terminal_frauds_45d,
  count(is_fraud) OVER terminal_7d                                    AS terminal_labels_7d,
  count(is_fraud) OVER terminal_14d                                   AS terminal_labels_14d,
  count(is_fraud) OVER terminal_30d                                   AS terminal_labels_30d,
  avg(is_fraud) OVER terminal_3d                                      AS terminal_fraud_rate_3d,
  avg(is_fraud) OVER terminal_7d                                      AS terminal_fraud_rate_7d,
  avg(is_fraud) OVER terminal_14d                                     AS terminal_fraud_rate_14d,
  avg(is_fraud) OVER terminal_21d                                     AS terminal_fraud_rate_21d,
  avg(is_fraud) OVER terminal_30d                                     AS terminal_fraud_rate_30d,
  avg(is_fraud) OVER terminal_45d                                     AS terminal_fraud_rate_45d,
  (date_part('epoch', event_time)
    - max(CASE WHEN is_fraud = 1 THEN date_part('epoch', event_time) END) OVER terminal_45d)
    / 86400                                                           AS terminal_days_since_fraud,
  (date_part('epoch', event_time)
    - min(CASE WHEN is_fraud = 1 THEN date_part('epoch', event_time) END) OVER terminal_30d)
    / 86400                                                           AS terminal_days_since_first_fraud,
  (date_part('epoch', event_time)
    - max(CASE WHEN is_fraud = 0 THEN date_part('epoch', event_time) END) OVER terminal_45d)
    / 86400 + 7                                                       AS terminal_days_unknown
FROM events
WINDOW
  card_15m     AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '15 minutes' PRECEDING AND CURRENT ROW),
  card_1h      AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
  card_6h      AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '6 hours' PRECEDING AND CURRENT ROW),
  card_1d      AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
  card_7d      AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW),
  card_30d     AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW),
  card_earlier AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '37 days' PRECEDING AND INTERVAL '7 days' PRECEDING),
  terminal_1d  AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
  terminal_3d  AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '3 days' PRECEDING AND CURRENT ROW),
  terminal_7d  AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW),
  terminal_14d AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '14 days' PRECEDING AND CURRENT ROW),
  terminal_21d AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '21 days' PRECEDING AND CURRENT ROW),
  terminal_30d AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW),
  terminal_45d AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '45 days' PRECEDING AND CURRENT ROW)
