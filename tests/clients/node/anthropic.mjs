// Anthropic's client for Node.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { DEFAULT, FAST, HOST, KEY, QUESTION, STORY, TOO_LONG, check, expect, finish, idle } from "./harness.mjs";

const client = new Anthropic({ baseURL: HOST, apiKey: KEY, maxRetries: 0, timeout: 60_000 });
const messages = [{ role: "user", content: QUESTION }];
const tools = [{
  name: "get_weather", description: "The weather of a city.",
  input_schema: { type: "object", properties: { city: { type: "string", enum: ["Paris", "Rome"] } }, required: ["city"] },
}];

await check("message", async () => {
  const reply = await client.messages.create({ model: DEFAULT, max_tokens: 24, system: "Be brief.", messages });
  assert.equal(reply.type, "message");
  assert(reply.content[0].text);
  assert(reply.usage.output_tokens <= 24);
});

await check("message from a stream", async () => {
  const stream = client.messages.stream({ model: FAST, max_tokens: 24, messages });
  let text = "";
  stream.on("text", (delta) => (text += delta));
  const final = await stream.finalMessage();
  assert.equal(final.content[0].text, text);
  assert(["end_turn", "max_tokens"].includes(final.stop_reason));
});

await check("tool loop", async () => {
  const asked = [{ role: "user", content: "The weather of Paris?" }];
  const first = await client.messages.create({ model: FAST, max_tokens: 64, messages: asked, tools, tool_choice: { type: "any" } });
  const call = first.content.find((block) => block.type === "tool_use");
  assert.deepEqual(Object.keys(call.input), ["city"]);
  const answered = [
    ...asked,
    { role: "assistant", content: first.content },
    { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "sunny" }] },
  ];
  const reply = await client.messages.create({ model: FAST, max_tokens: 16, messages: answered, tools, tool_choice: { type: "none" } });
  assert(reply.content[0].text);
});

await check("count tokens", async () => {
  assert((await client.messages.countTokens({ model: FAST, messages })).input_tokens > 5);
});

await check("typed errors", async () => {
  await expect(Anthropic.NotFoundError, client.messages.create({ model: "no-such-model", max_tokens: 4, messages }));
  const long = [{ role: "user", content: TOO_LONG }];
  for (const stream of [false, true]) {
    await expect(Anthropic.BadRequestError, client.messages.create({ model: FAST, max_tokens: 4, messages: long, stream }));
  }
});

await check("aborted stream leaves no work", async () => {
  const stream = await client.messages.create({
    model: FAST, max_tokens: 1000, messages: [{ role: "user", content: STORY }], stream: true,
  });
  for await (const event of stream) {
    if (event.type === "content_block_delta") break;
  }
  await idle();
});

finish();
