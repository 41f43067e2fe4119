// One conversation: its messages, how they look, and the answer that is coming. Several may be answered at once; one is shown.
"use strict";

const TITLE_LENGTH = 80;

class Conversation {
  constructor(id, { title = "", named = false, changed = 0 } = {}) {
    this.id = id;
    this.title = title;
    this.named = named; // by the user; otherwise it is called after its first message
    this.changed = changed;
    this.running = null; // the AbortController of the answer that is coming
    this.unsaved = false;
    this.messages = [];
    this.views = [];
    this.loaded = false;
  }

  /** Read the messages, which is done when the conversation is first shown. */
  open() {
    if (this.loaded) return;
    this.loaded = true;
    this.messages = [];
    this.views = [];
    for (const message of readMessages(this.id)) this.append(message);
  }

  append(message) {
    const place = this.messages.push(message) - 1;
    const view =
      message.role === "user"
        ? new UserView(message, (text) => { this.cut(place); this.say(text); })
        : new AnswerView(message, () => { this.cut(place); this.answer(); }, () => follow(this));
    this.views.push(view);
    return view;
  }

  add(message) {
    const view = this.append(message);
    if (this.messages.length === 1 && !this.named) this.title = titleOf(message.content);
    this.changed = Date.now();
    this.save();
    showMessages(this);
    return view;
  }

  say(text) {
    this.add({ role: "user", content: text });
    this.answer();
  }

  /** Forget the messages from a place on. */
  cut(place) {
    this.stop();
    this.messages.length = this.views.length = place;
  }

  stop() {
    this.running?.abort();
  }

  save() {
    this.unsaved = !storeChat(this);
    chatChanged(this);
  }

  async answer() {
    this.stop();
    const control = (this.running = new AbortController());
    const sent = this.messagesToSend();
    const coming = newAnswer();
    const view = this.add(coming);
    announce("The model is answering.");
    try {
      await receive(coming, view, sent, control.signal);
    } catch (error) {
      if (error.name === "AbortError") coming.finish = "stopped";
      else if (error instanceof ServerError) coming.error = error.message;
      else throw error;
    } finally {
      coming.complete = true;
      view.draw();
      if (this.running === control) this.running = null;
      // Unless it was forgotten meanwhile.
      if (this.messages.includes(coming) && chats.has(this.id)) this.save();
      else chatChanged(this);
    }
    if (this === current) announce(view.spoken() || factsOf(coming));
  }

  /** What the server gets to read: no thoughts, and no answers that never came. */
  messagesToSend() {
    const sent = this.messages.map(({ role, content, calls }) => {
      if (role === "user") return { role, content };
      const called = (calls ?? []).filter(Boolean).map(({ id, name, arguments: given }) => ({
        id,
        type: "function",
        function: { name, arguments: given },
      }));
      return { role, content: splitThoughts(content, true).answer, ...(called.length && { tool_calls: called }) };
    });
    const system = $("system").value.trim();
    const opening = system ? [{ role: "system", content: system }] : [];
    return [...opening, ...sent.filter(({ content, tool_calls }) => content || tool_calls)];
  }
}

async function receive(coming, view, messages, signal) {
  const reader = new AnswerReader(coming);
  const body = {
    ...chosenFields(),
    messages,
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
  };
  for await (const chunk of events(await ask("v1/chat/completions", body, signal))) {
    reader.add(chunk);
    view.drawSoon();
  }
}

function titleOf(text) {
  const line = text.trim().split("\n", 1)[0];
  return line.length > TITLE_LENGTH ? `${line.slice(0, TITLE_LENGTH).trimEnd()}…` : line;
}

/** An id that no other tab makes. */
function newId() {
  return [...crypto.getRandomValues(new Uint32Array(2))].map((part) => part.toString(36)).join("");
}
