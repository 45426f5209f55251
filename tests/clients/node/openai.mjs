// The official client for Node.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import {
  BASE, DEFAULT, EMBEDDER, FAST, KEY, QUESTION, STORY, TOO_LONG, URL_V1, cancelTurn, check, collect, expect, finish, idle,
} from "./harness.mjs";
import { City, Forecast } from "./models.mjs";

const client = new OpenAI({ baseURL: URL_V1, apiKey: KEY, maxRetries: 0, timeout: 60_000 });
const messages = [{ role: "user", content: QUESTION }];
const story = [{ role: "user", content: STORY }];
const asked = [{ role: "user", content: "The weather of Paris?" }];

await check("models", async () => {
  const names = (await collect(client.models.list())).map((model) => model.id);
  assert(names.includes(DEFAULT), names.join());
});

await check("chat", async () => {
  const completion = await client.chat.completions.create({ model: DEFAULT, messages, max_tokens: 24, temperature: 0 });
  assert.match(completion.choices[0].message.content, /Paris/);
  assert(completion.usage.completion_tokens <= 24, JSON.stringify(completion.usage));
});

await check("stream with usage", async () => {
  const chunks = await collect(
    await client.chat.completions.create({
      model: DEFAULT, messages, max_tokens: 24, temperature: 0, stream: true, stream_options: { include_usage: true },
    }),
  );
  assert.match(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), /Paris/);
  assert(chunks.at(-1).usage.completion_tokens <= 24, JSON.stringify(chunks.at(-1)));
});

await check("stream helper", async () => {
  const stream = client.chat.completions.stream({ model: FAST, messages, max_tokens: 24, temperature: 0 });
  let text = "";
  stream.on("content", (delta) => (text += delta));
  const final = await stream.finalChatCompletion();
  assert.match(text, /Paris/);
  assert.equal(final.choices[0].message.content, text);
});

await check("parse a nested model", async () => {
  const completion = await client.chat.completions.parse({
    model: DEFAULT, messages, max_tokens: 120, temperature: 0, response_format: zodResponseFormat(Forecast, "forecast"),
  });
  assert.deepEqual(Forecast.parse(completion.choices[0].message.parsed), completion.choices[0].message.parsed);
});

await check("logprobs and two choices", async () => {
  const completion = await client.chat.completions.create({ model: DEFAULT, messages, max_tokens: 8, n: 2, logprobs: true });
  assert.equal(completion.choices.length, 2);
  for (const choice of completion.choices) {
    const bytes = Buffer.concat(choice.logprobs.content.map((token) => Buffer.from(token.bytes)));
    assert.equal(bytes.toString(), choice.message.content);
  }
});

await check("forced call of a nested model", async () => {
  const completion = await client.chat.completions.parse({
    model: DEFAULT, messages: asked, max_tokens: 120, temperature: 0, tool_choice: "required",
    tools: [zodFunction({ name: "forecast", parameters: Forecast })],
  });
  Forecast.parse(completion.choices[0].message.tool_calls[0].function.parsed_arguments);
});

await check("run tools", async () => {
  const called = [];
  const runner = client.chat.completions.runTools(
    {
      model: FAST, messages: asked, max_tokens: 40, temperature: 0,
      tool_choice: { type: "function", function: { name: "get_weather" } },
      tools: [zodFunction({
        name: "get_weather", parameters: City, function: (given) => { called.push(given); return "sunny"; },
      })],
    },
    { maxChatCompletions: 2 },
  );
  await runner.done();
  assert.deepEqual(Object.keys(called[0]), ["city"]);
});

await check("forced call without parameters", async () => {
  const completion = await client.chat.completions.create({
    model: FAST, messages: asked, max_tokens: 40, tool_choice: "required",
    tools: [{ type: "function", function: { name: "ping" } }],
  });
  assert.equal(completion.choices[0].message.tool_calls?.[0].function.arguments, "{}", JSON.stringify(completion.choices));
});

