import java.io.FileInputStream;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import kafka.server.KafkaConfig;
import kafka.server.KafkaRaftServer;
import kafka.tools.StorageTool;
import org.apache.kafka.common.utils.Time;

/**
 * Apache Kafka in one process: `Broker FILE [NAME=PASSWORD..]`, with the users of SCRAM.
 *
 * <p>Formats its folder if that is new, says `ready` when clients are served, and stops in order when
 * it reads a line. It does not outlive whoever started it: the end of its input is its end.
 */
public class Broker {
    public static void main(String[] args) throws Exception {
        List<String> format = new ArrayList<>(
                List.of("format", "-t", "c2FuZGVybGluZ3Rlc3RzMQ", "-c", args[0], "--ignore-formatted"));
        for (int i = 1; i < args.length; i++) {
            String[] user = args[i].split("=", 2);
            for (String mechanism : List.of("SCRAM-SHA-256", "SCRAM-SHA-512")) {
                format.add("--add-scram");
                format.add(mechanism + "=[name=" + user[0] + ",password=" + user[1] + "]");
            }
        }
        // What it prints is of no interest unless it fails.
        if (StorageTool.execute(format.toArray(new String[0]), System.err) != 0) {
            System.exit(1);
        }
        Properties properties = new Properties();
        try (InputStream file = new FileInputStream(args[0])) {
            properties.load(file);
        }
        KafkaRaftServer server = new KafkaRaftServer(KafkaConfig.fromProps(properties), Time.SYSTEM);
        server.startup();
        System.out.println("ready");
        if (System.in.read() != -1) {
            server.shutdown();
            server.awaitShutdown();
        }
        Runtime.getRuntime().halt(0);
    }
}
