// From the Markdown that a model writes to elements. Nothing that it writes is trusted: its HTML is shown as the text that it is, its pictures
// are links, and what remains goes through a sanitiser that knows few elements.
"use strict";

const HTML_CHARACTERS = /[&<>"']/g;
const asText = (text) => text.replace(HTML_CHARACTERS, (character) => `&#${character.charCodeAt(0)};`);

const markdown = new marked.Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text, block }) => (block ? `<p>${asText(text)}</p>` : asText(text)),
    image: ({ href, text }) => `<a href="${asText(href)}">${asText(text || href)}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    heading({ tokens, depth }) {
      const level = Math.min(depth + 3, 6); // the page itself has the first three
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
  },
});

const SANITISER = {
  ALLOWED_TAGS: (
    "a blockquote br code del em h4 h5 h6 hr li ol p pre span strong sub sup table tbody td th thead tr ul"
  ).split(" "),
  ALLOWED_ATTR: ["align", "class", "href", "start", "title"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ["align", "start"], // no addresses, so they need not look like one
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer");
});

/** Shows a text that grows. Blocks that stay as they were are left alone, so that selections in them stay, too. */
class MarkdownView {
  constructor(element) {
    this.element = element;
    this.sources = [];
  }

  /** Show the text, which may be `complete`. */
  show(text, complete = false) {
    const found = markdown.lexer(text);
    const blocks = found.filter(({ type }) => type !== "space" && type !== "def");
    const anew = complete && Object.keys(found.links).length > 0; // what a link refers to may have come after it
    blocks.forEach((block, place) => {
      if (!anew && this.sources[place] === block.raw) return;
      this.sources[place] = block.raw;
      const shown = el("div", {}, drawn(block));
      const before = this.element.children[place];
      if (before) before.replaceWith(shown);
      else this.element.append(shown);
    });
    this.sources.length = blocks.length;
    while (this.element.children.length > blocks.length) this.element.lastElementChild.remove();
  }
}

function drawn(block) {
  const fragment = DOMPurify.sanitize(markdown.parser([block]), SANITISER);
  for (const pre of fragment.querySelectorAll("pre")) {
    const language = /language-(\S+)/.exec(pre.firstElementChild?.className)?.[1] ?? "";
    const figure = el("figure", { className: "code" });
    pre.replaceWith(figure);
    pre.tabIndex = 0; // so that the keyboard can scroll it
    figure.append(el("figcaption", {}, el("span", {}, language), copyButton(() => pre.textContent)), pre);
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = el("div", { className: "table", tabIndex: 0 });
    table.replaceWith(frame);
    frame.append(table);
  }
  return fragment;
}