await check("embeddings", async () => {
  const reply = await client.embeddings.create({ model: EMBEDDER, input: ["a river", "a village"] });
  assert.deepEqual(reply.data.map((item) => item.embedding.length), [768, 768]);
});

await check("completions", async () => {
  const pieces = await collect(
    await client.completions.create({ model: BASE, prompt: "The capital of France is", max_tokens: 8, stream: true }),
  );
  assert(pieces.map((piece) => piece.choices[0]?.text ?? "").join(""));
});

await check("responses", async () => {
  const response = await client.responses.create({ model: DEFAULT, input: QUESTION, max_output_tokens: 24, temperature: 0 });
  assert.match(response.output_text, /Paris/);
  const next = await client.responses.create({
    model: FAST, input: "And of Italy?", previous_response_id: response.id, max_output_tokens: 16,
  });
  assert(next.output_text);
  assert.equal((await client.responses.retrieve(response.id)).output_text, response.output_text);
  await client.responses.delete(response.id);
  await expect(OpenAI.NotFoundError, client.responses.retrieve(response.id));
});

await check("responses from a stream", async () => {
  const stream = client.responses.stream({ model: FAST, input: QUESTION, max_output_tokens: 24, temperature: 0 });
  let text = "";
  stream.on("response.output_text.delta", (event) => (text += event.delta));
  const final = await stream.finalResponse();
  assert.match(text, /Paris/);
  assert.equal(final.output_text, text);
});

await check("responses parse a nested model", async () => {
  const response = await client.responses.parse({
    model: DEFAULT, input: QUESTION, max_output_tokens: 120, temperature: 0,
    text: { format: zodTextFormat(Forecast, "forecast") },
  });
  Forecast.parse(response.output_parsed);
});

await check("typed errors", async () => {
  const missing = await expect(OpenAI.NotFoundError, client.chat.completions.create({ model: "no-such-model", messages }));
  assert.equal(missing.code, "model_not_found");
  const stranger = new OpenAI({ baseURL: URL_V1, apiKey: "sk-nobody", maxRetries: 0 });
  await expect(OpenAI.AuthenticationError, stranger.models.list());
});

await check("prompt too long for a stream", async () => {
  for (const stream of [false, true]) {
    const error = await expect(
      OpenAI.BadRequestError,
      client.chat.completions.create({ model: DEFAULT, messages: [{ role: "user", content: TOO_LONG }], stream }),
    );
    assert.equal(error.code, "context_length_exceeded");
  }
});

await check("error late in a stream", async () => {
  const stream = await client.chat.completions.create({ model: FAST, messages: story, max_tokens: 500, stream: true });
  let seen = 0;
  const reading = (async () => {
    for await (const chunk of stream) if (++seen === 3) await cancelTurn(chunk);
  })();
  const error = await expect(OpenAI.APIError, reading);
  assert(error.message);
  await idle();
});

await check("aborted stream leaves no work", async () => {
  const control = new AbortController();
  const stream = await client.chat.completions.create(
    { model: FAST, messages: story, max_tokens: 1000, stream: true }, { signal: control.signal },
  );
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta.content) control.abort();
  }
  await idle();
});

await check("time-out leaves no work", async () => {
  await expect(
    OpenAI.APIConnectionTimeoutError,
    client.chat.completions.create({ model: FAST, messages: story, max_tokens: 1000 }, { timeout: 500 }),
  );
  await idle();
});

await check("fields that change nothing", async () => {
  const completion = await client.chat.completions.create({
    model: FAST, max_tokens: 8, reasoning_effort: "minimal", metadata: { run: "1" }, service_tier: "auto", verbosity: "low",
    messages: [...messages, { role: "assistant", content: "Paris.", refusal: null, annotations: [] }, ...messages],
  });
  assert(completion.choices[0].message.content);
  z.string().parse(completion.system_fingerprint);
});

finish();
