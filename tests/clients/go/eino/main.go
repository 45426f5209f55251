// Eino's model component for servers like OpenAI's.
package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/cloudwego/eino-ext/components/model/openai"
	"github.com/cloudwego/eino/schema"
	. "micro-kiki-clients/harness"
)

var ctx = context.Background()

func model(name string, tokens int) *openai.ChatModel {
	chat, err := openai.NewChatModel(ctx, &openai.ChatModelConfig{BaseURL: URL, APIKey: Key, Model: name, MaxTokens: &tokens})
	Must(err)
	return chat
}

func human(text string) []*schema.Message { return []*schema.Message{schema.UserMessage(text)} }

func main() {
	Check("generate", func() {
		reply, err := model(Default, 24).Generate(ctx, human(Question))
		Must(err)
		That(reply.Content != "" && reply.ResponseMeta.Usage.CompletionTokens <= 24, "%v", reply)
	})
	Check("stream", func() {
		stream, err := model(Default, 24).Stream(ctx, human(Question))
		Must(err)
		defer stream.Close()
		text := ""
		for {
			piece, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			Must(err)
			text += piece.Content
		}
		That(text != "", "no text")
	})
	Check("call", func() {
		one := &schema.ToolInfo{Name: "get_weather", Desc: "The weather.", ParamsOneOf: schema.NewParamsOneOfByParams(
			map[string]*schema.ParameterInfo{"city": {Type: schema.String, Enum: []string{"Paris", "Rome"}, Required: true}})}
		chat := model(Fast, 80)
		Must(chat.BindForcedTools([]*schema.ToolInfo{one}))
		reply, err := chat.Generate(ctx, human("The weather of Paris?"))
		Must(err)
		That(len(reply.ToolCalls) == 1, "no call: %v", reply)
		Arguments(reply.ToolCalls[0].Function.Arguments, "city")
	})
	Check("prompt too long for a stream", func() {
		_, err := model(Default, 4).Stream(ctx, human(TooLong))
		That(err != nil, "no error")
		That(strings.Contains(err.Error(), "context"), "%v", err)
	})
	Check("error late in a stream", func() {
		for _, name := range []string{Fast, Default} {
			stream, err := model(name, 500).Stream(ctx, human(Story))
			Must(err)
			cancelled := make(chan bool)
			go func() { // a full turn says nothing before it is judged, so this cannot wait for its first piece
				time.Sleep(2 * time.Second)
				CancelTurn()
				close(cancelled)
			}()
			for err == nil {
				_, err = stream.Recv()
			}
			stream.Close()
			<-cancelled
			That(!errors.Is(err, io.EOF), "%s: no error", name)
			That(!strings.Contains(err.Error(), "unexpected end"), "%s: %v", name, err)
		}
		Idle()
	})
	Finish()
}
