// Vectors, by OpenAI's client and by the AI SDK.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany } from "ai";
import OpenAI from "openai";
import { apiKey, baseURL, name, tell } from "./shared.mjs";

const input = ["a", "b"];
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const provider = createOpenAICompatible({ name: "dovetail", baseURL, apiKey });
const made = await embedMany({ model: provider.embeddingModel(name), values: input, maxRetries: 0 });
tell({
  openai: (await client.embeddings.create({ model: name, input })).data.map((entry) => entry.embedding.slice(0, 8)),
  sdk: made.embeddings.map((vector) => vector.slice(0, 8)),
});
