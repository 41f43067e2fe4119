// Talks to the server. All URLs are relative, so that the page works under any path that a proxy gives it.
"use strict";

/** What went wrong, in words for the user. */
class ServerError extends Error {}

/** Fetch `path`, with `body` as JSON if there is one. Throws a ServerError unless the answer is a success. */
async function ask(path, body, signal) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const url = new URL(path, document.baseURI);
  url.username = url.password = ""; // browsers refuse to fetch with those of the address, and send them by themselves
  let response;
  try {
    response = await fetch(url, { credentials: "same-origin", signal, ...(body && post) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server does not answer: it was stopped, or the network is down.");
  }
  if (!response.ok) throw new ServerError(await explain(response));
  return response;
}

async function explain(response) {
  if (response.status === 401) {
    return "The server wants an API key: reload the page and enter the key as the password, with any user name.";
  }
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `The server answered ${response.status} ${response.statusText} ${text.slice(0, 200)}`.trim();
  }
}

/** The JSON of each server-sent event, until the mark of the end. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(brokenOff);
    if (done) brokenOff();
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ServerError(event.error.message);
      yield event;
    }
  }
}

function brokenOff(error) {
  if (error?.name === "AbortError") throw error;
  throw new ServerError("The connection broke off before the answer was complete.");
}
