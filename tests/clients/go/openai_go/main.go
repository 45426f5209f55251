// The official client for Go.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"
	. "micro-kiki-clients/harness"
)

var (
	client = openai.NewClient(option.WithBaseURL(URL), option.WithAPIKey(Key), option.WithMaxRetries(0),
		option.WithRequestTimeout(time.Minute))
	ctx = context.Background()
)

func ask(model, text string, tokens int64) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(text)},
		MaxTokens: openai.Int(tokens), Temperature: openai.Float(0),
	}
}

func object(schema string) map[string]any {
	var values map[string]any
	succeed(json.Unmarshal([]byte(schema), &values))
	return values
}

func function(name, schema string) openai.ChatCompletionToolUnionParam {
	definition := shared.FunctionDefinitionParam{Name: name}
	if schema != "" {
		definition.Parameters = object(schema)
	}
	return openai.ChatCompletionFunctionTool(definition)
}

func forced(tool openai.ChatCompletionToolUnionParam) openai.ChatCompletionNewParams {
	request := ask(Fast, "The weather of Paris?", 80)
	request.Tools = []openai.ChatCompletionToolUnionParam{tool}
	request.ToolChoice = openai.ChatCompletionToolChoiceOptionUnionParam{OfAuto: openai.String("required")}
	return request
}

// succeed ends a check whose request was refused, with the reply: the error alone says only its status.
func succeed(err error) {
	var typed *openai.Error
	if errors.As(err, &typed) {
		panic(err.Error() + ": " + typed.RawJSON())
	}
	Must(err)
}

func refusal(err error) *openai.Error {
	var typed *openai.Error
	That(errors.As(err, &typed), "no typed error: %v", err)
	return typed
}

