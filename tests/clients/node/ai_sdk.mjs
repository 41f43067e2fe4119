// Vercel's AI SDK, by the provider that PROVIDER names.

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { Town, Weather, apiKey, baseURL, joined, name, question, tell } from "./shared.mjs";

const openai = createOpenAI({ baseURL, apiKey });
const compatible = createOpenAICompatible({
  name: "dovetail",
  baseURL,
  apiKey,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const models = { compatible: compatible(name), chat: openai.chat(name), responses: openai(name) };
// The Responses API wants room for 16 tokens.
const short = { model: models[process.env.PROVIDER], prompt: question, temperature: 0, maxOutputTokens: 16, maxRetries: 0 };
const long = { ...short, maxOutputTokens: 30 };

async function last(iterable) {
  let found;
  for await (const each of iterable) found = each;
  return found;
}

async function steps() {
  const given = [];
  const weather = tool({
    description: "of a city",
    inputSchema: Weather,
    execute: (input) => {
      given.push(input);
      return { weather: "sunny" };
    },
  });
  const answer = await generateText({
    ...long,
    tools: { weather },
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "none" : "required" }),
    providerOptions: { openai: { parallelToolCalls: false }, dovetail: { parallel_tool_calls: false } },
    stopWhen: stepCountIs(2),
  });
  return { given, reasons: answer.steps.map((step) => step.finishReason), text: answer.text };
}

const whole = await generateText(short);
const streamed = streamText({
  ...short,
  onError: ({ error }) => {
    throw error;
  },
});
tell({
  whole: whole.text,
  reason: whole.finishReason,
  stream: await joined(streamed.textStream),
  usage: [(await streamed.usage).outputTokens, whole.usage.outputTokens],
  object: (await generateObject({ ...long, schema: Town })).object,
  output: (await generateText({ ...long, output: Output.object({ schema: Town }) })).output,
  streamedObject: await last(streamObject({ ...long, schema: Town }).partialObjectStream),
  steps: await steps(),
});
