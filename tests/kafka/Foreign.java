import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import java.util.concurrent.locks.LockSupport;
import java.util.stream.Stream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * A bank's own Kafka clients, none of them ours: `Foreign BOOTSTRAP`. Reads a request a line, one JSON
 * object, and answers each with one.
 *
 * <pre>
 * {do: topics, topics: {NAME: {partitions, configs: {}}}}
 * {do: produce, topic, records: [{key, value | value_base64 | neither, partition, headers: {}}], transaction: commit | abort}
 * {do: produce, topic, file, key: FIELD, from, to, rate, transaction}      lines [from, to) of a .jsonl file
 * {do: consume, topics: [], isolation, out}     from the oldest record to the present end, as lines of a
 *                                               file, once no transaction is open there
 * {do: ends, topics: [], isolation}             -> {TOPIC: {PARTITION: next}}; without isolation transactions or not
 * {do: committed, group}                        -> {TOPIC: {PARTITION: next}}
 * {do: members, group}                          -> {members}
 * {do: move, group, to: {TOPIC: {PARTITION: next}}}
 * </pre>
 */
public class Foreign {
    private static final ObjectMapper JSON = new ObjectMapper();
    /** Longer than any transaction stays open whose producer was killed. */
    private static final Duration CONSUMED_WITHIN = Duration.ofSeconds(60);
    private final String bootstrap;
    private final Admin admin;

    private Foreign(String bootstrap) {
        this.bootstrap = bootstrap;
        this.admin = Admin.create(Map.of("bootstrap.servers", bootstrap));
    }

