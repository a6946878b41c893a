import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.wire.message.MongoMessage;
import io.netty.channel.Channel;
import java.util.List;
import java.util.Set;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Supplier;
import org.h2.mvstore.MVStore;

/**
 * mongo-java-server that loses no acknowledged write: every command that may write runs alone, and its reply leaves
 * only after the store's file has been flushed. Nothing else commits, so a crash never keeps half of a command.
 */
public final class DurableMongo extends H2Backend {
    private static final Set<String> READS = Set.of(
            "hello", "ismaster", "isMaster", "ping", "buildInfo", "buildinfo", "serverStatus", "hostInfo", "getLog",
            "getParameter", "getCmdLineOpts", "connectionStatus", "whatsmyuri", "find", "getMore", "killCursors",
            "endSessions", "count", "distinct", "listCollections", "listDatabases", "listIndexes", "dbStats",
            "collStats", "validate", "explain");

    /** Space that a commit replaced is used again after this time; every commit is flushed, so nothing needs it longer. */
    private static final int RETENTION_MILLISECONDS = 1000;

    private final ReentrantLock writing = new ReentrantLock(true);

    private DurableMongo(MVStore store) {
        super(store);
        version(new RecentEnough());
    }

    public static void main(String[] arguments) {
        MVStore store = new MVStore.Builder().fileName(arguments[2]).autoCommitDisabled().pageSplitSize(4096).open();
        store.setRetentionTime(RETENTION_MILLISECONDS);
        MongoServer server = new MongoServer(new DurableMongo(store));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        server.bind(arguments[0], Integer.parseInt(arguments[1]));
    }

    @Override
    public Document handleMessage(MongoMessage message) {
        Document body = message.getDocument();
        if (body.containsKey("hello")) {
            return hello(message);
        }
        return durably(body, () -> super.handleMessage(message));
    }

    @Override
    public Document handleCommand(Channel channel, String database, String command, Document query) {
        return durably(query, () -> super.handleCommand(channel, database, command, query));
    }

    private Document durably(Document body, Supplier<Document> command) {
        if (onlyReads(body)) {
            return command.get();
        }
        writing.lock();
        try {
            return command.get();
        } finally {
            try {
                commit();
                getMvStore().sync();
            } finally {
                writing.unlock();
            }
        }
    }

    /** What MongoDB 5.0 says, which has this command; mongo-java-server knows only its older name. */
    private Document hello(MongoMessage message) {
        Document old = new Document("ismaster", 1);
        Document reply = super.handleCommand(message.getChannel(), message.getDatabaseName(), "ismaster", old);
        reply.put("isWritablePrimary", reply.remove("ismaster"));
        return reply;
    }

    private static boolean onlyReads(Document body) {
        String name = body.keySet().iterator().next();
        if (name.equals("aggregate")) {
            String pipeline = String.valueOf(body.get("pipeline"));
            return !pipeline.contains("$out") && !pipeline.contains("$merge");
        }
        return READS.contains(name);
    }

    /** Drivers refuse servers whose wire version is below 9; 13 is that of MongoDB 5.0. */
    private static final class RecentEnough implements MongoVersion {
        @Override
        public List<Integer> getVersionArray() {
            return List.of(5, 0, 0);
        }

        @Override
        public int getWireVersion() {
            return 13;
        }
    }
}
