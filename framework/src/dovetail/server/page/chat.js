// The conversation that is shown, and the field below it. Which one it is, each tab remembers for itself.
"use strict";

const OPEN_KEY = "dovetail.open";

const chats = new Map(); // all conversations that the list shows, by id
let current = new Conversation(newId());
let following = true; // whether the end of the conversation is kept in sight

function showChat(chat) {
  current = chat;
  chat.open();
  save("sessionStorage", OPEN_KEY, chat.id);
  showMessages(chat);
  listChats();
}

/** Begin a conversation; the list shows it from its first message on. */
function newChat() {
  const chat = new Conversation(newId());
  chat.loaded = true;
  showChat(chat);
}

function showMessages(chat) {
  if (chat !== current) return;
  const shown = $("messages");
  const wanted = chat.views.map(({ root }) => root);
  // Elements that stay are left alone, and with them what is selected or focused in them.
  while (shown.lastElementChild && shown.lastElementChild !== wanted[shown.children.length - 1]) shown.lastElementChild.remove();
  shown.append(...wanted.slice(shown.children.length));
  $("welcome").hidden = wanted.length > 0;
  following = true;
  follow(chat);
  showRunning();
}

/** After a change to a conversation or to what is kept of it. */
function chatChanged(chat) {
  if (chat.messages.length) chats.set(chat.id, chat);
  if (chat === current) showRunning();
  listChats();
}

function deleteChat(chat) {
  forgetChat(chat.id);
  dropChat(chat);
  for (const other of chats.values()) if (other.unsaved) other.save(); // there is more room now
  listChats();
}

/** Leave a conversation that is kept no more. */
function dropChat(chat) {
  chats.delete(chat.id);
  chat.cut(0);
  if (chat === current) newChat();
}

/** Keep what has come of all answers. Otherwise the end of their connections would look like a failure of the server. */
function stopAll() {
  for (const chat of chats.values()) {
    if (chat.running) storeChat(chat);
    chat.stop();
  }
}

function showRunning() {
  $("send").textContent = current.running ? "Stop" : "Send";
  $("send").classList.toggle("stop", Boolean(current.running));
}

/** Keep the newest words in sight, unless the user has scrolled away from them. */
function follow(chat) {
  if (following && chat === current) $("scroll").scrollTop = $("scroll").scrollHeight;
}

function noteScrolling() {
  const { scrollHeight, scrollTop, clientHeight } = $("scroll");
  following = scrollHeight - scrollTop - clientHeight < 80;
}

/** Another tab changed or forgot a conversation. What is being answered here stays as it is, and is kept when the answer ends. */
function noteOtherTab({ storageArea, key }) {
  if (storageArea !== window.localStorage) return;
  if (key === null) for (const chat of [...chats.values()]) dropChat(chat);
  else if (key.startsWith(HEAD)) noteHead(key.slice(HEAD.length));
  else if (key.startsWith(BODY)) noteMessages(chats.get(key.slice(BODY.length)));
  listChats();
}

function noteHead(id) {
  const head = readHead(id);
  const chat = chats.get(id);
  if (head && chat) Object.assign(chat, head);
  else if (head) chats.set(id, new Conversation(id, head));
  else if (chat) dropChat(chat);
}

function noteMessages(chat) {
  if (!chat || chat.running) return;
  chat.loaded = false;
  if (chat === current) showChat(chat);
}

function buildChat() {
  for (const [id, head] of loadHeads()) chats.set(id, new Conversation(id, head));
  const open = chats.get(load("sessionStorage", OPEN_KEY, ""));
  if (open) showChat(open);
  else newChat();
  window.addEventListener("storage", noteOtherTab);
  // Browsers end connections before the one, after the other, or know only one of them.
  for (const leaving of ["beforeunload", "pagehide"]) window.addEventListener(leaving, stopAll);
  $("scroll").addEventListener("scroll", noteScrolling);
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (current.running) current.stop();
    else send();
  });
  $("question").addEventListener("keydown", (event) => {
    if (sends(event) && !current.running) send();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") current.stop();
  });
}

function send() {
  const text = $("question").value.trim();
  if (!text) return;
  $("question").value = "";
  current.say(text);
}
