-- Features of a card payment made on a device at a terminal. A label row carries the label's value
-- and no amount, so count(amount) counts payments and count(is_fraud) counts known labels.
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
  count(amount) OVER card_1d                                          AS card_count_1d,
  count(amount) OVER card_7d                                          AS card_count_7d,
  count(amount) OVER card_30d                                         AS card_count_30d,
  sum(amount) OVER card_1d                                            AS card_sum_1d,
  avg(amount) OVER card_7d                                            AS card_mean_7d,
  avg(amount) OVER card_30d                                           AS card_mean_30d,
  max(amount) OVER card_30d                                           AS card_max_30d,
  stddev(amount) OVER card_30d                                        AS card_stddev_30d,
  amount / nullif(avg(amount) OVER card_7d, 0)                        AS amount_to_card_mean_7d,
  amount / nullif(avg(amount) OVER card_30d, 0)                       AS amount_to_card_mean_30d,
  amount / nullif(max(amount) OVER card_30d, 0)                       AS amount_to_card_max_30d,
  (amount - avg(amount) OVER card_30d)
    / nullif(stddev(amount) OVER card_30d, 0)                         AS amount_z_card_30d,
  coalesce(sum(is_fraud) OVER card_30d, 0)                            AS card_frauds_30d,

  -- What the terminal has been doing, and what labels have told about it.
  count(amount) OVER terminal_1h                                      AS terminal_count_1h,
  count(amount) OVER terminal_1d                                      AS terminal_count_1d,
  count(amount) OVER terminal_30d                                     AS terminal_count_30d,
  avg(amount) OVER terminal_30d                                       AS terminal_mean_30d,
  amount / nullif(avg(amount) OVER terminal_30d, 0)                   AS amount_to_terminal_mean_30d,
  coalesce(sum(is_fraud) OVER terminal_7d, 0)                         AS terminal_frauds_7d,
  coalesce(sum(is_fraud) OVER terminal_30d, 0)                        AS terminal_frauds_30d,
  avg(is_fraud) OVER terminal_7d                                      AS terminal_fraud_rate_7d,
  avg(is_fraud) OVER terminal_30d                                     AS terminal_fraud_rate_30d,
  (date_part('epoch', event_time)
    - max(CASE WHEN is_fraud = 1 THEN date_part('epoch', event_time) END) OVER terminal_30d)
    / 86400                                                           AS terminal_days_since_fraud,

  -- What others than this card have been doing on the device, and what labels have told about them. A
  -- card's own payments on its own device are the card's history.
  count(amount) OVER device_1h - count(amount) OVER device_card_1h    AS device_others_count_1h,
  count(amount) OVER device_1d - count(amount) OVER device_card_1d    AS device_others_count_1d,
  count(amount) OVER device_30d - count(amount) OVER device_card_30d  AS device_others_count_30d,
  sum(amount) OVER device_1d - sum(amount) OVER device_card_1d        AS device_others_sum_1d,
  (date_part('epoch', event_time)
    - min(CASE WHEN amount IS NOT NULL THEN date_part('epoch', event_time) END) OVER device_30d)
    / 86400                                                           AS device_age_days,
  coalesce(sum(is_fraud) OVER device_7d, 0)
    - coalesce(sum(is_fraud) OVER device_card_7d, 0)                  AS device_others_frauds_7d,
  coalesce(sum(is_fraud) OVER device_30d, 0)
    - coalesce(sum(is_fraud) OVER device_card_30d, 0)                 AS device_others_frauds_30d
FROM events
WINDOW
  card_15m     AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '15 minutes' PRECEDING AND CURRENT ROW),
  card_1h      AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
  card_1d      AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
  card_7d      AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW),
  card_30d     AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW),
  terminal_1h  AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
  terminal_1d  AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
  terminal_7d  AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW),
  terminal_30d AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW),
  device_1h    AS (PARTITION BY device_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
  device_1d    AS (PARTITION BY device_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
  device_7d    AS (PARTITION BY device_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW),
  device_30d   AS (PARTITION BY device_id ORDER BY event_time RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW),
  device_card_1h  AS (PARTITION BY device_id, card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
  device_card_1d  AS (PARTITION BY device_id, card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
  device_card_7d  AS (PARTITION BY device_id, card_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW),
  device_card_30d AS (PARTITION BY device_id, card_id ORDER BY event_time RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW)
