import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import java.util.stream.Stream;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * The foreign clients of the latency bench, each a process of its own: a paced producer, a reader that
 * measures, and a bare copy to compare with.
 *
 * <pre>
 * Latency produce BOOTSTRAP TOPIC FILE COPIES HOT RATExSECONDS[,..]
 * Latency read BOOTSTRAP EVENTS DECISIONS       then `report FROM_MS TO_MS ..` a line, of events appended within
 * Latency copy BOOTSTRAP FROM TO exactly_once|at_least_once INTERVAL_MS       until its input ends
 * </pre>
 */
public class Latency {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final String[] RUNGS = {"full", "no_graph", "linear", "rules"};
    /** What a sample says of a decision: the lowest bits are its rung. */
    private static final long RUNG = 7;
    private static final long BACKLOG = 8;
    private static final long ALERT = 16;

    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "produce" -> new Producer(args).run();
            case "read" -> new Reader(args).run();
            case "copy" -> copy(args);
            default -> throw new IllegalArgumentException(args[0]);
        }
        Runtime.getRuntime().halt(0);
    }

    private static Properties client(String bootstrap) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        return properties;
    }

    /** Says what came of it, one object a line. */
    private static void say(ObjectNode said) throws Exception {
        System.out.println(JSON.writeValueAsString(said));
    }

    /**
     * Payments of a file, sent at a rate whatever the broker does about it. COPIES populations of cards,
     * terminals and devices send the file's payments in turn, at the times that the file tells, on and on: a
     * card pays as often as a card does, and as few payments look like fraud. Of HOT per cent of them the
     * terminal is the same one.
     */
    private static class Producer {
        private final String bootstrap;
        private final String topic;
        private final int copies;
        private final int hot;
        private final String phases;
        private final List<String[]> payments = new ArrayList<>();
        private final List<Long> times = new ArrayList<>();

        Producer(String[] args) throws Exception {
            bootstrap = args[1];
            topic = args[2];
            copies = Integer.parseInt(args[4]);
            hot = Integer.parseInt(args[5]);
            phases = args[6];
            try (Stream<String> lines = Files.lines(Path.of(args[3]))) {
                for (String line : (Iterable<String>) lines::iterator) {
                    JsonNode p = JSON.readTree(line);
                    payments.add(new String[] {
                        p.get("card_id").asText(), p.get("terminal_id").asText(), p.get("device_id").asText(),
                        p.get("amount").asText(),
                    });
                    times.add(p.get("tx_time").asLong());
                }
            }
        }

        void run() throws Exception {
            ByteArraySerializer bytes = new ByteArraySerializer();
            AtomicReference<Exception> failed = new AtomicReference<>();
            try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(client(bootstrap), bytes, bytes)) {
                long sent = 0;
                long span = times.get(times.size() - 1) - times.get(0) + 1;
                for (String phase : phases.split(",")) {
                    String[] parts = phase.split("x");
                    long rate = Long.parseLong(parts[0]);
                    long rows = rate * Long.parseLong(parts[1]);
                    long began = System.nanoTime();
                    long beganMs = System.currentTimeMillis();
                    long behindNs = 0;
                    for (long row = 0; row < rows; row++) {
                        long due = began + row * 1_000_000_000L / rate;
                        long now = System.nanoTime();
                        behindNs = Math.max(behindNs, now - due);
                        for (; now < due; now = System.nanoTime()) {
                            LockSupport.parkNanos(due - now);
                        }
                        int at = (int) (sent / copies % payments.size());
                        long time = times.get(at) + sent / copies / payments.size() * span;
                        String[] payment = payments.get(at);
                        long copy = sent % copies;
                        String card = payment[0] + "-" + copy;
                        String terminal = sent % 100 < hot ? "HOT" : payment[1] + "-" + copy;
                        String value = "{\"transaction_id\":\"T" + sent + "\",\"tx_time\":" + time
                                + ",\"card_id\":\"" + card + "\",\"terminal_id\":\"" + terminal + "\",\"device_id\":\""
                                + payment[2] + "-" + copy + "\",\"amount\":" + payment[3] + "}";
                        producer.send(new ProducerRecord<>(topic, utf8(card), utf8(value)), (where, e) -> {
                            if (e != null) {
                                failed.set(e);
                            }
                        });
                        sent++;
                    }
                    producer.flush();
                    if (failed.get() != null) {
                        throw failed.get();
                    }
                    say(JSON.createObjectNode().put("rate", rate).put("sent", rows).put("from_ms", beganMs)
                            .put("to_ms", System.currentTimeMillis()).put("behind_ms_max", behindNs / 1_000_000));
                }
            }
        }
    }

    /**
     * Reads events and decisions as any consumer would, read_committed, and takes the time from the broker's
     * append of an event to the receipt of the decision about it. The broker tells milliseconds, so a time
     * is up to one of them too long.
     */
    private static class Reader {
        private final String bootstrap;
        private final String events;
        private final String decisions;
        /** When each event was appended, by partition and offset; 0 if not yet seen, negative once decided. */
        private final List<long[]> appendedMs = new ArrayList<>();
        /** Decisions that came before this reader saw their event. */
        private final Map<Long, long[]> early = new HashMap<>();
        private long[] samples = new long[1 << 23];
        private int count;
        private long again;
        private long bytes;

        Reader(String[] args) {
            bootstrap = args[1];
            events = args[2];
            decisions = args[3];
        }

        void run() throws Exception {
            Thread asked = new Thread(this::reports);
            asked.setDaemon(true);
            asked.start();
            // The times of appending can be read late; that spares the broker.
            Properties late = client(bootstrap);
            late.put("fetch.min.bytes", "1000000");
            late.put("fetch.max.wait.ms", "250");
            Thread appended = new Thread(() -> read(events, late));
            appended.setDaemon(true);
            appended.start();
            read(decisions, client(bootstrap));
        }

        private void read(String topic, Properties properties) {
            properties.put("isolation.level", "read_committed");
            properties.put("auto.offset.reset", "earliest");
            properties.put("max.poll.records", "20000");
            ByteArrayDeserializer raw = new ByteArrayDeserializer();
            try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(properties, raw, raw)) {
                List<TopicPartition> all = new ArrayList<>();
                consumer.partitionsFor(topic).forEach(p -> all.add(new TopicPartition(topic, p.partition())));
                consumer.assign(all);
                consumer.seekToBeginning(all);
                if (topic.equals(decisions)) {
                    say(JSON.createObjectNode().put("reading", all.size()));
                }
                while (true) {
                    ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofSeconds(1));
                    Instant now = Instant.now();
                    long nowUs = now.getEpochSecond() * 1_000_000 + now.getNano() / 1000;
                    synchronized (this) {
                        for (ConsumerRecord<byte[], byte[]> record : records) {
                            take(record, nowUs);
                        }
                    }
                }
            } catch (Exception e) {
                e.printStackTrace();
                Runtime.getRuntime().halt(1);
            }
        }

        private void take(ConsumerRecord<byte[], byte[]> record, long nowUs) {
            if (record.topic().equals(events)) {
                int offset = (int) record.offset();
                long[] decision = early.isEmpty() ? null : early.remove(id(record.partition(), offset));
                if (decision != null) {
                    sample(record.timestamp(), decision[0], decision[1]);
                }
                of(record.partition(), offset)[offset] = decision == null ? record.timestamp() : -record.timestamp();
                return;
            }
            String[] event = new String(record.key(), StandardCharsets.UTF_8).split("/");
            int partition = Integer.parseInt(event[event.length - 2]);
            int offset = Integer.parseInt(event[event.length - 1]);
            String told = new String(record.value(), StandardCharsets.ISO_8859_1);
            bytes += record.value().length;
            long marks = told.contains("\"backlog\"") ? BACKLOG : 0;
            marks |= told.contains("\"action\":") && !told.contains("\"action\":\"approve\"") ? ALERT : 0;
            for (int rung = 1; rung < RUNGS.length; rung++) {
                marks |= told.contains("\"rung\":\"" + RUNGS[rung] + "\"") ? rung : 0;
            }
            long[] appended = of(partition, offset);
            if (appended[offset] == 0) {
                early.put(id(partition, offset), new long[] {nowUs, marks});
            } else if (appended[offset] < 0) {
                again++;
            } else {
                sample(appended[offset], nowUs, marks);
                appended[offset] = -appended[offset];
            }
        }

        /** The times of a partition, long enough for this offset. */
        private long[] of(int partition, int offset) {
            while (appendedMs.size() <= partition) {
                appendedMs.add(new long[1 << 20]);
            }
            long[] times = appendedMs.get(partition);
            if (offset >= times.length) {
                times = Arrays.copyOf(times, times.length * 2);
                appendedMs.set(partition, times);
            }
            return times;
        }

        private static long id(long partition, long offset) {
            return partition << 48 | offset;
        }

        private void sample(long appendedMs, long nowUs, long marks) {
            if (count + 3 > samples.length) {
                samples = Arrays.copyOf(samples, samples.length * 2);
            }
            samples[count++] = appendedMs;
            samples[count++] = nowUs;
            samples[count++] = marks;
        }

        private void reports() {
            try {
                BufferedReader asked = new BufferedReader(new InputStreamReader(System.in));
                for (String line = asked.readLine(); line != null; line = asked.readLine()) {
                    String[] words = line.split(" ");
                    say(report(Arrays.stream(words).skip(1).mapToLong(Long::parseLong).toArray()));
                }
                Runtime.getRuntime().halt(0);
            } catch (Exception e) {
                e.printStackTrace();
                Runtime.getRuntime().halt(1);
            }
        }

        /** Whether a moment is within one of the spans: pairs of first and next, all of them ascending. */
        private static boolean within(long[] spans, long ms) {
            int at = Arrays.binarySearch(spans, ms);
            int reached = at >= 0 ? at + 1 : -at - 1;
            return reached % 2 == 1;
        }

        private ObjectNode report(long[] spans) {
            long[] samples;
            List<long[]> appendedMs;
            int count;
            long bytes;
            long again;
            // What is there is never changed, but for a sign: whoever reads on need not wait for the report.
            synchronized (this) {
                samples = this.samples;
                appendedMs = List.copyOf(this.appendedMs);
                count = this.count;
                bytes = this.bytes;
                again = this.again;
            }
            long[] latencies = new long[count / 3];
            int n = 0;
            long backlog = 0;
            long alerts = 0;
            long lastUs = 0;
            Map<String, Long> rungs = new TreeMap<>();
            for (int i = 0; i < count; i += 3) {
                if (!within(spans, samples[i])) {
                    continue;
                }
                latencies[n++] = samples[i + 1] - samples[i] * 1000;
                lastUs = Math.max(lastUs, samples[i + 1]);
                backlog += (samples[i + 2] & BACKLOG) / BACKLOG;
                alerts += (samples[i + 2] & ALERT) / ALERT;
                rungs.merge(RUNGS[(int) (samples[i + 2] & RUNG)], 1L, Long::sum);
            }
            Arrays.sort(latencies, 0, n);
            long appended = appendedMs.stream().flatMapToLong(Arrays::stream)
                    .filter(ms -> within(spans, Math.abs(ms))).count();
            ObjectNode report = JSON.createObjectNode().put("events", appended).put("decided", n).put("again", again);
            for (double q : new double[] {0.5, 0.9, 0.99, 0.999, 1}) {
                String name = q == 1 ? "max" : "p" + ("" + q * 100).replace(".", "").replaceAll("0$", "");
                long at = n == 0 ? 0 : latencies[Math.min(n - 1, (int) (n * q))];
                report.put(name + "_ms", Math.round(at / 10.0) / 100.0);
            }
            report.put("last_ms", lastUs / 1000).put("backlog", backlog).put("alerts", alerts)
                    .put("bytes", bytes);
            ObjectNode told = report.putObject("rungs");
            rungs.forEach(told::put);
            return report;
        }
    }

    /** Consume, produce, commit: what any exactly-once stage costs at least. */
    private static void copy(String[] args) throws Exception {
        String to = args[3];
        boolean transactional = args[4].equals("exactly_once");
        long intervalNs = Long.parseLong(args[5]) * 1_000_000;
        Properties reading = client(args[1]);
        reading.put("group.id", "copy-" + to);
        reading.put("isolation.level", "read_committed");
        reading.put("auto.offset.reset", "earliest");
        reading.put("enable.auto.commit", "false");
        Properties writing = client(args[1]);
        writing.put("linger.ms", "1");
        if (transactional) {
            writing.put("transactional.id", "copy-" + to);
        }
        Thread end = new Thread(() -> {
            try {
                while (System.in.read() != -1) {
                    continue;
                }
            } catch (Exception e) {
                e.printStackTrace();
            }
            Runtime.getRuntime().halt(0);
        });
        end.setDaemon(true);
        end.start();
        ByteArrayDeserializer raw = new ByteArrayDeserializer();
        ByteArraySerializer bytes = new ByteArraySerializer();
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(reading, raw, raw);
                KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(writing, bytes, bytes)) {
            if (transactional) {
                producer.initTransactions();
            }
            consumer.subscribe(List.of(args[2]));
            Map<TopicPartition, OffsetAndMetadata> read = new HashMap<>();
            long opened = 0;
            boolean said = false;
            while (true) {
                ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(read.isEmpty() ? 100 : 2));
                if (!said && !consumer.assignment().isEmpty()) {
                    say(JSON.createObjectNode().put("copying", consumer.assignment().size()));
                    said = true;
                }
                for (ConsumerRecord<byte[], byte[]> record : records) {
                    if (read.isEmpty()) {
                        opened = System.nanoTime();
                        if (transactional) {
                            producer.beginTransaction();
                        }
                    }
                    String id = record.topic() + "/" + record.partition() + "/" + record.offset();
                    producer.send(new ProducerRecord<>(to, utf8(id), record.value()));
                    read.put(new TopicPartition(record.topic(), record.partition()),
                            new OffsetAndMetadata(record.offset() + 1));
                }
                if (!read.isEmpty() && System.nanoTime() - opened >= intervalNs) {
                    if (transactional) {
                        producer.sendOffsetsToTransaction(read, consumer.groupMetadata());
                        producer.commitTransaction();
                    } else {
                        consumer.commitAsync(read, null);
                    }
                    read.clear();
                }
            }
        }
    }

    private static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