func main() {
	Check("models", func() {
		page, err := client.Models.List(ctx)
		succeed(err)
		That(len(page.Data) > 0, "no models")
		model, err := client.Models.Get(ctx, Default)
		succeed(err)
		That(model.ID == Default, "%v", model)
	})
	Check("chat", func() {
		completion, err := client.Chat.Completions.New(ctx, ask(Default, Question, 24))
		succeed(err)
		Paris(completion.Choices[0].Message.Content)
		That(completion.Usage.CompletionTokens <= 24, "%v", completion.Usage)
	})
	Check("stream with usage", func() {
		request := ask(Default, Question, 24)
		request.StreamOptions.IncludeUsage = openai.Bool(true)
		stream, whole := client.Chat.Completions.NewStreaming(ctx, request), openai.ChatCompletionAccumulator{}
		for stream.Next() {
			That(whole.AddChunk(stream.Current()), "a chunk does not fit")
		}
		succeed(stream.Err())
		Paris(whole.Choices[0].Message.Content)
		That(whole.Usage.CompletionTokens > 0 && whole.Usage.CompletionTokens <= 24, "%v", whole.Usage)
	})
	Check("schema", func() {
		request := ask(Default, Question, 80)
		request.ResponseFormat.OfJSONSchema = &shared.ResponseFormatJSONSchemaParam{
			JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{Name: "forecast", Schema: object(Nested)},
		}
		completion, err := client.Chat.Completions.New(ctx, request)
		succeed(err)
		Arguments(completion.Choices[0].Message.Content, "place", "rain")
	})
	Check("forced call of a nested schema", func() {
		completion, err := client.Chat.Completions.New(ctx, forced(function("forecast", Nested)))
		succeed(err)
		Arguments(completion.Choices[0].Message.ToolCalls[0].Function.Arguments, "place", "rain")
	})
	Check("forced call without parameters", func() {
		completion, err := client.Chat.Completions.New(ctx, forced(function("ping", "")))
		succeed(err)
		That(len(completion.Choices[0].Message.ToolCalls) == 1, "no call: %s", completion.RawJSON())
		Arguments(completion.Choices[0].Message.ToolCalls[0].Function.Arguments)
	})
	Check("tool loop from a stream", func() {
		request := forced(function("get_weather", Weather))
		stream, whole := client.Chat.Completions.NewStreaming(ctx, request), openai.ChatCompletionAccumulator{}
		for stream.Next() {
			whole.AddChunk(stream.Current())
		}
		succeed(stream.Err())
		call := whole.Choices[0].Message.ToolCalls[0]
		Arguments(call.Function.Arguments, "city")
		request.Messages = append(request.Messages, whole.Choices[0].Message.ToParam(), openai.ToolMessage("sunny", call.ID))
		request.ToolChoice = openai.ChatCompletionToolChoiceOptionUnionParam{OfAuto: openai.String("none")}
		completion, err := client.Chat.Completions.New(ctx, request)
		succeed(err)
		That(completion.Choices[0].Message.Content != "", "no text: %s", completion.RawJSON())
	})
	Check("logprobs and two choices", func() {
		request := ask(Default, Question, 8)
		request.Logprobs, request.N = openai.Bool(true), openai.Int(2)
		completion, err := client.Chat.Completions.New(ctx, request)
		succeed(err)
		That(len(completion.Choices) == 2, "%d choices", len(completion.Choices))
		That(len(completion.Choices[0].Logprobs.Content) > 0, "no log-probabilities")
	})
	Check("embeddings", func() {
		reply, err := client.Embeddings.New(ctx, openai.EmbeddingNewParams{
			Model: Embedder, Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a river", "a village"}},
		})
		succeed(err)
		That(len(reply.Data) == 2 && len(reply.Data[1].Embedding) == 768, "%d vectors", len(reply.Data))
	})
	Check("completions", func() {
		reply, err := client.Completions.New(ctx, openai.CompletionNewParams{
			Model: Base, MaxTokens: openai.Int(8),
			Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("The capital of France is")},
		})
		succeed(err)
		That(reply.Choices[0].Text != "", "no text")
	})
	Check("responses", func() {
		request := responses.ResponseNewParams{
			Model: Fast, MaxOutputTokens: openai.Int(24), Temperature: openai.Float(0),
			Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(Question)},
		}
		response, err := client.Responses.New(ctx, request)
		succeed(err)
		Paris(response.OutputText())
		kept, err := client.Responses.Get(ctx, response.ID, responses.ResponseGetParams{})
		succeed(err)
		That(kept.OutputText() == response.OutputText(), "another text is kept")
		request.PreviousResponseID = openai.String(response.ID)
		_, err = client.Responses.New(ctx, request)
		succeed(err)
		succeed(client.Responses.Delete(ctx, response.ID))
	})
	Check("responses from a stream", func() {
		stream := client.Responses.NewStreaming(ctx, responses.ResponseNewParams{
			Model: Fast, MaxOutputTokens: openai.Int(24), Temperature: openai.Float(0),
			Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(Question)},
		})
		text, last := "", ""
		for stream.Next() {
			event := stream.Current()
			if event.Type == "response.output_text.delta" {
				text += event.Delta
			}
			last = event.Type
		}
		succeed(stream.Err())
		Paris(text)
		That(last == "response.completed", "it ends with %s", last)
	})
	Check("typed errors", func() {
		_, err := client.Chat.Completions.New(ctx, ask("no-such-model", Question, 4))
		missing := refusal(err)
		That(missing.StatusCode == 404 && missing.Code == "model_not_found", "%v", missing)
		_, err = client.Models.List(ctx, option.WithAPIKey("sk-nobody"))
		That(refusal(err).StatusCode == 401, "%v", err)
	})
	Check("prompt too long for a stream", func() {
		_, err := client.Chat.Completions.New(ctx, ask(Default, TooLong, 4))
		That(refusal(err).Code == "context_length_exceeded", "%v", err)
		stream := client.Chat.Completions.NewStreaming(ctx, ask(Default, TooLong, 4))
		That(!stream.Next(), "a chunk")
		That(refusal(stream.Err()).StatusCode == 400, "%v", stream.Err())
	})
	Check("error late in a stream", func() {
		stream := client.Chat.Completions.NewStreaming(ctx, ask(Fast, Story, 500))
		That(stream.Next() && stream.Next() && stream.Next(), "no chunks: %v", stream.Err())
		CancelTurn()
		for stream.Next() {
		}
		That(stream.Err() != nil, "no error")
		Idle()
	})
	Check("cancelled context leaves no work", func() {
		limited, cancel := context.WithCancel(ctx)
		stream := client.Chat.Completions.NewStreaming(limited, ask(Fast, Story, 1000))
		That(stream.Next() && stream.Next(), "no chunks: %v", stream.Err())
		cancel()
		for stream.Next() {
		}
		That(errors.Is(stream.Err(), context.Canceled), "%v", stream.Err())
		Idle()
	})
	Finish()
}
