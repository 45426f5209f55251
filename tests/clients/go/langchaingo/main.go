// LangChain for Go.
package main

import (
	"context"
	"encoding/json"

	"github.com/tmc/langchaingo/llms"
	"github.com/tmc/langchaingo/llms/openai"
	. "micro-kiki-clients/harness"
)

var ctx = context.Background()

func model(name string) *openai.LLM {
	llm, err := openai.New(openai.WithBaseURL(URL), openai.WithToken(Key), openai.WithModel(name),
		openai.WithEmbeddingModel(Embedder))
	Must(err)
	return llm
}

func human(text string) []llms.MessageContent {
	return []llms.MessageContent{llms.TextParts(llms.ChatMessageTypeHuman, text)}
}

func stream(pieces *string) llms.CallOption {
	return llms.WithStreamingFunc(func(_ context.Context, piece []byte) error {
		*pieces += string(piece)
		return nil
	})
}

func tools(name, schema string) []llms.Tool {
	definition := &llms.FunctionDefinition{Name: name, Description: "A function."}
	if schema != "" {
		definition.Parameters = json.RawMessage(schema)
	}
	return []llms.Tool{{Type: "function", Function: definition}}
}

func main() {
	Check("generate", func() {
		reply, err := model(Default).GenerateContent(ctx, human(Question), llms.WithMaxTokens(24), llms.WithTemperature(0))
		Must(err)
		Paris(reply.Choices[0].Content)
	})
	Check("stream", func() {
		pieces := ""
		reply, err := model(Default).GenerateContent(ctx, human(Question), llms.WithMaxTokens(24), stream(&pieces))
		Must(err)
		That(pieces == reply.Choices[0].Content && pieces != "", "%q is not %q", pieces, reply.Choices[0].Content)
	})
	Check("JSON mode", func() {
		reply, err := model(Default).GenerateContent(ctx, human("Answer in JSON: the capital of France"), llms.WithMaxTokens(40),
			llms.WithJSONMode())
		Must(err)
		That(reply.Choices[0].Content[0] == '{', "%q", reply.Choices[0].Content)
	})
	Check("forced call of a nested schema", func() {
		reply, err := model(Fast).GenerateContent(ctx, human("The weather of Paris?"), llms.WithMaxTokens(80),
			llms.WithTools(tools("forecast", Nested)), llms.WithToolChoice("required"))
		Must(err)
		That(len(reply.Choices[0].ToolCalls) == 1, "no call: %+v", reply.Choices[0])
		Arguments(reply.Choices[0].ToolCalls[0].FunctionCall.Arguments, "place", "rain")
	})
	Check("forced call without parameters", func() {
		reply, err := model(Fast).GenerateContent(ctx, human("Ping!"), llms.WithMaxTokens(40),
			llms.WithTools(tools("ping", "")), llms.WithToolChoice("required"))
		Must(err)
		That(len(reply.Choices[0].ToolCalls) == 1, "no call: %+v", reply.Choices[0])
		Arguments(reply.Choices[0].ToolCalls[0].FunctionCall.Arguments)
	})
	Check("tool loop", func() {
		call := llms.ToolCall{ID: "call_1", Type: "function", FunctionCall: &llms.FunctionCall{Name: "get_weather", Arguments: `{"city":"Paris"}`}}
		answer := llms.ToolCallResponse{ToolCallID: "call_1", Name: "get_weather", Content: "sunny"}
		messages := append(human("The weather of Paris?"),
			llms.MessageContent{Role: llms.ChatMessageTypeAI, Parts: []llms.ContentPart{call}},
			llms.MessageContent{Role: llms.ChatMessageTypeTool, Parts: []llms.ContentPart{answer}})
		reply, err := model(Fast).GenerateContent(ctx, messages, llms.WithMaxTokens(16))
		Must(err)
		That(reply.Choices[0].Content != "", "no text")
	})
	Check("embeddings", func() {
		vectors, err := model(Fast).CreateEmbedding(ctx, []string{"a river", "a village"})
		Must(err)
		That(len(vectors) == 2 && len(vectors[1]) == 768, "%d vectors", len(vectors))
	})
	Check("prompt too long for a stream", func() {
		for _, name := range []string{Fast, Default} {
			pieces := ""
			reply, err := model(name).GenerateContent(ctx, human(TooLong), llms.WithMaxTokens(4), stream(&pieces))
			That(err != nil, "%s: success with %+v", name, reply)
		}
	})
	Check("cancelled context leaves no work", func() {
		limited, cancel := context.WithCancel(ctx)
		_, _ = model(Fast).GenerateContent(limited, human(Story), llms.WithMaxTokens(1000),
			llms.WithStreamingFunc(func(context.Context, []byte) error { cancel(); return nil }))
		That(limited.Err() != nil, "it ended before it was cancelled")
		Idle()
	})
	Finish()
}
