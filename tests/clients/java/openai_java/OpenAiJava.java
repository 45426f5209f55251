import com.openai.client.OpenAIClient;
import com.openai.client.okhttp.OpenAIOkHttpClient;
import com.openai.core.JsonValue;
import com.openai.core.http.StreamResponse;
import com.openai.errors.BadRequestException;
import com.openai.errors.NotFoundException;
import com.openai.errors.OpenAIException;
import com.openai.errors.UnauthorizedException;
import com.openai.helpers.ChatCompletionAccumulator;
import com.openai.models.FunctionDefinition;
import com.openai.models.FunctionParameters;
import com.openai.models.chat.completions.ChatCompletion;
import com.openai.models.chat.completions.ChatCompletionChunk;
import com.openai.models.chat.completions.ChatCompletionCreateParams;
import com.openai.models.chat.completions.ChatCompletionFunctionTool;
import com.openai.models.chat.completions.ChatCompletionStreamOptions;
import com.openai.models.chat.completions.ChatCompletionToolChoiceOption;
import com.openai.models.chat.completions.ChatCompletionToolMessageParam;
import com.openai.models.completions.Completion;
import com.openai.models.completions.CompletionCreateParams;
import com.openai.models.embeddings.CreateEmbeddingResponse;
import com.openai.models.embeddings.EmbeddingCreateParams;
import com.openai.models.responses.Response;
import com.openai.models.responses.ResponseCreateParams;
import com.openai.models.responses.ResponseStreamEvent;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/** The official client for Java; every reply is validated against its schema. */
final class OpenAiJava {
    private static final OpenAIClient CLIENT = client(Report.KEY);

    enum City { PARIS, ROME }

    /** What a structured answer is read as. */
    static final class Forecast {
        public Place place;
        public boolean rain;

        static final class Place {
            public City city;
        }
    }

    private static OpenAIClient client(String key) {
        return OpenAIOkHttpClient.builder()
            .baseUrl(Report.URL).apiKey(key).responseValidation(true).maxRetries(0).timeout(Duration.ofSeconds(60)).build();
    }

    private static ChatCompletionCreateParams.Builder ask(String model, String text, long tokens) {
        return ChatCompletionCreateParams.builder().model(model).addUserMessage(text).maxTokens(tokens).temperature(0);
    }

    private static ChatCompletion chat(ChatCompletionCreateParams.Builder request) {
        return CLIENT.chat().completions().create(request.build()).validate();
    }

    private static ChatCompletionCreateParams.Builder forced(FunctionDefinition function) {
        return ask(Report.FAST, "The weather of Paris?", 80)
            .addTool(ChatCompletionFunctionTool.builder().function(function).build())
            .toolChoice(ChatCompletionToolChoiceOption.Auto.REQUIRED);
    }

    private static FunctionDefinition weather() {
        Map<String, Object> city = Map.of("city", Map.of("type", "string", "enum", List.of("Paris", "Rome")));
        return FunctionDefinition.builder().name("get_weather").parameters(FunctionParameters.builder()
            .putAdditionalProperty("type", JsonValue.from("object"))
            .putAdditionalProperty("properties", JsonValue.from(city))
            .putAdditionalProperty("required", JsonValue.from(List.of("city"))).build()).build();
    }

    private static ResponseCreateParams.Builder respond(String text) {
        return ResponseCreateParams.builder().model(Report.FAST).input(text).maxOutputTokens(24).temperature(0);
    }

    private static String text(Response response) {
        return response.output().stream().flatMap(item -> item.message().stream())
            .flatMap(message -> message.content().stream()).flatMap(part -> part.outputText().stream())
            .map(part -> part.text()).collect(Collectors.joining());
    }

