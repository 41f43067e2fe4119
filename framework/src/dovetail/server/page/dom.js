// Small helpers for elements and for what the browser keeps.
"use strict";

const $ = (id) => document.getElementById(id);

/** An element with properties (or attributes, where there is no such property) and children. */
function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function button(label, act) {
  return el("button", { type: "button", onclick: act }, label);
}

/** A button that copies, and says for a moment that it did. */
function copyButton(text) {
  const made = button("Copy", async () => {
    made.textContent = (await copy(text())) ? "Copied" : "Not allowed";
    setTimeout(() => (made.textContent = "Copy"), 1500);
  });
  return made;
}

async function copy(text) {
  // Browsers have navigator.clipboard only for pages that came over TLS or from this machine.
  if (navigator.clipboard) {
    return navigator.clipboard.writeText(text).then(() => true, () => false);
  }
  const field = el("textarea", { value: text, className: "unseen" });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

/** Tell those who listen to the page instead of seeing it. */
function announce(text) {
  $("status").textContent = text;
}

/** JSON in the browser's storage. It may be full, forbidden, or hold what another version wrote. */
function load(storage, key, missing) {
  try {
    return JSON.parse(window[storage].getItem(key)) ?? missing;
  } catch {
    return missing;
  }
}

/** Whether there was room for it; otherwise it lasts as long as the page does. */
function save(storage, key, value) {
  try {
    window[storage].setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
