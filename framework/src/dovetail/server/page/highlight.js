// Colours code: finds comments, strings, numbers and names by regular expressions, and makes spans of them. Each expression takes time that
// grows with the text alone, for a model may write anything.
"use strict";

const LONGEST_COLOURED = 100000; // characters; longer code is shown plain

// `[^]` is any character and `(?![^])` the end of the text: `$` is the end of any line.
const NAME = String.raw`[\p{L}_$][\p{L}\p{N}_$]*`;
const NUMBER = String.raw`\b\d[\d_]*(?:\.\d[\d_]*)?(?:[eE][+-]?\d+)?\w*`;
const DOUBLE = String.raw`"(?:\\[^]|[^"\\\n])*"?`;
const SINGLE = String.raw`'(?:\\[^]|[^'\\\n])*'?`;
const BACKTICK = "`(?:\\\\[^]|[^`\\\\])*`?";
const TRIPLE = String.raw`"""[^]*?(?:"""|(?![^]))|'''[^]*?(?:'''|(?![^]))`;
const CHARACTER = String.raw`'(?:\\[^'\n]*|[^'\\\n])'`; // and no lifetime of Rust, nor a digit separator
const SLASHES = String.raw`\/\/[^\n]*|\/\*[^]*?(?:\*\/|(?![^]))`;
const HASH = String.raw`#[^\n]*`;
const SHELL_HASH = String.raw`(?<![^\s;])#[^\n]*`;
const DASHES = "--[^\\n]*";

const words = (text) => new Set(text.split(" "));
const LIKE_C = `as async await auto bool boolean break byte case catch char class const continue default defer delete do double else enum export
 extends extern false final finally float fn for foreach func function go goto if impl implements import in include instanceof int interface
 is let long match mod mut namespace new nil null nullptr of override package private protected pub public return self short signed sizeof
 static string struct super switch template this throw throws trait true try type typedef typename typeof undefined union unsafe unsigned
 use using val var virtual void volatile where while with yield`.replaceAll("\n", "");
const PYTHON = `and as assert async await break case class continue def del elif else except False finally for from global if import in is
 lambda match None nonlocal not or pass raise return self True try while with yield`.replaceAll("\n", "");
const SCRIPTS = `begin case class def do done elif else elsif end esac false fi for foreach function if in local module next nil not or
 and repeat require rescue return self set then true unless until when while yield export echo exit cd sudo`.replaceAll("\n", "");
const SQL = `add all alter and as asc begin between by case cast check column commit constraint create cross database default delete desc
 distinct drop else end exists false foreign from full group having if in index inner insert into is join key left like limit not null
 on or order outer over partition primary references returning right rollback select set table then true union unique update using
 values view when where window with`.replaceAll("\n", "");

/** The kind of a name, by the words of the language and by what follows it. */
function nameKind(keywords, fold = false) {
  return (name, rest) => {
    if (keywords.has(fold ? name.toLowerCase() : name)) return "keyword";
    return rest.startsWith("(") ? "function" : "";
  };
}

/** Rules are pairs of a kind and an expression; the first that matches at a place wins. A kind may be a function, or more rules. */
class Colours {
  constructor(...rules) {
    this.kinds = rules.map(([kind]) => kind);
    this.pattern = new RegExp(rules.map(([, source]) => `(${source})`).join("|"), "gmu");
  }

  /** Pairs of a kind, "" for none, and a piece of the text. */
  *pieces(text) {
    let done = 0;
    for (const match of text.matchAll(this.pattern)) {
      if (match.index > done) yield ["", text.slice(done, match.index)];
      done = match.index + match[0].length;
      const kind = this.kinds[match.findIndex((group, place) => place > 0 && group !== undefined) - 1];
      if (kind instanceof Colours) yield* kind.pieces(match[0]);
      else yield [typeof kind === "function" ? kind(match[0], text.slice(done, done + 1)) : kind, match[0]];
    }
    if (done < text.length) yield ["", text.slice(done)];
  }
}

function language(keywords, comment, string, fold) {
  const names = nameKind(words(keywords), fold);
  return new Colours(["comment", comment], ["string", string], ["number", NUMBER], [names, NAME]);
}