    public static void main(String[] names) {
        Report report = new Report(names);
        report.check("models", () -> {
            var page = CLIENT.models().list();
            Report.that(page.data().stream().anyMatch(model -> model.validate().id().equals(Report.DEFAULT)), page);
        });
        report.check("chat", () -> {
            ChatCompletion completion = chat(ask(Report.DEFAULT, Report.QUESTION, 24));
            Report.paris(completion.choices().get(0).message().content().orElse(""));
            Report.that(completion.usage().get().completionTokens() <= 24, completion.usage());
        });
        report.check("stream with usage", () -> {
            var options = ChatCompletionStreamOptions.builder().includeUsage(true).build();
            var whole = ChatCompletionAccumulator.create();
            try (StreamResponse<ChatCompletionChunk> stream = CLIENT.chat().completions().createStreaming(
                    ask(Report.DEFAULT, Report.QUESTION, 24).streamOptions(options).build())) {
                stream.stream().map(ChatCompletionChunk::validate).forEach(whole::accumulate);
            }
            Report.paris(whole.chatCompletion().choices().get(0).message().content().orElse(""));
            Report.that(whole.chatCompletion().usage().isPresent(), "no usage");
        });
        report.check("nested class", () -> {
            var completion = CLIENT.chat().completions().create(
                ask(Report.DEFAULT, Report.QUESTION, 80).responseFormat(Forecast.class).build());
            Report.that(completion.choices().get(0).message().content().get().place.city != null, completion);
        });
        report.check("logprobs and two choices", () -> {
            ChatCompletion completion = chat(ask(Report.DEFAULT, Report.QUESTION, 8).n(2).logprobs(true));
            Report.that(completion.choices().size() == 2, completion);
            Report.that(completion.choices().get(1).logprobs().isPresent(), completion);
        });
        report.check("forced call and loop", () -> {
            var request = forced(weather());
            var message = chat(request).choices().get(0).message();
            var call = message.toolCalls().get().get(0).asFunction();
            Report.that(call.function().arguments().contains("city"), call);
            var answer = ChatCompletionToolMessageParam.builder().toolCallId(call.id()).content("sunny").build();
            ChatCompletion reply = chat(request.addMessage(message).addMessage(answer)
                .toolChoice(ChatCompletionToolChoiceOption.Auto.NONE));
            Report.that(!reply.choices().get(0).message().content().orElse("").isEmpty(), reply);
        });
        report.check("forced call without parameters", () -> {
            ChatCompletion reply = chat(forced(FunctionDefinition.builder().name("ping").build()));
            var calls = reply.choices().get(0).message().toolCalls();
            Report.that(calls.isPresent(), reply);
            Report.that(calls.get().get(0).asFunction().function().arguments().equals("{}"), reply);
        });
        report.check("embeddings", () -> {
            CreateEmbeddingResponse reply = CLIENT.embeddings().create(EmbeddingCreateParams.builder()
                .model(Report.EMBEDDER).inputOfArrayOfStrings(List.of("a river", "a village")).build()).validate();
            Report.that(reply.data().get(1).embedding().size() == 768, reply.data().size());
        });
        report.check("completions", () -> {
            Completion reply = CLIENT.completions().create(CompletionCreateParams.builder()
                .model(Report.BASE).prompt("The capital of France is").maxTokens(8).build()).validate();
            Report.that(!reply.choices().get(0).text().isEmpty(), reply);
        });
        report.check("responses", () -> {
            Response response = CLIENT.responses().create(respond(Report.QUESTION).build()).validate();
            Report.paris(text(response));
            CLIENT.responses().create(respond("Why?").previousResponseId(response.id()).build()).validate();
            Report.that(text(CLIENT.responses().retrieve(response.id()).validate()).equals(text(response)), response);
            CLIENT.responses().delete(response.id());
        });
        report.check("responses from a stream", () -> {
            StringBuilder text = new StringBuilder();
            boolean[] completed = {false};
            try (StreamResponse<ResponseStreamEvent> stream = CLIENT.responses().createStreaming(respond(Report.QUESTION).build())) {
                stream.stream().map(ResponseStreamEvent::validate).forEach(event -> {
                    event.outputTextDelta().ifPresent(delta -> text.append(delta.delta()));
                    completed[0] |= event.completed().isPresent();
                });
            }
            Report.paris(text.toString());
            Report.that(completed[0], "no response.completed");
        });
        report.check("typed errors", () -> {
            var missing = Report.refusal(NotFoundException.class, () -> chat(ask("no-such-model", Report.QUESTION, 4)));
            Report.that(missing.code().orElse("").equals("model_not_found"), missing);
            Report.refusal(UnauthorizedException.class, () -> client("sk-nobody").models().list());
        });
        report.check("prompt too long for a stream", () -> {
            var request = ask(Report.DEFAULT, Report.TOO_LONG, 4).build();
            var plain = Report.refusal(BadRequestException.class, () -> CLIENT.chat().completions().create(request));
            Report.that(plain.code().orElse("").equals("context_length_exceeded"), plain);
            Report.refusal(BadRequestException.class, () -> {
                try (var stream = CLIENT.chat().completions().createStreaming(request)) {
                    return stream.stream().toList();
                }
            });
        });
        report.check("error late in a stream", () -> {
            Report.refusal(OpenAIException.class, () -> {
                try (var stream = CLIENT.chat().completions().createStreaming(ask(Report.FAST, Report.STORY, 500).build())) {
                    var chunks = stream.stream().iterator();
                    chunks.next();
                    chunks.next();
                    Report.cancelTurn();
                    chunks.forEachRemaining(chunk -> { });
                    return "the end";
                }
            });
            Report.idle();
        });
        report.check("closed stream leaves no work", () -> {
            try (var stream = CLIENT.chat().completions().createStreaming(ask(Report.FAST, Report.STORY, 1000).build())) {
                stream.stream().iterator().next();
            }
            Report.idle();
        });
        report.finish();
    }
}
