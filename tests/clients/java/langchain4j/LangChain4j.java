import dev.langchain4j.agent.tool.ToolSpecification;
import dev.langchain4j.data.embedding.Embedding;
import dev.langchain4j.data.message.AiMessage;
import dev.langchain4j.data.message.ToolExecutionResultMessage;
import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.data.segment.TextSegment;
import dev.langchain4j.exception.AuthenticationException;
import dev.langchain4j.exception.InvalidRequestException;
import dev.langchain4j.exception.ModelNotFoundException;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.request.ResponseFormat;
import dev.langchain4j.model.chat.request.ResponseFormatType;
import dev.langchain4j.model.chat.request.ToolChoice;
import dev.langchain4j.model.chat.request.json.JsonObjectSchema;
import dev.langchain4j.model.chat.request.json.JsonReferenceSchema;
import dev.langchain4j.model.chat.request.json.JsonSchema;
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import dev.langchain4j.model.openai.OpenAiChatModel;
import dev.langchain4j.model.openai.OpenAiEmbeddingModel;
import dev.langchain4j.model.openai.OpenAiStreamingChatModel;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** LangChain4j over its module for OpenAI. */
final class LangChain4j {
    private static OpenAiChatModel model(String name, int tokens, String key) {
        return OpenAiChatModel.builder().baseUrl(Report.URL).apiKey(key).modelName(name).maxTokens(tokens)
            .temperature(0.0).maxRetries(0).timeout(Duration.ofSeconds(60)).build();
    }

    private static OpenAiChatModel model(String name, int tokens) {
        return model(name, tokens, Report.KEY);
    }

    private static OpenAiStreamingChatModel streaming(String name, int tokens) {
        return OpenAiStreamingChatModel.builder().baseUrl(Report.URL).apiKey(Report.KEY).modelName(name).maxTokens(tokens)
            .temperature(0.0).timeout(Duration.ofSeconds(60)).build();
    }

    private static ChatRequest.Builder ask(String text) {
        return ChatRequest.builder().messages(UserMessage.from(text));
    }

    private static JsonObjectSchema nested() {
        JsonObjectSchema place = JsonObjectSchema.builder().addEnumProperty("city", List.of("Paris", "Rome")).required("city").build();
        return JsonObjectSchema.builder().addProperty("place", JsonReferenceSchema.builder().reference("Place").build())
            .addBooleanProperty("rain").required("place", "rain").definitions(Map.of("Place", place)).build();
    }

    private static ToolSpecification weather() {
        JsonObjectSchema city = JsonObjectSchema.builder().addEnumProperty("city", List.of("Paris", "Rome")).required("city").build();
        return ToolSpecification.builder().name("get_weather").description("The weather.").parameters(city).build();
    }

    /** Waits for a streamed answer; the n-th piece has the turn cancelled when n is named. */
    private static ChatResponse stream(OpenAiStreamingChatModel model, String text, int cancelAt) throws Exception {
        CompletableFuture<ChatResponse> whole = new CompletableFuture<>();
        AtomicInteger pieces = new AtomicInteger();
        model.chat(ask(text).build(), new StreamingChatResponseHandler() {
            @Override
            public void onPartialResponse(String piece) {
                if (pieces.incrementAndGet() == cancelAt) {
                    try {
                        Report.cancelTurn();
                    } catch (Exception fault) {
                        whole.completeExceptionally(fault);
                    }
                }
            }

            @Override
            public void onCompleteResponse(ChatResponse response) {
                whole.complete(response);
            }

            @Override
            public void onError(Throwable fault) {
                whole.completeExceptionally(fault);
            }
        });
        return whole.get(60, TimeUnit.SECONDS);
    }

    public static void main(String[] names) {
        Report report = new Report(names);
        report.check("chat", () -> {
            ChatResponse reply = model(Report.DEFAULT, 24).chat(ask(Report.QUESTION).build());
            Report.paris(reply.aiMessage().text());
            Report.that(reply.tokenUsage().outputTokenCount() <= 24, reply.tokenUsage());
        });
        report.check("stream with usage", () -> {
            ChatResponse reply = stream(streaming(Report.DEFAULT, 24), Report.QUESTION, -1);
            Report.paris(reply.aiMessage().text());
            Report.that(reply.tokenUsage().outputTokenCount() > 0, reply.tokenUsage());
        });
        report.check("nested schema", () -> {
            ResponseFormat format = ResponseFormat.builder().type(ResponseFormatType.JSON)
                .jsonSchema(JsonSchema.builder().name("forecast").rootElement(nested()).build()).build();
            String text = model(Report.DEFAULT, 80).chat(ask(Report.QUESTION).responseFormat(format).build()).aiMessage().text();
            Report.that(text.contains("\"place\"") && text.contains("\"rain\""), text);
        });
        report.check("forced call of a nested schema", () -> {
            ToolSpecification tool = ToolSpecification.builder().name("forecast").parameters(nested()).build();
            AiMessage message = model(Report.FAST, 80)
                .chat(ask("The weather of Paris?").toolSpecifications(tool).toolChoice(ToolChoice.REQUIRED).build()).aiMessage();
            Report.that(message.hasToolExecutionRequests(), message);
            Report.that(message.toolExecutionRequests().get(0).arguments().contains("\"place\""), message);
        });
        report.check("forced call without parameters", () -> {
            ToolSpecification tool = ToolSpecification.builder().name("ping").build();
            AiMessage message = model(Report.FAST, 40)
                .chat(ask("Ping!").toolSpecifications(tool).toolChoice(ToolChoice.REQUIRED).build()).aiMessage();
            Report.that(message.hasToolExecutionRequests(), message);
            Report.that(message.toolExecutionRequests().get(0).arguments().equals("{}"), message);
        });
        report.check("tool loop", () -> {
            UserMessage asked = UserMessage.from("The weather of Paris?");
            var model = model(Report.FAST, 40);
            AiMessage first = model.chat(ChatRequest.builder().messages(asked).toolSpecifications(weather())
                .toolChoice(ToolChoice.REQUIRED).build()).aiMessage();
            var result = ToolExecutionResultMessage.from(first.toolExecutionRequests().get(0), "sunny");
            AiMessage last = model.chat(ChatRequest.builder().messages(asked, first, result).build()).aiMessage();
            Report.that(last.text() != null && !last.text().isEmpty(), last);
        });
        report.check("embeddings", () -> {
            var model = OpenAiEmbeddingModel.builder().baseUrl(Report.URL).apiKey(Report.KEY).modelName(Report.EMBEDDER)
                .maxRetries(0).build();
            List<Embedding> vectors = model.embedAll(List.of(TextSegment.from("a river"), TextSegment.from("a village"))).content();
            Report.that(vectors.size() == 2 && vectors.get(1).dimension() == 768, vectors.size());
        });
        report.check("typed errors", () -> {
            Report.refusal(ModelNotFoundException.class, () -> model("no-such-model", 4).chat(Report.QUESTION));
            Report.refusal(AuthenticationException.class, () -> model(Report.FAST, 4, "sk-nobody").chat(Report.QUESTION));
        });
        report.check("prompt too long for a stream", () -> {
            for (String name : List.of(Report.FAST, Report.DEFAULT)) {
                Report.refusal(InvalidRequestException.class, () -> model(name, 4).chat(Report.TOO_LONG));
                Report.refusal(InvalidRequestException.class, () -> stream(streaming(name, 4), Report.TOO_LONG, -1));
            }
        });
        report.finish();
    }
}
