// Formulas: from the part of TeX that models use to MathML, which browsers draw themselves. What is not known stays as it was written.
"use strict";

const MATHML = "http://www.w3.org/1998/Math/MathML"; // the name of its elements, which nobody is asked for
const LONGEST_FORMULA = 4000;
const DEEPEST_FORMULA = 40;
const TEX_TOKEN = /\\[A-Za-z]+\*?|\\[^]|\d+(?:\.\d+)?|\s+|[^]/gu;

class TexError extends Error {}

function ml(tag, attributes = {}, ...children) {
  const made = document.createElementNS(MATHML, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const mo = (text, attributes = {}) => ml("mo", attributes, text);
const fence = (text) => mo(text, { fence: "true", stretchy: "true" });
const mrow = (children) => (children.length === 1 ? children[0] : ml("mrow", {}, ...children));

/** The formula as an element, or null for one that has what is not known here. */
function formula(tex, display) {
  if (tex.length > LONGEST_FORMULA) return null;
  try {
    const reader = new TexReader(tex);
    const content = reader.table(["", ""], () => reader.done());
    const source = ml("annotation", { encoding: "application/x-tex" }, tex);
    return ml("math", display ? { display: "block" } : {}, ml("semantics", {}, content, source));
  } catch (error) {
    if (error instanceof TexError) return null;
    throw error;
  }
}

class TexReader {
  constructor(tex) {
    this.tokens = tex.trim().match(TEX_TOKEN) ?? [];
    this.place = 0;
    this.depth = 0;
  }

  done() {
    return this.place >= this.tokens.length;
  }

  peek() {
    return this.tokens[this.place];
  }

  next() {
    if (this.done()) throw new TexError("it ends too early");
    return this.tokens[this.place++];
  }

  take(token) {
    if (this.peek() !== token) return false;
    this.place++;
    return true;
  }

  skipSpace() {
    while (/^\s/.test(this.peek() ?? "")) this.place++;
  }

  /** What stands until `ends` holds. */
  row(ends) {
    if (++this.depth > DEEPEST_FORMULA) throw new TexError("it is too deep");
    const found = [];
    for (this.skipSpace(); !ends(); this.skipSpace()) {
      const atom = this.scripted();
      if (atom) found.push(atom);
    }
    this.depth--;
    return found;
  }

  /** An atom with what stands above and below it. */
  scripted() {
    const start = this.peek();
    let base = start === "^" || start === "_" ? ml("mrow") : this.atom();
    if (!base) return null;
    const { limits } = base;
    let sub = null;
    let sup = null;
    for (this.skipSpace(); ; this.skipSpace()) {
      if (!sub && this.take("_")) sub = this.argument();
      else if (!sup && this.take("^")) sup = this.argument();
      else if (this.peek() === "'" && !sup) {
        let primes = "";
        while (this.take("'")) primes += "′";
        sup = mo(primes);
        if (this.take("^")) sup = ml("mrow", {}, sup, this.argument());
      } else if (this.peek() === "^" || this.peek() === "_") throw new TexError("two of a kind");
      else break;
    }
    if (!sub && !sup) return base;
    const [below, above, both] = limits ? ["munder", "mover", "munderover"] : ["msub", "msup", "msubsup"];
    if (sub && sup) return ml(both, {}, base, sub, sup);
    return sub ? ml(below, {}, base, sub) : ml(above, {}, base, sup);
  }

  /** What a command or a script applies to: a group, or one atom. */
  argument() {
    this.skipSpace();
    return this.atom() ?? ml("mrow");
  }

  /** The text of a group as it was written. */
  raw() {
    this.skipSpace();
    if (!this.take("{")) return this.next();
    let text = "";
    for (let open = 1; ; ) {
      const token = this.next();
      if (token === "{") open++;
      else if (token === "}" && --open === 0) return text;
      text += /^\\[^A-Za-z]$/.test(token) ? token.slice(1) : token;
    }
  }

  atom() {
    const token = this.next();
    if (token === "{") {
      const found = this.row(() => this.done() || this.peek() === "}");
      if (!this.take("}")) throw new TexError("a group is open");
      return mrow(found);
    }
    if (token.startsWith("\\")) return this.command(token.slice(1));
    if (/^\d/.test(token)) return ml("mn", {}, token);
    if (/^[\p{L}]/u.test(token)) return ml("mi", {}, token);
    if ("}^_&".includes(token)) throw new TexError(`${token} stands alone`);
    if (token === "~") return ml("mspace", { width: "0.28em" });
    return mo(token === "-" ? "−" : token, "()[]|/".includes(token) ? { stretchy: "false" } : {});
  }

  command(name) {
    if (TEX_LETTERS.has(name)) return ml("mi", {}, TEX_LETTERS.get(name));
    if (TEX_OPERATORS.has(name)) return mo(TEX_OPERATORS.get(name));
    if (TEX_DELIMITERS.has(name)) return mo(TEX_DELIMITERS.get(name), { stretchy: "false" });
    if (TEX_LIMITS.has(name)) return this.withLimits(TEX_LIMITS.get(name));
    if (TEX_INTEGRALS.has(name)) return mo(TEX_INTEGRALS.get(name));
    if (TEX_FUNCTIONS.has(name)) return ml("mi", {}, name);
    if (TEX_SPACES.has(name)) return ml("mspace", { width: TEX_SPACES.get(name) });
    if (TEX_ACCENTS.has(name)) return this.accent(name);
    if (Object.hasOwn(TEX_ALPHABETS, name)) return this.alphabet(TEX_ALPHABETS[name]);
    if (/^[dtc]?frac$/.test(name)) return ml("mfrac", {}, this.argument(), this.argument());
    if (/^[dt]?binom$/.test(name)) {
      return ml("mrow", {}, fence("("), ml("mfrac", { linethickness: "0" }, this.argument(), this.argument()), fence(")"));
    }
    if (/^(?:text\w*|mbox)$/.test(name)) return ml("mtext", {}, this.raw().replace(/^\s|\s$/g, "\u00a0")); // MathML drops spaces at the ends
    if (/^(?:mathrm|mathsf|mathtt|mathit|operatorname\*?)$/.test(name)) return ml("mi", { mathvariant: "normal" }, this.raw().trim());
    if (/^[bB]igg?[lrm]?$/.test(name)) return mo(this.delimiter());
    if (/^(?:limits|nolimits|displaystyle|textstyle|scriptstyle|nonumber|notag|boxed)$/.test(name)) return null;
    if (name === "sqrt") return this.root();
    if (name === "left") return this.fenced();
    if (name === "begin") return this.environment();
    if (name === "pmod") return this.modulo();
    throw new TexError(`\\${name} is not known`);
  }

  withLimits(text) {
    const made = mo(text, { movablelimits: "true" });
    made.limits = true;
    return made;
  }

  accent(name) {
    const tag = name.startsWith("under") ? "munder" : "mover";
    const made = ml(tag, { accent: "true" }, this.argument(), mo(TEX_ACCENTS.get(name), { stretchy: `${/^(?:wide|over|under)/.test(name)}` }));
    made.limits = name.endsWith("brace");
    return made;
  }

  alphabet(letters) {
    const found = this.argument();
    const leaves = found.children.length ? found.querySelectorAll("mi, mn") : [found];
    for (const leaf of leaves) leaf.textContent = [...leaf.textContent].map((letter) => inAlphabet(letters, letter)).join("");
    return found;
  }

  root() {
    this.skipSpace();
    if (!this.take("[")) return ml("msqrt", {}, this.argument());
    const index = this.row(() => this.done() || this.peek() === "]");
    this.next();
    return ml("mroot", {}, this.argument(), mrow(index));
  }

  delimiter() {
    this.skipSpace();
    const token = this.next();
    if (token === ".") return "";
    const found = token.startsWith("\\") ? TEX_DELIMITERS.get(token.slice(1)) : "()[]|/<>".includes(token) && token;
    if (!found) throw new TexError(`${token} is no delimiter`);
    return found;
  }

  fenced() {
    const opening = fence(this.delimiter());
    const parts = [];
    for (;;) {
      parts.push(...this.row(() => this.done() || this.peek() === "\\right" || this.peek() === "\\middle"));
      const ended = this.next() === "\\right";
      parts.push(fence(this.delimiter()));
      if (ended) return ml("mrow", {}, opening, ...parts);
    }
  }

  modulo() {
    const space = (width) => ml("mspace", { width });
    return ml("mrow", {}, space("1em"), mo("("), ml("mi", {}, "mod"), space("0.3em"), this.argument(), mo(")"));
  }

  environment() {
    const name = this.raw();
    const fences = TEX_TABLES.get(name);
    if (!fences) throw new TexError(`the environment ${name} is not known`);
    if (name === "array") this.raw(); // how its columns are aligned
    const found = this.table(fences, () => this.peek() === "\\end", /align|split|cases/.test(name));
    this.next();
    if (this.raw() !== name) throw new TexError(`${name} ends as another`);
    return found;
  }

  /** Rows parted by `\\`, and cells parted by `&`; one cell alone is no table. */
  table([before, behind], ends, left = false) {
    const rows = [[]];
    for (;;) {
      const over = () => this.done() || ends();
      rows.at(-1).push(this.row(() => over() || this.peek() === "&" || this.peek() === "\\\\"));
      if (this.take("&")) continue;
      if (!this.take("\\\\")) break;
      this.skipSpace();
      if (over()) break;
      rows.push([]);
    }
    if (!ends()) throw new TexError("a table is open");
    if (rows.length === 1 && rows[0].length === 1 && !before) return mrow(rows[0][0]);
    const cells = (row) => row.map((cell) => ml("mtd", {}, ...cell));
    const made = ml("mtable", left ? { class: "aligned" } : {}, ...rows.map((row) => ml("mtr", {}, ...cells(row))));
    return ml("mrow", {}, ...(before ? [fence(before)] : []), made, ...(behind ? [fence(behind)] : []));
  }
}
