// How messages look: the user's with its editor, and the model's with its thoughts, calls and figures.
"use strict";

/** Tells those who do not see it who speaks, and lets them jump from message to message. */
const speaker = (name) => el("h3", { className: "unseen" }, name);

/** A message of the user. `edited` is called with a new text. */
class UserView {
  constructor(message, edited) {
    this.message = message;
    this.edited = edited;
    this.body = el("div", { className: "body" });
    this.root = el("li", { className: "user" }, speaker("You"), this.body);
    this.show();
  }

  show() {
    const tools = el("div", { className: "tools" }, copyButton(() => this.message.content), button("Edit", () => this.edit()));
    this.body.replaceChildren(el("p", { className: "said" }, this.message.content), tools);
  }

  edit() {
    const field = el("textarea", { value: this.message.content, "aria-label": "Edit your message" });
    const finish = () => this.edited(field.value.trim() || this.message.content);
    field.addEventListener("keydown", (event) => {
      if (sends(event)) finish();
      else if (event.key === "Escape") {
        event.stopPropagation(); // elsewhere it stops the answer
        this.show();
      }
    });
    const tools = el("div", { className: "tools" }, button("Ask again", finish), button("Cancel", () => this.show()));
    this.body.replaceChildren(field, tools);
    field.focus();
  }
}

/** Whether a key press means to send; one that ends the writing of a character in another script does not. */
function sends(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return false;
  event.preventDefault();
  return true;
}

/** An answer of the model. `again` asks for another one in its place; `drawn` is called when it looks different. */
class AnswerView {
  constructor(answer, again, drawn) {
    this.answer = answer;
    this.drawn = drawn;
    this.summary = el("summary");
    this.thoughts = new MarkdownView(el("div", { className: "markdown" }));
    this.folded = el("details", { className: "thoughts", hidden: true }, this.summary, this.thoughts.element);
    this.text = new MarkdownView(el("div", { className: "markdown text" }));
    this.calls = el("div", { className: "calls" });
    this.trouble = el("p", { className: "trouble", role: "alert" });
    this.facts = el("p", { className: "facts" });
    this.tools = el("div", { className: "tools" }, copyButton(() => this.spoken()), button("Regenerate", again));
    const parts = [this.folded, this.text.element, this.calls, this.trouble, this.facts, this.tools];
    this.root = el("li", { className: "answer" }, speaker("Model"), ...parts);
    this.drawing = null;
    this.draw();
  }

  /** The answer without the thoughts. */
  spoken() {
    return splitThoughts(this.answer.content, true).answer;
  }

  /** Draw with the next frame; when drawing takes long, less often. */
  drawSoon() {
    this.stale = true;
    this.drawing ??= requestAnimationFrame(() => {
      const started = performance.now();
      if (this.stale) this.draw();
      setTimeout(() => {
        this.drawing = null;
        if (this.stale) this.drawSoon();
      }, 3 * (performance.now() - started));
    });
  }

  draw() {
    const { answer } = this;
    this.stale = false;
    const { thoughts, answer: text, thinking } = splitThoughts(answer.content, answer.complete);
    this.drawThoughts((answer.reasoning + thoughts).trim(), thinking || !text);
    this.text.show(text, answer.complete);
    this.calls.replaceChildren(...answer.calls.filter(Boolean).map(drawCall));
    this.trouble.textContent = answer.error;
    this.facts.textContent = factsOf(answer) || (answer.complete ? "" : "…");
    this.root.classList.toggle("coming", !answer.complete);
    this.drawn();
  }

  drawThoughts(thoughts, still) {
    this.folded.hidden = !thoughts;
    this.summary.textContent = still && !this.answer.complete ? "Thinking…" : "Thoughts";
    this.thoughts.show(thoughts, this.answer.complete);
  }
}

function drawCall({ name, arguments: given }) {
  let shown = given;
  try {
    shown = JSON.stringify(JSON.parse(given), null, 2);
  } catch {
    // It is still coming, or the model wrote something else.
  }
  const caption = el("figcaption", {}, el("span", {}, "Call of ", el("strong", {}, name)), copyButton(() => given));
  const code = el("code", {}, shown);
  highlight(code, "json");
  return el("figure", { className: "code" }, caption, el("pre", { tabIndex: 0 }, code));
}
