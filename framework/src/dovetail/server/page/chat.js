// The conversation: kept in sessionStorage, so that it survives a reload and ends with the tab.
"use strict";

const CHAT_KEY = "dovetail.chat";

const conversation = load("sessionStorage", CHAT_KEY, []);
let running = null; // the AbortController of the answer that is coming
let following = true; // whether the end of the conversation is kept in sight

/** What the server gets to read: no thoughts, and no answers that never came. */
function messagesToSend() {
  const sent = conversation.map(({ role, content, calls }) => {
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

function say(text) {
  add({ role: "user", content: text });
  answer();
}

function add(message) {
  const place = conversation.push(message) - 1;
  const view =
    message.role === "user"
      ? new UserView(message, (text) => { cut(place); say(text); })
      : new AnswerView(message, () => { cut(place); answer(); }, follow);
  $("messages").append(view.root);
  $("welcome").hidden = true;
  following = true;
  follow();
  save("sessionStorage", CHAT_KEY, conversation);
  return view;
}

/** Forget the messages from a place on. */
function cut(place) {
  stopAnswer();
  conversation.length = place;
  while ($("messages").children.length > place) $("messages").lastElementChild.remove();
  $("welcome").hidden = place > 0;
  save("sessionStorage", CHAT_KEY, conversation);
}

function stopAnswer() {
  running?.abort();
}

async function answer() {
  stopAnswer();
  const control = (running = new AbortController());
  const messages = messagesToSend();
  const coming = newAnswer();
  const view = add(coming);
  showRunning();
  announce("The model is answering.");
  try {
    await receive(coming, view, messages, control.signal);
  } catch (error) {
    if (error.name === "AbortError") coming.finish = "stopped";
    else if (error instanceof ServerError) coming.error = error.message;
    else throw error;
  } finally {
    coming.complete = true;
    view.draw();
    if (running === control) running = null;
    showRunning();
  }
  // Unless it was forgotten meanwhile.
  if (conversation.includes(coming)) save("sessionStorage", CHAT_KEY, conversation);
  announce(view.spoken() || factsOf(coming));
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

function showRunning() {
  $("send").textContent = running ? "Stop" : "Send";
  $("send").classList.toggle("stop", Boolean(running));
}

/** Keep the newest words in sight, unless the user has scrolled away from them. */
function follow() {
  if (following) $("scroll").scrollTop = $("scroll").scrollHeight;
}

function noteScrolling() {
  const { scrollHeight, scrollTop, clientHeight } = $("scroll");
  following = scrollHeight - scrollTop - clientHeight < 80;
}

function buildChat() {
  // What was coming when the page was left will come no more.
  for (const message of conversation.splice(0)) {
    add(message.complete === false ? { ...message, complete: true, finish: "stopped" } : message);
  }
  $("scroll").addEventListener("scroll", noteScrolling);
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) stopAnswer();
    else send();
  });
  $("question").addEventListener("keydown", (event) => {
    if (sends(event) && !running) send();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stopAnswer();
  });
  $("clear").addEventListener("click", () => {
    cut(0);
    $("question").focus();
  });
}

function send() {
  const text = $("question").value.trim();
  if (!text) return;
  $("question").value = "";
  say(text);
}
