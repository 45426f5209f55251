import java.util.List;
import java.util.stream.Collectors;
import org.springframework.ai.chat.model.ChatResponse;
import org.springframework.ai.chat.prompt.Prompt;
import org.springframework.ai.converter.BeanOutputConverter;
import org.springframework.ai.document.MetadataMode;
import org.springframework.ai.openai.OpenAiChatModel;
import org.springframework.ai.openai.OpenAiChatOptions;
import org.springframework.ai.openai.OpenAiEmbeddingModel;
import org.springframework.ai.openai.OpenAiEmbeddingOptions;
import org.springframework.ai.openai.api.OpenAiApi;
import org.springframework.ai.openai.api.ResponseFormat;
import org.springframework.ai.retry.NonTransientAiException;
import org.springframework.ai.tool.annotation.Tool;
import org.springframework.ai.tool.method.MethodToolCallbackProvider;
import org.springframework.retry.support.RetryTemplate;
import org.springframework.web.reactive.function.client.WebClientResponseException;

/** Spring AI over its module for OpenAI. */
final class SpringAi {
    private static final OpenAiApi API = OpenAiApi.builder().baseUrl(Report.HOST).apiKey(Report.KEY).build();
    private static final RetryTemplate ONCE = RetryTemplate.builder().maxAttempts(1).build();

    enum City { PARIS, ROME }

    record Place(City city) { }

    record Forecast(Place place, boolean rain) { }

    /** A bell that the model may ring. */
    static final class Bell {
        int rings;

        @Tool(description = "Ring the bell.")
        String ringBell() {
            rings++;
            return "it rang";
        }
    }

    private static OpenAiChatModel model() {
        return OpenAiChatModel.builder().openAiApi(API).retryTemplate(ONCE)
            .defaultOptions(OpenAiChatOptions.builder().model(Report.FAST).build()).build();
    }

    private static OpenAiChatOptions.Builder options(String name, int tokens) {
        return OpenAiChatOptions.builder().model(name).maxTokens(tokens).temperature(0.0);
    }

    private static String text(List<ChatResponse> pieces) {
        return pieces.stream().filter(piece -> piece.getResult() != null)
            .map(piece -> piece.getResult().getOutput().getText()).filter(part -> part != null)
            .collect(Collectors.joining());
    }

    private static List<ChatResponse> stream(String text, OpenAiChatOptions options) {
        return model().stream(new Prompt(text, options)).collectList().block(java.time.Duration.ofSeconds(60));
    }

    public static void main(String[] names) {
        Report report = new Report(names);
        report.check("call", () -> {
            ChatResponse reply = model().call(new Prompt(Report.QUESTION, options(Report.DEFAULT, 24).build()));
            Report.paris(reply.getResult().getOutput().getText());
            Report.that(reply.getMetadata().getUsage().getCompletionTokens() <= 24, reply.getMetadata().getUsage());
        });
        report.check("stream with usage", () -> {
            List<ChatResponse> pieces = stream(Report.QUESTION, options(Report.DEFAULT, 24).streamUsage(true).build());
            Report.paris(text(pieces));
            var usage = pieces.get(pieces.size() - 1).getMetadata().getUsage();
            Report.that(usage.getCompletionTokens() > 0, usage);
        });
        report.check("nested record by schema", () -> {
            var converter = new BeanOutputConverter<>(Forecast.class);
            var format = new ResponseFormat(ResponseFormat.Type.JSON_SCHEMA, converter.getJsonSchema());
            ChatResponse reply = model().call(
                new Prompt("A forecast for Paris", options(Report.DEFAULT, 80).responseFormat(format).build()));
            Report.that(converter.convert(reply.getResult().getOutput().getText()).place().city() != null, reply);
        });
        report.check("tool that is called", () -> {
            Bell bell = new Bell();
            var callbacks = MethodToolCallbackProvider.builder().toolObjects(bell).build().getToolCallbacks();
            // The first answer must call; the second, which Spring AI asks for by itself, would for ever.
            ChatResponse reply = model().call(new Prompt("Ring the bell.", options(Report.FAST, 40)
                .toolCallbacks(callbacks).toolChoice("required").internalToolExecutionEnabled(false).build()));
            var call = reply.getResult().getOutput().getToolCalls().get(0);
            Report.that(call.arguments().equals("{}"), call);
            callbacks[0].call(call.arguments());
            Report.that(bell.rings == 1, bell.rings);
        });
        report.check("embeddings", () -> {
            var model = new OpenAiEmbeddingModel(API, MetadataMode.NONE,
                OpenAiEmbeddingOptions.builder().model(Report.EMBEDDER).build(), ONCE);
            List<float[]> vectors = model.embed(List.of("a river", "a village"));
            Report.that(vectors.size() == 2 && vectors.get(1).length == 768, vectors.size());
        });
        report.check("typed errors", () -> {
            var missing = Report.refusal(NonTransientAiException.class,
                () -> model().call(new Prompt(Report.QUESTION, options("no-such-model", 4).build())));
            Report.that(missing.getMessage().contains("model_not_found"), missing);
        });
        report.check("prompt too long for a stream", () -> {
            for (String name : List.of(Report.FAST, Report.DEFAULT)) {
                Report.refusal(NonTransientAiException.class,
                    () -> model().call(new Prompt(Report.TOO_LONG, options(name, 4).build())));
                Report.refusal(WebClientResponseException.class, () -> stream(Report.TOO_LONG, options(name, 4).build()));
            }
        });
        report.finish();
    }
}
