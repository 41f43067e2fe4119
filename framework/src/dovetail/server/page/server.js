// The live view of the server: asked for each second while somebody can see it.
"use strict";

const PERIOD = 1000;
const HISTORY = 60;

const rates = [];
let before = null;

async function watch() {
  for (;;) {
    if (document.visibilityState === "visible") {
      try {
        showStats(await (await ask("stats")).json(), performance.now());
        showTrouble("");
      } catch (error) {
        if (!(error instanceof ServerError)) throw error;
        before = null;
        showTrouble(error.message);
      }
    }
    await new Promise((resume) => setTimeout(resume, PERIOD));
  }
}

function showTrouble(text) {
  $("server-trouble").textContent = text;
  $("server-trouble").hidden = !text;
  $("server").hidden = Boolean(text);
  if (text) $("pulse").textContent = "No figures from the server";
}

/** Tokens per second since the stats before; null where these belong to an engine that is gone. */
function rateOf(stats, now, total) {
  if (!before || before.stats[total] > stats[total]) return null;
  return ((stats[total] - before.stats[total]) * 1000) / (now - before.now);
}

function showStats(stats, now) {
  const output = rateOf(stats, now, "output_tokens");
  const prompt = rateOf(stats, now, "prompt_tokens");
  before = { stats, now };
  if (output !== null) rates.push(output);
  if (rates.length > HISTORY) rates.shift();
  const usage = percent(stats.kv_cache_usage);
  $("output-rate").textContent = output === null ? "–" : figure(output);
  $("history").setAttribute("points", points(rates));
  $("kv-usage").value = stats.kv_cache_usage;
  $("kv-text").textContent = usage;
  showFigures(stats, prompt);
  showRequests(stats);
  $("pulse").textContent = `${stats.running} running · ${stats.waiting} waiting · ${figure(output ?? 0)} tokens/s · cache ${usage}`;
}

function showFigures(stats, promptRate) {
  const { queries, hits } = stats.prefix_cache;
  const figures = {
    Running: `${stats.running} of ${stats.max_num_seqs}`,
    Waiting: stats.waiting,
    "Prompt tokens/s": promptRate === null ? "–" : figure(promptRate),
    "Prefix cache hits": queries ? percent(hits / queries) : "–",
    Preemptions: stats.preemptions,
    "Longest sequence": `${stats.max_model_len.toLocaleString("en")} tokens`,
    "Tokens in, out": `${compact(stats.prompt_tokens)}, ${compact(stats.output_tokens)}`,
    Up: duration(stats.uptime),
  };
  const rows = Object.entries(figures).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, `${value}`)));
  $("figures").replaceChildren(...rows);
}

const SHOWN_REQUESTS = 20;

function showRequests({ requests, requests_left_out }) {
  const rows = requests.slice(0, SHOWN_REQUESTS).map((request) =>
    el(
      "tr",
      { className: request.state },
      el("th", { scope: "row", title: request.id }, request.state === "running" ? "runs" : "waits"),
      el("td", {}, compact(request.prompt_tokens)),
      el("td", {}, compact(request.output_tokens)),
      el("td", {}, duration(request.seconds)),
    ),
  );
  $("requests").hidden = !rows.length;
  $("requests").tBodies[0].replaceChildren(...rows);
  const more = requests.length - rows.length + requests_left_out;
  $("requests-note").textContent = !rows.length ? "No requests at the moment" : more ? `and ${more} more` : "";
}

function points(values) {
  const top = Math.max(1, ...values);
  const offset = HISTORY - values.length;
  return values.map((value, place) => `${offset + place},${(19 - (18 * value) / top).toFixed(2)}`).join(" ");
}

const figure = (value) => (value < 100 ? value.toFixed(1) : Math.round(value).toLocaleString("en"));
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
const compact = (count) => Intl.NumberFormat("en", { notation: "compact" }).format(count);

function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}
