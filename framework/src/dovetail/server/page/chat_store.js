// What the browser keeps of conversations: in localStorage, for each a small head (title, time), which the list reads, and its messages apart.
"use strict";

const HEAD = "dovetail.chat.";
const BODY = "dovetail.messages.";

/** The heads of all conversations that are kept, by id. */
function loadHeads() {
  const heads = new Map();
  for (const key of storedKeys()) {
    const head = key.startsWith(HEAD) && readHead(key.slice(HEAD.length));
    if (head) heads.set(key.slice(HEAD.length), head);
  }
  return heads;
}

function storedKeys() {
  try {
    return Object.keys(window.localStorage);
  } catch {
    return []; // the browser keeps nothing for this page
  }
}

/** The head of one conversation, or null; another version, or somebody by hand, may have written something else there. */
function readHead(id) {
  const head = load("localStorage", HEAD + id, null);
  if (typeof head?.title !== "string" || !Number.isFinite(head.changed)) return null;
  return { title: head.title, named: Boolean(head.named), changed: head.changed };
}

function readMessages(id) {
  const found = load("localStorage", BODY + id, []);
  return Array.isArray(found) ? found.map(readMessage).filter(Boolean) : [];
}

function readMessage(message) {
  if (typeof message?.content !== "string") return null;
  if (message.role === "user") return { role: "user", content: message.content };
  const answer = { ...newAnswer(), ...message, role: "assistant" };
  if (typeof answer.reasoning !== "string" || !Array.isArray(answer.calls)) return null;
  // What was coming when the page was left will come no more.
  return answer.complete ? answer : { ...answer, complete: true, finish: "stopped" };
}

/** Keep a conversation. False if there is no room for it; what was kept of it before stays then. */
function storeChat({ id, title, named, changed, messages }) {
  const isNew = !readHead(id);
  const stored = save("localStorage", HEAD + id, { title, named, changed }) && save("localStorage", BODY + id, messages);
  if (!stored && isNew) forgetChat(id);
  return stored;
}

function storeHead({ id, title, named, changed }) {
  return save("localStorage", HEAD + id, { title, named, changed });
}

function forgetChat(id) {
  for (const key of [HEAD + id, BODY + id]) {
    try {
      window.localStorage.removeItem(key);
    } catch {
      // Then it was never kept.
    }
  }
}