    public static void main(String[] args) throws Exception {
        Foreign foreign = new Foreign(args[0]);
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = requests.readLine(); line != null; line = requests.readLine()) {
            ObjectNode answer;
            try {
                answer = foreign.answer(JSON.readTree(line));
            } catch (Exception e) {
                StringWriter trace = new StringWriter();
                e.printStackTrace(new PrintWriter(trace));
                answer = JSON.createObjectNode().put("error", trace.toString());
            }
            System.out.println(JSON.writeValueAsString(answer));
        }
        Runtime.getRuntime().halt(0);
    }

    private ObjectNode answer(JsonNode request) throws Exception {
        return switch (request.path("do").asText()) {
            case "topics" -> topics(request.get("topics"));
            case "produce" -> produce(request);
            case "consume" -> consume(request);
            case "ends" -> ends(request);
            case "committed" -> committed(request.get("group").asText());
            case "move" -> move(request);
            case "members" -> JSON.createObjectNode().put("members", members(request.get("group").asText()));
            default -> throw new IllegalArgumentException(request.toString());
        };
    }

    private ObjectNode topics(JsonNode wanted) throws Exception {
        List<NewTopic> topics = new ArrayList<>();
        wanted.properties().forEach(entry -> {
            JsonNode topic = entry.getValue();
            Map<String, String> configs = new HashMap<>();
            topic.path("configs").properties().forEach(c -> configs.put(c.getKey(), c.getValue().asText()));
            topics.add(new NewTopic(entry.getKey(), topic.path("partitions").asInt(1), (short) 1).configs(configs));
        });
        admin.createTopics(topics).all().get();
        return JSON.createObjectNode();
    }

    private ObjectNode produce(JsonNode request) throws Exception {
        String topic = request.get("topic").asText();
        String transaction = request.path("transaction").asText("");
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("linger.ms", "5");
        properties.put("max.request.size", "" + (64 << 20));
        properties.put("buffer.memory", "" + (128 << 20));
        if (!transaction.isEmpty()) {
            properties.put("transactional.id", "foreign-" + topic + "-" + System.nanoTime());
        }
        ByteArraySerializer bytes = new ByteArraySerializer();
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(properties, bytes, bytes)) {
            if (!transaction.isEmpty()) {
                producer.initTransactions();
                producer.beginTransaction();
            }
            for (JsonNode record : request.path("records")) {
                sent.add(producer.send(record(topic, record)));
            }
            if (request.has("file")) {
                String key = request.get("key").asText();
                long rate = request.path("rate").asLong(0);
                long began = System.nanoTime();
                try (Stream<String> lines = Files.lines(Path.of(request.get("file").asText()))) {
                    long from = request.path("from").asLong(0);
                    long rows = request.path("to").asLong(Long.MAX_VALUE) - from;
                    var each = lines.skip(from).limit(rows).iterator();
                    while (each.hasNext()) {
                        String line = each.next();
                        if (rate > 0) {
                            long due = began + sent.size() * 1_000_000_000L / rate;
                            for (long now = System.nanoTime(); now < due; now = System.nanoTime()) {
                                LockSupport.parkNanos(due - now);
                            }
                        }
                        byte[] keyed = utf8(JSON.readTree(line).get(key).asText());
                        sent.add(producer.send(new ProducerRecord<>(topic, keyed, utf8(line))));
                    }
                }
            }
            producer.flush();
            switch (transaction) {
                case "commit" -> producer.commitTransaction();
                case "abort" -> producer.abortTransaction();
                default -> { }
            }
        }
        for (Future<RecordMetadata> fate : sent) {
            fate.get();
        }
        return JSON.createObjectNode().put("sent", sent.size());
    }

    private static ProducerRecord<byte[], byte[]> record(String topic, JsonNode record) {
        byte[] value = null;
        if (record.hasNonNull("value_base64")) {
            value = Base64.getDecoder().decode(record.get("value_base64").asText());
        } else if (record.hasNonNull("value")) {
            value = utf8(record.get("value").asText());
        }
        Integer partition = record.hasNonNull("partition") ? record.get("partition").asInt() : null;
        byte[] key = record.hasNonNull("key") ? utf8(record.get("key").asText()) : null;
        ProducerRecord<byte[], byte[]> made = new ProducerRecord<>(topic, partition, key, value);
        record.path("headers").properties().forEach(
                header -> made.headers().add(header.getKey(), utf8(header.getValue().asText())));
        return made;
    }

    private ObjectNode consume(JsonNode request) throws Exception {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("isolation.level", request.get("isolation").asText());
        properties.put("auto.offset.reset", "earliest");
        properties.put("max.poll.records", "10000");
        properties.put("fetch.max.wait.ms", "20");
        ByteArrayDeserializer bytes = new ByteArrayDeserializer();
        long records = 0;
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(properties, bytes, bytes);
                BufferedWriter out = Files.newBufferedWriter(Path.of(request.get("out").asText()))) {
            List<TopicPartition> partitions = new ArrayList<>();
            for (JsonNode topic : request.get("topics")) {
                consumer.partitionsFor(topic.asText()).forEach(
                        p -> partitions.add(new TopicPartition(p.topic(), p.partition())));
            }
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            // Not the consumer's own ends: those stop before the first transaction that is open, which
            // may be a dead producer's, with committed records behind it.
            Map<TopicPartition, Long> ends = ends(partitions, IsolationLevel.READ_UNCOMMITTED);
            long until = System.nanoTime() + CONSUMED_WITHIN.toNanos();
            while (ends.entrySet().stream().anyMatch(end -> consumer.position(end.getKey()) < end.getValue())) {
                if (System.nanoTime() > until) {
                    throw new IllegalStateException("a transaction is still open before " + ends);
                }
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200))) {
                    out.write(JSON.writeValueAsString(shown(record)));
                    out.newLine();
                    records++;
                }
            }
        }
        return JSON.createObjectNode().put("records", records);
    }

    private static ObjectNode shown(ConsumerRecord<byte[], byte[]> record) {
        ObjectNode shown = JSON.createObjectNode()
                .put("topic", record.topic())
                .put("partition", record.partition())
                .put("offset", record.offset())
                .put("timestamp", record.timestamp());
        text(shown, "key", record.key());
        text(shown, "value", record.value());
        ObjectNode headers = shown.putObject("headers");
        for (Header header : record.headers()) {
            text(headers, header.key(), header.value());
        }
        return shown;
    }

    /** As text where it is text, else in base64 under another name. */
    private static void text(ObjectNode into, String name, byte[] value) {
        if (value == null) {
            into.putNull(name);
            return;
        }
        try {
            into.put(name, StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(value)).toString());
        } catch (CharacterCodingException e) {
            into.put(name + "_base64", Base64.getEncoder().encodeToString(value));
        }
    }

    private ObjectNode ends(JsonNode request) throws Exception {
        List<String> names = new ArrayList<>();
        request.get("topics").forEach(topic -> names.add(topic.asText()));
        List<TopicPartition> partitions = new ArrayList<>();
        admin.describeTopics(names).allTopicNames().get().forEach((name, topic) -> topic.partitions().forEach(
                partition -> partitions.add(new TopicPartition(name, partition.partition()))));
        ObjectNode ends = JSON.createObjectNode();
        boolean committed = request.path("isolation").asText("").equals("read_committed");
        IsolationLevel isolation = committed ? IsolationLevel.READ_COMMITTED : IsolationLevel.READ_UNCOMMITTED;
        ends(partitions, isolation).forEach((at, end) -> ends.withObjectProperty(at.topic()).put("" + at.partition(), end));
        return ends;
    }

    /** The next offsets: of all that was written, or of what is before the first transaction that is open. */
    private Map<TopicPartition, Long> ends(List<TopicPartition> partitions, IsolationLevel isolation)
            throws Exception {
        Map<TopicPartition, OffsetSpec> asked = new HashMap<>();
        partitions.forEach(partition -> asked.put(partition, OffsetSpec.latest()));
        Map<TopicPartition, Long> ends = new HashMap<>();
        admin.listOffsets(asked, new ListOffsetsOptions(isolation)).all().get().forEach((at, end) -> ends.put(at, end.offset()));
        return ends;
    }

    private ObjectNode committed(String group) throws Exception {
        ObjectNode offsets = JSON.createObjectNode();
        Map<TopicPartition, OffsetAndMetadata> all =
                admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
        all.forEach((at, next) -> {
            if (next != null) {
                offsets.withObjectProperty(at.topic()).put("" + at.partition(), next.offset());
            }
        });
        return offsets;
    }

    /** As `kafka-consumer-groups --reset-offsets` does. */
    private ObjectNode move(JsonNode request) throws Exception {
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
        request.get("to").properties().forEach(topic -> topic.getValue().properties().forEach(
                to -> offsets.put(new TopicPartition(topic.getKey(), Integer.parseInt(to.getKey())),
                        new OffsetAndMetadata(to.getValue().asLong()))));
        admin.alterConsumerGroupOffsets(request.get("group").asText(), offsets).all().get();
        return JSON.createObjectNode().put("moved", offsets.size());
    }

    private int members(String group) throws Exception {
        return admin.describeConsumerGroups(List.of(group)).all().get().get(group).members().size();
    }

    private static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
