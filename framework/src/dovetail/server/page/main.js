// Begins: builds the parts, and opens and closes what stands at the sides.
"use strict";

/** A part at the side of the page, with the button that opens it. Where there is no room beside the rest, it covers it. */
class Side {
  /** `room` is the media query that says whether there is room beside the rest. */
  constructor(name, room) {
    this.name = name;
    this.part = $(name);
    this.toggle = $(`${name}-toggle`);
    this.room = window.matchMedia(room);
    const fit = () => this.show(this.room.matches && kept[name] !== false);
    fit();
    this.room.addEventListener("change", fit);
    this.toggle.addEventListener("click", () => this.open(this.part.hidden));
    $(`${name}-close`).addEventListener("click", () => this.open(false));
    this.part.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.covers) return;
      event.stopPropagation(); // elsewhere it stops the answer
      this.close();
    });
  }

  show(open) {
    this.covers = open && !this.room.matches;
    this.part.hidden = !open;
    this.part.classList.toggle("covers", this.covers);
    this.toggle.setAttribute("aria-expanded", open);
    const covered = sides.some(({ covers }) => covers);
    $("header").inert = $("main").inert = covered;
    $("veil").hidden = !covered;
    if (this.covers) this.part.focus();
  }

  open(open) {
    this.show(open);
    if (this.room.matches) keep({ [this.name]: open });
    else if (!open) this.toggle.focus();
  }

  /** Close it where it covers the rest. */
  close() {
    if (this.covers) this.open(false);
  }
}

const sides = [];

function closeChats() {
  sides.find(({ name }) => name === "chats")?.close();
}

async function begin() {
  buildSettings();
  buildChatList();
  buildChat();
  sides.push(new Side("chats", "(min-width: 75rem)"), new Side("panel", "(min-width: 62rem)"));
  $("veil").addEventListener("click", () => sides.forEach((side) => side.close()));
  watch();
  try {
    await listModels();
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    $("welcome").textContent = error.message;
  }
}

begin();
