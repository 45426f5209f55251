// Vercel's AI SDK with its provider for servers that speak as OpenAI's does.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, embedMany, generateText, stepCountIs, streamText, tool } from "ai";
import { BASE, DEFAULT, EMBEDDER, FAST, KEY, QUESTION, TOO_LONG, URL_V1, check, expect, finish } from "./harness.mjs";
import { City, Forecast } from "./models.mjs";

const kiki = createOpenAICompatible({
  name: "kiki", baseURL: URL_V1, apiKey: KEY, includeUsage: true, supportsStructuredOutputs: true,
});
const settings = { maxOutputTokens: 120, temperature: 0, maxRetries: 0 };

await check("chat", async () => {
  const { text } = await generateText({ model: kiki(DEFAULT), system: "Be brief.", prompt: QUESTION, ...settings });
  assert.match(text, /Paris/);
});

await check("chat from a stream", async () => {
  const result = streamText({ model: kiki(DEFAULT), prompt: QUESTION, ...settings, onError() {} });
  let text = "";
  for await (const part of result.textStream) text += part;
  assert.match(text, /Paris/);
  assert((await result.usage).outputTokens > 0);
});

await check("nested model", async () => {
  const { output } = await generateText({
    model: kiki(DEFAULT), prompt: "A forecast for Paris", output: Output.object({ schema: Forecast }), ...settings,
  });
  Forecast.parse(output);
});

await check("nested model from a stream", async () => {
  const result = streamText({
    model: kiki(FAST), prompt: "A forecast for Paris", output: Output.object({ schema: Forecast }), ...settings, onError() {},
  });
  Forecast.parse(await result.output);
});

await check("tools in steps", async () => {
  const weather = tool({ description: "The weather of a city.", inputSchema: City, execute: async () => "sunny" });
  const { steps } = await generateText({
    model: kiki(FAST), prompt: "The weather of Paris?", tools: { weather }, toolChoice: "required",
    stopWhen: stepCountIs(2), ...settings, maxOutputTokens: 40,
  });
  assert.deepEqual(Object.keys(steps[0].toolCalls[0].input), ["city"]);
  assert.equal(steps.length, 2);
});

await check("completions", async () => {
  const { text } = await generateText({
    model: kiki.completionModel(BASE), prompt: "The capital of France is", maxOutputTokens: 8, maxRetries: 0,
  });
  assert(text);
});

await check("embeddings", async () => {
  const { embeddings } = await embedMany({ model: kiki.embeddingModel(EMBEDDER), values: ["a river"], maxRetries: 0 });
  assert.equal(embeddings[0].length, 768);
});

await check("prompt too long", async () => {
  const error = await expect(APICallError, generateText({ model: kiki(DEFAULT), prompt: TOO_LONG, ...settings }));
  assert.equal(error.statusCode, 400);
});

finish();
