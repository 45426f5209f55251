import java.io.PrintWriter;
import java.io.StringWriter;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;

/** What the Java programs share: where the runtime is, and the report of their checks on standard output. */
final class Report {
    static final String HOST = System.getenv("RUNTIME_URL");
    static final String URL = HOST + "/v1";
    static final String KEY = System.getenv("RUNTIME_KEY");
    static final String DEFAULT = "micro-kiki";
    static final String FAST = "micro-kiki-fast";
    static final String BASE = "micro-kiki-base";
    static final String EMBEDDER = "all-mpnet-base-v2";
    static final String QUESTION = "What is the capital of France?";
    static final String STORY = "Write a long story about a village by a river.";
    static final String TOO_LONG = "north south east west ".repeat(2500);

    private static final HttpClient HTTP = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    private final List<String> wanted;
    private final Map<String, String> problems = new LinkedHashMap<>();

    Report(String[] wanted) {
        this.wanted = List.of(wanted);
    }

    /** What a check does. */
    interface Try {
        void run() throws Exception;
    }

    /** Runs the check and notes what went wrong; with names given, only those. */
    void check(String name, Try run) {
        if (!wanted.isEmpty() && !wanted.contains(name)) {
            return;
        }
        long started = System.nanoTime();
        String problem = null;
        try {
            run.run();
        } catch (Throwable fault) {
            StackTraceElement[] trace = fault.getStackTrace();
            problem = fault + (trace.length > 0 ? " at " + trace[0] : "");
        }
        problems.put(name, problem);
        double seconds = (System.nanoTime() - started) / 1e9;
        System.err.printf("%6.2f s  %s: %s%n", seconds, name, problem == null ? "held" : problem);
    }

    /** Prints the report and ends the process, whatever threads the client left. */
    void finish() {
        System.out.println(problems.entrySet().stream()
            .map(entry -> quote(entry.getKey()) + ": " + (entry.getValue() == null ? "null" : quote(entry.getValue())))
            .collect(Collectors.joining(", ", "{", "}")));
        System.out.flush();
        Runtime.getRuntime().halt(0);
    }

    static void that(boolean holds, Object problem) {
        if (!holds) {
            throw new AssertionError(String.valueOf(problem));
        }
    }

    static void paris(String text) {
        that(text != null && text.contains("Paris"), "no Paris in " + text);
    }

    /** The error of that class which the call throws, whatever wraps it. */
    static <E extends Throwable> E refusal(Class<E> kind, Callable<?> call) {
        Object outcome;
        try {
            outcome = call.call();
        } catch (Throwable fault) {
            for (Throwable cause = fault; cause != null; cause = cause.getCause()) {
                if (kind.isInstance(cause)) {
                    return kind.cast(cause);
                }
            }
            StringWriter trace = new StringWriter();
            fault.printStackTrace(new PrintWriter(trace));
            throw new AssertionError("no " + kind.getSimpleName() + ": " + trace.toString().lines().limit(8).toList());
        }
        throw new AssertionError("no error: " + outcome);
    }

    /** Has the newest turn cancelled: its stream ends in an error. */
    static void cancelTurn() throws Exception {
        URI address = URI.create(System.getenv("CANCEL_URL"));
        HttpRequest request = HttpRequest.newBuilder(address).POST(HttpRequest.BodyPublishers.noBody()).build();
        HTTP.send(request, HttpResponse.BodyHandlers.discarding());
    }

    /** Waits until no turn is in flight, at most five seconds. */
    static void idle() throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(HOST + "/health")).build();
        String health = "";
        for (int tries = 0; tries < 50; tries++) {
            health = HTTP.send(request, HttpResponse.BodyHandlers.ofString()).body();
            if (health.replace(" ", "").contains("\"turns_in_flight\":0")) {
                return;
            }
            Thread.sleep(100);
        }
        throw new AssertionError("turns still run: " + health);
    }

    private static String quote(String text) {
        StringBuilder quoted = new StringBuilder("\"");
        for (char letter : text.substring(0, Math.min(text.length(), 1500)).toCharArray()) {
            if (letter == '"' || letter == '\\') {
                quoted.append('\\').append(letter);
            } else if (letter < ' ' || letter > '~') {
                quoted.append(String.format("\\u%04x", (int) letter));
            } else {
                quoted.append(letter);
            }
        }
        return quoted.append('"').toString();
    }
}
