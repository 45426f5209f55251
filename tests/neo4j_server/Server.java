import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.Set;
import org.neo4j.configuration.GraphDatabaseSettings;
import org.neo4j.configuration.connectors.BoltConnector;
import org.neo4j.configuration.helpers.SocketAddress;
import org.neo4j.dbms.api.DatabaseManagementService;
import org.neo4j.dbms.api.DatabaseManagementServiceBuilder;

/** A Neo4j over a home folder, on loopback. Prints its address once it answers; ends when standard input is closed. */
public class Server {
    public static void main(String[] arguments) {
        try {
            serve(Path.of(arguments[0]), Integer.parseInt(arguments[1]), arguments[2], arguments.length > 3);
            System.exit(0);
        } catch (Exception error) {
            error.printStackTrace();
            System.exit(1);  // the database's own threads would keep the process
        }
    }

    private static void serve(Path home, int port, String password, boolean readOnly) throws Exception {
        boolean isNew = !Files.exists(home.resolve("data"));
        DatabaseManagementService service = new DatabaseManagementServiceBuilder(home)
            .setConfig(BoltConnector.enabled, true)
            .setConfig(BoltConnector.listen_address, new SocketAddress("127.0.0.1", port))
            .setConfig(GraphDatabaseSettings.auth_enabled, true)
            .setConfig(GraphDatabaseSettings.auth_lock_time, Duration.ofSeconds(1))
            .setConfig(GraphDatabaseSettings.read_only_databases, readOnly ? Set.of("neo4j") : Set.of())
            .build();
        if (isNew) {  // the password is neo4j, and must be changed before it is good for anything
            service.database(GraphDatabaseSettings.SYSTEM_DATABASE_NAME).executeTransactionally(
                "ALTER USER neo4j SET PASSWORD $password CHANGE NOT REQUIRED", Map.of("password", password));
        }
        System.out.println("bolt://127.0.0.1:" + port);
        while (System.in.read() >= 0) { }
        service.shutdown();
    }
}
