// What both scripts are told by the test that runs them.

import { z } from "zod";

export const { BASE_URL: baseURL, API_KEY: apiKey, MODEL: name, QUESTION: question } = process.env;
export const Town = z.object({ name: z.string().max(8) });
export const Weather = z.object({ city: z.string().max(8) });

/** The text of an asynchronous iterable of pieces, and how many there were. */
export async function joined(pieces) {
  const seen = [];
  for await (const piece of pieces) if (piece) seen.push(piece);
  return { text: seen.join(""), pieces: seen.length };
}

/** Print what was found, as the one line of JSON that the test reads. */
export function tell(found) {
  console.log(JSON.stringify(found));
}
