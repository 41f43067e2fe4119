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

/** Formulas: `$$…$$` and `\[…\]` apart, `$…$` and `\(…\)` in a line. A dollar before a space or behind one, or before a digit, is money. */
const FORMULA_BLOCK = /^ {0,3}(?:\$\$([^$]{1,4000})\$\$|\\\[((?:(?!\\\])[^]){1,4000})\\\])[ \t]*(?:\n|$)/;
const FORMULA_INLINE = /^(?:\$\$([^$]{1,4000})\$\$|\\\[((?:(?!\\\])[^]){1,4000})\\\]|\\\(([^]{1,1000}?)\\\)|\$(?!\s)((?:\\[^]|[^$\\\n`]){1,1000})(?<!\s)\$(?!\d))/;

function formulaRule(name, level, start, pattern) {
  return {
    name,
    level,
    start: (text) => start.exec(text)?.index,
    tokenizer(text) {
      const found = pattern.exec(text);
      if (!found) return undefined;
      return { type: name, raw: found[0], apart: (found[1] ?? found[2]) !== undefined };
    },
    // The sanitiser lets it through as code; what becomes of it is drawn afterwards.
    renderer: ({ raw, apart }) => `<code class="${apart ? "formula apart" : "formula"}">${asText(raw.trim())}</code>`,
  };
}

markdown.use({
  extensions: [
    formulaRule("formula_block", "block", /(?<=\n) {0,3}(?:\$\$|\\\[)/, FORMULA_BLOCK),
    formulaRule("formula", "inline", /\$|\\[[(]/, FORMULA_INLINE),
  ],
});

const DEEPEST = 20; // quotes, lists and emphasis within each other; what lies deeper is shown as it was written

/** Does not follow a text into depths where the stack would overflow, and where nobody could read it. */
class BoundedLexer extends marked.Lexer {
  depth = 0;

  blockTokens(text, tokens = [], ...more) {
    return this.within(tokens, { type: "paragraph", raw: text, text, tokens: [asWritten(text)] }, () => super.blockTokens(text, tokens, ...more));
  }

  inlineTokens(text, tokens = []) {
    return this.within(tokens, asWritten(text), () => super.inlineTokens(text, tokens));
  }

  within(tokens, plain, lex) {
    if (this.depth >= DEEPEST) {
      tokens.push(plain);
      return tokens;
    }
    this.depth++;
    try {
      return lex();
    } finally {
      this.depth--;
    }
  }
}

const asWritten = (text) => ({ type: "text", raw: text, text, escaped: false });

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
    const found = new BoundedLexer(markdown.defaults).lex(text);
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
    highlight(pre.firstElementChild ?? pre, language);
    figure.append(el("figcaption", {}, el("span", {}, language), copyButton(() => pre.textContent)), pre);
  }
  for (const code of fragment.querySelectorAll("code.formula")) {
    const apart = code.classList.contains("apart");
    const shown = formula(code.textContent.replace(/^(?:\$\$?|\\[[(])|(?:\$\$?|\\[\])])$/g, ""), apart);
    if (shown) code.replaceWith(apart ? el("div", { className: "formula", tabIndex: 0 }, shown) : shown);
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = el("div", { className: "table", tabIndex: 0 });
    table.replaceWith(frame);
    frame.append(table);
  }
  return fragment;
}