const TAG = new Colours(["tag", String.raw`<[\/!]?[\w:.-]+|\/?>`], ["string", String.raw`"[^"]*"?|'[^']*'?`], ["name", String.raw`[\w:@.-]+`]);
const KEY = String.raw`^[ \t]*(?:- +)?[\w"'][^:#\n]*(?=:\s)`;

const LANGUAGES = {
  c: language(LIKE_C, SLASHES, `${DOUBLE}|${CHARACTER}`),
  javascript: language(`${LIKE_C} from`, SLASHES, `${DOUBLE}|${SINGLE}|${BACKTICK}`),
  python: language(PYTHON, HASH, `\\b[rbfuRBFU]{0,2}(?:${TRIPLE}|${DOUBLE}|${SINGLE})|${TRIPLE}|${DOUBLE}|${SINGLE}`),
  shell: language(SCRIPTS, SHELL_HASH, `${DOUBLE}|${SINGLE}`),
  lua: language(SCRIPTS, DASHES, `${DOUBLE}|${SINGLE}`),
  sql: language(SQL, `${DASHES}|${SLASHES}`, `${DOUBLE}|${SINGLE}`, true),
  json: new Colours(["name", `${DOUBLE}(?=\\s{0,9}:)`], ["string", DOUBLE], ["number", `-?${NUMBER}`], ["keyword", "\\b(?:true|false|null)\\b"]),
  yaml: new Colours(["comment", SHELL_HASH], ["name", KEY], ["string", `${DOUBLE}|${SINGLE}`], ["number", NUMBER], ["keyword", "\\b(?:true|false|null)\\b"]),
  ini: new Colours(
    ["comment", String.raw`^[ \t]*[#;][^\n]*`], ["keyword", String.raw`^\[[^\n]*\]`], ["name", String.raw`^[\w.-]+(?=[ \t]*=)`],
    ["string", `${TRIPLE}|${DOUBLE}|${SINGLE}`], ["number", NUMBER],
  ), // prettier-ignore
  html: new Colours(["comment", String.raw`<!--[^]*?(?:-->|(?![^]))`], [TAG, String.raw`<[\/!]?[A-Za-z][^<>]*>?`], ["number", "&[#\\w]+;"]),
  css: new Colours(
    ["comment", String.raw`\/\*[^]*?(?:\*\/|(?![^]))`], ["string", `${DOUBLE}|${SINGLE}`], ["keyword", "@[\\w-]+|![\\w]+"],
    ["number", String.raw`#[\da-fA-F]{3,8}\b|-?\b\d[\d.]*[a-z%]*`], ["name", String.raw`(?<![\w-])[\w-]+(?=[ \t]*:[ \t])`],
  ), // prettier-ignore
  diff: new Colours(["keyword", "^(?:@@|diff |index |--- |\\+\\+\\+ )[^\\n]*"], ["added", "^\\+[^\\n]*"], ["removed", "^-[^\\n]*"]),
};

const ALIASES = {
  c: "c++ cc cpp cs csharp cu dart glsl go golang h hpp java kotlin kt objc rs rust scala swift zig",
  javascript: "js jsx mjs node php ts tsx typescript",
  python: "py py3 python3 starlark",
  shell: "bash console dockerfile elixir fish julia make makefile perl powershell ps1 r rb ruby sh shellscript zsh",
  lua: "haskell hs",
  sql: "mysql postgresql sqlite",
  json: "json5 jsonc jsonl",
  yaml: "yml",
  ini: "cfg conf properties toml",
  html: "svg vue xhtml xml",
  css: "less scss",
  diff: "patch",
};
for (const [name, aliases] of Object.entries(ALIASES)) for (const alias of aliases.split(" ")) LANGUAGES[alias] = LANGUAGES[name];

/** Colour the text of an element in place. A language that is not known stays plain. */
function highlight(element, name) {
  const text = element.textContent;
  const known = Object.hasOwn(LANGUAGES, name.toLowerCase()) && LANGUAGES[name.toLowerCase()];
  if (!known || text.length > LONGEST_COLOURED) return;
  const pieces = [...known.pieces(text)].map(([kind, piece]) => (kind ? el("span", { className: `hl-${kind}` }, piece) : piece));
  element.replaceChildren(...pieces);
}
