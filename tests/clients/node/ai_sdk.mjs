// Vercel's AI SDK with its provider for OpenAI, over responses, chat, completions and embeddings.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, Output, embedMany, generateText, stepCountIs, streamText, tool } from "ai";
import { BASE, DEFAULT, EMBEDDER, FAST, KEY, QUESTION, STORY, TOO_LONG, URL_V1, check, expect, finish, idle } from "./harness.mjs";
import { City, Forecast } from "./models.mjs";

const openai = createOpenAI({ baseURL: URL_V1, apiKey: KEY });
const settings = { maxOutputTokens: 120, temperature: 0, maxRetries: 0 };
const weather = () => tool({ description: "The weather of a city.", inputSchema: City, execute: async () => "sunny" });

await check("responses", async () => {
  const { text, usage, finishReason } = await generateText({ model: openai(DEFAULT), prompt: QUESTION, ...settings });
  assert.match(text, /Paris/);
  assert(usage.outputTokens > 0);
  assert.equal(finishReason, "stop");
});

await check("responses from a stream", async () => {
  const result = streamText({ model: openai(FAST), system: "Be brief.", prompt: QUESTION, ...settings, onError() {} });
  let text = "";
  for await (const part of result.textStream) text += part;
  assert.match(text, /Paris/);
  assert((await result.usage).outputTokens > 0);
});

await check("responses answer in a nested model", async () => {
  const { output } = await generateText({
    model: openai(DEFAULT), prompt: "A forecast for Paris", output: Output.object({ schema: Forecast }), ...settings,
  });
  Forecast.parse(output);
});

await check("responses call tools in steps", async () => {
  const { steps } = await generateText({
    model: openai(FAST), prompt: "The weather of Paris?", tools: { weather: weather() }, toolChoice: "required",
    stopWhen: stepCountIs(2), ...settings, maxOutputTokens: 40,
  });
  assert.deepEqual(Object.keys(steps[0].toolCalls[0].input), ["city"]);
  assert.equal(steps.length, 2);
});

await check("chat", async () => {
  const { text, usage } = await generateText({ model: openai.chat(DEFAULT), prompt: QUESTION, ...settings });
  assert.match(text, /Paris/);
  assert(usage.outputTokens > 0);
});

await check("chat from a stream", async () => {
  const result = streamText({ model: openai.chat(DEFAULT), prompt: QUESTION, ...settings, onError() {} });
  let text = "";
  for await (const part of result.textStream) text += part;
  assert.match(text, /Paris/);
  assert((await result.usage).outputTokens > 0);
});

await check("chat answers in a nested model", async () => {
  const { output } = await generateText({
    model: openai.chat(DEFAULT), prompt: "A forecast for Paris", output: Output.object({ schema: Forecast }), ...settings,
  });
  Forecast.parse(output);
});

await check("chat calls tools in steps", async () => {
  const result = streamText({
    model: openai.chat(FAST), prompt: "The weather of Paris?", tools: { weather: weather() }, toolChoice: "required",
    stopWhen: stepCountIs(2), ...settings, maxOutputTokens: 40, onError() {},
  });
  const steps = await result.steps;
  assert.deepEqual(Object.keys(steps[0].toolCalls[0].input), ["city"]);
  assert.equal(steps.length, 2);
});

await check("completions", async () => {
  const { text } = await generateText({
    model: openai.completion(BASE), prompt: "The capital of France is", maxOutputTokens: 8, maxRetries: 0,
  });
  assert(text);
});

await check("embeddings", async () => {
  const { embeddings } = await embedMany({ model: openai.embedding(EMBEDDER), values: ["a river", "a village"], maxRetries: 0 });
  assert.deepEqual(embeddings.map((vector) => vector.length), [768, 768]);
});

await check("prompt too long", async () => {
  for (const model of [openai(FAST), openai.chat(FAST)]) {
    const error = await expect(APICallError, generateText({ model, prompt: TOO_LONG, ...settings }));
    assert.equal(error.statusCode, 400);
    assert.match(error.message, /context/);
  }
});

await check("prompt too long for a stream", async () => {
  for (const model of [openai(FAST), openai.chat(DEFAULT)]) {
    const faults = [];
    const result = streamText({ model, prompt: TOO_LONG, ...settings, onError: ({ error }) => faults.push(error) });
    await result.consumeStream();
    assert.equal(faults[0]?.statusCode, 400, String(faults[0]));
  }
});

await check("aborted stream leaves no work", async () => {
  for (const model of [openai(FAST), openai.chat(FAST)]) {
    const control = new AbortController();
    const result = streamText({ model, prompt: STORY, maxOutputTokens: 1000, abortSignal: control.signal, onError() {} });
    let seen = 0;
    for await (const part of result.textStream) {
      seen += part.length;
      control.abort();
    }
    assert(seen > 0, "no text before the abort");
    await idle();
  }
});

finish();
