// An answer while it comes: what its deltas add up to, and how fast they came.
"use strict";

const THOUGHT_BEGINS = "<think>";
const THOUGHT_ENDS = "</think>";

/**
 * Tell thoughts from the answer where the server has not. They open an answer; a tag further on is something that the model writes about.
 * Until the text is complete, what may be the beginning of a tag is held back.
 */
function splitThoughts(text, complete) {
  let thoughts = "";
  let rest = text;
  for (;;) {
    const start = rest.trimStart();
    if (!start.startsWith(THOUGHT_BEGINS)) {
      const held = !complete && THOUGHT_BEGINS.startsWith(start);
      return { thoughts, answer: held ? "" : thoughts ? start : rest, thinking: false };
    }
    const end = start.indexOf(THOUGHT_ENDS);
    if (end < 0) {
      const open = start.slice(THOUGHT_BEGINS.length);
      return { thoughts: thoughts + open.slice(0, open.length - begun(open, complete)), answer: "", thinking: true };
    }
    thoughts += start.slice(THOUGHT_BEGINS.length, end);
    rest = start.slice(end + THOUGHT_ENDS.length);
  }
}

/** How many characters at the end may be the beginning of the tag that ends a thought. */
function begun(text, complete) {
  if (complete) return 0;
  for (let length = THOUGHT_ENDS.length - 1; length > 0; length--) {
    if (text.endsWith(THOUGHT_ENDS.slice(0, length))) return length;
  }
  return 0;
}

function newAnswer() {
  return { role: "assistant", content: "", reasoning: "", calls: [], error: "", finish: "", tokens: 0, complete: false };
}

/** Adds the chunks of a stream to an answer, and measures. Times are in milliseconds of the page's clock. */
class AnswerReader {
  constructor(answer, now = () => performance.now()) {
    this.answer = answer;
    this.now = now;
    this.asked = now();
    this.first = null;
    this.tokensAtFirst = 0;
  }

  add(chunk) {
    const { answer } = this;
    if (chunk.usage) {
      answer.tokens = chunk.usage.completion_tokens;
      answer.promptTokens = chunk.usage.prompt_tokens;
    }
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const { content, reasoning_content, reasoning, tool_calls } = choice.delta;
    answer.content += content ?? "";
    answer.reasoning += reasoning_content ?? reasoning ?? "";
    for (const call of tool_calls ?? []) this.addCall(call);
    if (content || reasoning_content || reasoning || tool_calls?.length) this.measure();
    if (choice.finish_reason) answer.finish = choice.finish_reason;
  }

  addCall({ index, id, function: part }) {
    const call = (this.answer.calls[index] ??= { id: "", name: "", arguments: "" });
    call.id ||= id ?? "";
    call.name += part?.name ?? "";
    call.arguments += part?.arguments ?? "";
  }

  measure() {
    const now = this.now();
    if (this.first === null) {
      this.first = now;
      this.tokensAtFirst = this.answer.tokens;
      this.answer.firstTokenSeconds = (now - this.asked) / 1000;
    }
    const seconds = (now - this.first) / 1000;
    if (seconds > 0) this.answer.rate = (this.answer.tokens - this.tokensAtFirst) / seconds;
  }
}

const ENDINGS = {
  length: "ended at the limit of tokens",
  stopped: "stopped",
  content_filter: "ended by a filter",
};

/** What there is to say of an answer, in one line. */
function factsOf({ tokens, rate, firstTokenSeconds, finish }) {
  const facts = [];
  if (tokens || finish === "stopped") facts.push(tokens === 1 ? "1 token" : `${tokens} tokens`);
  if (rate) facts.push(`${rate.toFixed(1)} tokens/s`);
  if (firstTokenSeconds !== undefined) facts.push(`first after ${firstTokenSeconds.toFixed(2)} s`);
  if (finish in ENDINGS) facts.push(ENDINGS[finish]);
  return facts.join(" · ");
}
