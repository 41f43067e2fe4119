// OpenAI's client: chat, streams, tools that it runs itself, forms, errors.

import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { Town, Weather, apiKey, baseURL, joined, name, question, tell } from "./shared.mjs";

const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const { completions } = client.chat;
const asked = { model: name, messages: [{ role: "user", content: question }], temperature: 0, max_tokens: 8 };

async function* texts(stream) {
  for await (const chunk of stream) yield chunk.choices[0]?.delta.content;
}

async function tools(stream) {
  const given = [];
  const weather = zodFunction({
    name: "weather",
    description: "of a city",
    parameters: Weather,
    function: (input) => {
      given.push(input);
      return `sunny in ${input.city}`;
    },
  });
  const choice = { tool_choice: { type: "function", function: { name: "weather" } }, parallel_tool_calls: false };
  const runner = completions.runTools(
    { ...asked, ...choice, stream, max_tokens: 30, tools: [weather] },
    { maxChatCompletions: 2 },
  );
  await runner.done();
  return { given, roles: runner.messages.map((message) => message.role) };
}

async function errors() {
  const found = [];
  const tries = [
    () => completions.create({ ...asked, model: "other" }),
    () => completions.create({ ...asked, max_tokens: 10000 }),
    () => new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 }).models.list(),
  ];
  for (const attempt of tries) {
    const error = await attempt().catch((caught) => caught);
    found.push([error.constructor.name, error.status, error.code, error.param, Boolean(error.requestID)]);
  }
  return found;
}

const whole = await completions.create(asked);
const helper = completions.stream({ ...asked, stream_options: { include_usage: true } });
const form = zodResponseFormat(Town, "town");
tell({
  models: (await client.models.list()).data.map((model) => model.id),
  whole: whole.choices[0].message.content,
  stream: await joined(texts(await completions.create({ ...asked, stream: true }))),
  helper: await helper.finalContent(),
  usage: [(await helper.totalUsage()).completion_tokens, whole.usage.completion_tokens],
  parsed: (await completions.parse({ ...asked, max_tokens: 30, response_format: form })).choices[0].message.parsed,
  tools: await tools(false),
  streamedTools: await tools(true),
  errors: await errors(),
});
