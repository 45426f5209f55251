// The community's client for Go, sashabaranov/go-openai.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/sashabaranov/go-openai"
	. "micro-kiki-clients/harness"
)

var (
	client *openai.Client
	ctx    = context.Background()
)

func ask(model, text string, tokens int) openai.ChatCompletionRequest {
	messages := []openai.ChatCompletionMessage{{Role: "user", Content: text}}
	return openai.ChatCompletionRequest{Model: model, Messages: messages, MaxTokens: tokens}
}

func forced(name, schema string) openai.ChatCompletionRequest {
	request := ask(Fast, "The weather of Paris?", 80)
	definition := &openai.FunctionDefinition{Name: name}
	if schema != "" {
		definition.Parameters = json.RawMessage(schema)
	}
	request.Tools = []openai.Tool{{Type: openai.ToolTypeFunction, Function: definition}}
	request.ToolChoice = "required"
	return request
}

func call(request openai.ChatCompletionRequest) openai.ToolCall {
	completion, err := client.CreateChatCompletion(ctx, request)
	Must(err)
	That(len(completion.Choices[0].Message.ToolCalls) == 1, "no call: %+v", completion.Choices[0])
	return completion.Choices[0].Message.ToolCalls[0]
}

// drain reads a stream to its end, and gives the error that is no end.
func drain(stream *openai.ChatCompletionStream) (string, error) {
	text := ""
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return text, nil
		}
		if err != nil {
			return text, err
		}
		for _, choice := range chunk.Choices {
			text += choice.Delta.Content
		}
	}
}

func main() {
	settings := openai.DefaultConfig(Key)
	settings.BaseURL = URL
	client = openai.NewClientWithConfig(settings)

	Check("models", func() {
		list, err := client.ListModels(ctx)
		Must(err)
		That(len(list.Models) > 0, "no models")
	})
	Check("chat", func() {
		completion, err := client.CreateChatCompletion(ctx, ask(Default, Question, 24))
		Must(err)
		That(completion.Choices[0].Message.Content != "" && completion.Usage.CompletionTokens <= 24, "%+v", completion)
	})
	Check("stream with usage", func() {
		request := ask(Default, Question, 24)
		request.StreamOptions = &openai.StreamOptions{IncludeUsage: true}
		stream, err := client.CreateChatCompletionStream(ctx, request)
		Must(err)
		defer stream.Close()
		usage, text := 0, ""
		for {
			chunk, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			Must(err)
			if chunk.Usage != nil {
				usage = chunk.Usage.CompletionTokens
			}
			for _, choice := range chunk.Choices {
				text += choice.Delta.Content
			}
		}
		That(text != "" && usage > 0 && usage <= 24, "%q, %d tokens", text, usage)
	})
	Check("schema", func() {
		request := ask(Default, Question, 80)
		request.ResponseFormat = &openai.ChatCompletionResponseFormat{
			Type:       openai.ChatCompletionResponseFormatTypeJSONSchema,
			JSONSchema: &openai.ChatCompletionResponseFormatJSONSchema{Name: "forecast", Schema: json.RawMessage(Nested), Strict: true},
		}
		completion, err := client.CreateChatCompletion(ctx, request)
		Must(err)
		Arguments(completion.Choices[0].Message.Content, "place", "rain")
	})
	Check("forced call of a nested schema", func() {
		Arguments(call(forced("forecast", Nested)).Function.Arguments, "place", "rain")
	})
	Check("forced call without parameters", func() {
		Arguments(call(forced("ping", "")).Function.Arguments)
	})
	Check("tool loop", func() {
		request := forced("get_weather", Weather)
		made := call(request)
		request.Messages = append(request.Messages,
			openai.ChatCompletionMessage{Role: "assistant", ToolCalls: []openai.ToolCall{made}},
			openai.ChatCompletionMessage{Role: "tool", ToolCallID: made.ID, Content: "sunny"})
		request.ToolChoice = "none"
		completion, err := client.CreateChatCompletion(ctx, request)
		Must(err)
		That(completion.Choices[0].Message.Content != "", "no text")
	})
	Check("logprobs and two choices", func() {
		request := ask(Default, Question, 8)
		request.LogProbs, request.N = true, 2
		completion, err := client.CreateChatCompletion(ctx, request)
		Must(err)
		That(len(completion.Choices) == 2, "%d choices", len(completion.Choices))
		That(completion.Choices[0].LogProbs != nil, "no log-probabilities")
	})
	Check("embeddings", func() {
		for _, format := range []openai.EmbeddingEncodingFormat{"", openai.EmbeddingEncodingFormatBase64} {
			reply, err := client.CreateEmbeddings(ctx, openai.EmbeddingRequest{
				Model: Embedder, Input: []string{"a river", "a village"}, EncodingFormat: format,
			})
			Must(err)
			That(len(reply.Data) == 2 && len(reply.Data[1].Embedding) == 768, "%d vectors", len(reply.Data))
		}
	})
	Check("completions", func() {
		reply, err := client.CreateCompletion(ctx, openai.CompletionRequest{
			Model: Base, Prompt: "The capital of France is", MaxTokens: 8,
		})
		Must(err)
		That(reply.Choices[0].Text != "", "no text")
	})
	Check("typed errors", func() {
		_, err := client.CreateChatCompletion(ctx, ask("no-such-model", Question, 4))
		var refusal *openai.APIError
		That(errors.As(err, &refusal), "no typed error: %v", err)
		That(refusal.HTTPStatusCode == 404 && refusal.Code == "model_not_found", "%+v", refusal)
	})
	Check("prompt too long for a stream", func() {
		_, err := client.CreateChatCompletionStream(ctx, ask(Default, TooLong, 4))
		var refusal *openai.APIError
		That(errors.As(err, &refusal), "no typed error: %v", err)
		That(refusal.HTTPStatusCode == 400 && refusal.Code == "context_length_exceeded", "%+v", refusal)
	})
	Check("error late in a stream", func() {
		for _, model := range []string{Fast, Default} {
			stream, err := client.CreateChatCompletionStream(ctx, ask(model, Story, 500))
			Must(err)
			for range 2 {
				_, err = stream.Recv()
				Must(err)
				if model == Default { // a full turn says nothing before it is judged
					break
				}
			}
			CancelTurn()
			_, err = drain(stream)
			var refusal *openai.APIError
			That(errors.As(err, &refusal), "%s: no typed error: %v", model, err)
			That(refusal.Message != "" && !strings.Contains(err.Error(), "unexpected end"), "%s: %v", model, err)
			stream.Close()
		}
		Idle()
	})
	Check("closed stream leaves no work", func() {
		stream, err := client.CreateChatCompletionStream(ctx, ask(Fast, Story, 1000))
		Must(err)
		_, err = stream.Recv()
		Must(err)
		stream.Close()
		Idle()
	})
	Finish()
}
