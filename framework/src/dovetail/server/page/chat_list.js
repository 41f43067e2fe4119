// The list of conversations: to open, name and delete them.
"use strict";

const rows = new Map(); // by conversation
const SHORT_OF_ROOM = "The browser has no room to keep this conversation: it will be gone with the page. Delete others to make room.";

/** One conversation in the list. The one that is open can be named and deleted. */
class ChatRow {
  constructor(chat) {
    this.chat = chat;
    this.title = button("", () => {
      showChat(chat);
      closeChats();
    });
    this.title.className = "open";
    this.tools = el("div", { className: "tools" });
    this.root = el("li", {}, this.title, this.tools);
    this.show();
  }

  update() {
    const { chat } = this;
    const title = chat.title || "Untitled";
    if (this.title.textContent !== title) this.title.textContent = this.title.title = title;
    const open = chat === current;
    if (open) this.title.setAttribute("aria-current", "true");
    else this.title.removeAttribute("aria-current");
    this.root.classList.toggle("running", Boolean(chat.running));
    if (!open && this.busy) this.show();
    this.tools.hidden = !open;
  }

  show() {
    this.busy = false; // whether something is asked of the user
    this.title.hidden = false;
    this.tools.replaceChildren(button("Rename", () => this.rename()), button("Delete", () => this.confirm()));
  }

  rename() {
    this.busy = true;
    this.title.hidden = true;
    const field = el("input", { value: this.chat.title, maxLength: 200, "aria-label": "Name of the conversation" });
    const finish = () => {
      const title = field.value.trim();
      if (title && title !== this.chat.title) Object.assign(this.chat, { title, named: true });
      this.show();
      this.update();
      if (storeHead(this.chat)) listChats();
      this.title.focus();
    };
    const cancel = () => {
      this.show();
      this.title.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (sends(event)) finish();
      else if (event.key === "Escape") {
        event.stopPropagation(); // elsewhere it stops the answer
        cancel();
      }
    });
    this.tools.replaceChildren(field, button("Save", finish), button("Cancel", cancel));
    field.select();
  }

  confirm() {
    this.busy = true;
    const keep = button("Keep", () => {
      this.show();
      this.title.focus();
    });
    this.tools.replaceChildren(el("span", {}, "Delete it?"), button("Delete", () => deleteChat(this.chat)), keep);
    keep.focus();
  }
}

/** Show the list as it is now, the newest conversation first. */
function listChats() {
  const ordered = [...chats.values()].sort((one, other) => other.changed - one.changed);
  for (const chat of rows.keys()) if (chats.get(chat.id) !== chat) rows.delete(chat);
  const wanted = ordered.map((chat) => {
    if (!rows.has(chat)) rows.set(chat, new ChatRow(chat));
    rows.get(chat).update();
    return rows.get(chat).root;
  });
  const list = $("chat-list");
  // Elements that are moved lose the focus.
  if (wanted.length !== list.children.length || wanted.some((root, place) => root !== list.children[place])) {
    list.replaceChildren(...wanted);
  }
  $("chats-note").hidden = wanted.length > 0;
  $("delete-all").hidden = wanted.length < 2;
  $("storage-trouble").textContent = current.unsaved ? SHORT_OF_ROOM : "";
}

function buildChatList() {
  $("new-chat").addEventListener("click", () => {
    newChat();
    closeChats();
    $("question").focus();
  });
  const tools = $("delete-all");
  const offer = () => tools.replaceChildren(button("Delete all", confirm));
  const confirm = () => {
    const keep = button("Keep", offer);
    const all = button("Delete", () => {
      for (const chat of [...chats.values()]) deleteChat(chat);
      offer();
    });
    tools.replaceChildren(el("span", {}, `Delete all ${chats.size}?`), all, keep);
    keep.focus();
  };
  offer();
}
