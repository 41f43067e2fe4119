// What the user sets: model, system prompt, sampling. Kept in localStorage; an empty field leaves the choice to the server.
"use strict";

const SETTINGS_KEY = "dovetail.settings";

const FIELDS = [
  { name: "temperature", label: "Temperature", min: 0, step: 0.1 },
  { name: "top_p", label: "Top-p", min: 0, max: 1, step: 0.05 },
  { name: "top_k", label: "Top-k", min: -1, step: 1 },
  { name: "min_p", label: "Min-p", min: 0, max: 1, step: 0.01 },
  { name: "max_tokens", label: "Most tokens", min: 1, step: 1, silent: "what fits" },
  { name: "seed", label: "Seed", step: 1, silent: "random" },
  { name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: 0.1 },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.1 },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0, step: 0.05 },
];

const kept = load("localStorage", SETTINGS_KEY, {});

function keep(changes) {
  Object.assign(kept, changes);
  save("localStorage", SETTINGS_KEY, kept);
}

function buildSettings() {
  for (const { name, label, silent, ...limits } of FIELDS) {
    const input = el("input", { id: name, type: "number", inputMode: "decimal", placeholder: "default", ...limits });
    input.value = kept.fields?.[name] ?? "";
    $("fields").append(el("label", { htmlFor: name }, label), input);
  }
  $("system").value = kept.system ?? "";
  $("extra").value = kept.extra ?? "";
  $("settings").addEventListener("input", keepSettings);
  $("settings").addEventListener("reset", forgetSettings);
  $("settings").addEventListener("submit", (event) => event.preventDefault());
  $("model").addEventListener("change", () => {
    keep({ model: $("model").value });
    showDefaults();
  });
  showExtraTrouble();
}

function keepSettings() {
  const filled = FIELDS.map(({ name }) => [name, $(name).value]).filter(([, value]) => value !== "");
  keep({ fields: Object.fromEntries(filled), system: $("system").value, extra: $("extra").value });
  showExtraTrouble();
}

/** A reset event comes before the fields are empty, and the page may be left before another event comes. */
function forgetSettings() {
  keep({ fields: {}, system: "", extra: "" });
  $("extra-trouble").textContent = "";
}

function showExtraTrouble() {
  try {
    extraFields();
    $("extra-trouble").textContent = "";
  } catch (error) {
    $("extra-trouble").textContent = error.message;
  }
}

function extraFields() {
  const text = $("extra").value.trim();
  if (!text) return {};
  let fields;
  try {
    fields = JSON.parse(text);
  } catch (error) {
    throw new ServerError(`“More fields” is not JSON: ${error.message}`);
  }
  if (fields === null || typeof fields !== "object" || Array.isArray(fields)) {
    throw new ServerError('“More fields” wants a JSON object, such as {"stop": ["END"]}.');
  }
  return fields;
}

/** The fields of a request that come from the settings. Their values are the server's to judge. */
function chosenFields() {
  const numbers = FIELDS.map(({ name }) => [name, $(name).valueAsNumber]).filter(([, value]) => !Number.isNaN(value));
  return { model: $("model").value || undefined, ...Object.fromEntries(numbers), ...extraFields() };
}

const defaults = new Map(); // what each model samples with where a request is silent, as the server says

async function listModels() {
  const { data } = await (await ask("v1/models")).json();
  for (const { id, default_sampling_params } of data) defaults.set(id, default_sampling_params);
  const wanted = $("model").value || kept.model;
  $("model").replaceChildren(...data.map(({ id }) => el("option", { value: id }, id)));
  if (data.some(({ id }) => id === wanted)) $("model").value = wanted;
  showDefaults();
}

/** An empty field says which value it stands for. */
function showDefaults() {
  const known = defaults.get($("model").value) ?? {};
  for (const { name, silent } of FIELDS) {
    $(name).placeholder = known[name] != null ? `default (${known[name]})` : (silent ?? "default");
  }
}
