// @ts-check
// Requests that are answered soon, with JSON.
//
// Enters: an address and what to say. Leaves: what came of it; it never throws. Must not touch: what the answer means.

/** @typedef {import("./core/types.js").Answer} Answer */

/** A filter dislikes JSON: bodies are forms. */
let asForm = false;

/**
 * @param {string} url
 * @param {import("./core/types.js").RequestBody} body
 * @param {number} patience Milliseconds.
 * @param {RequestCredentials} credentials
 * @param {AbortController} control
 * @returns {Promise<Answer>}
 */
export async function ask(url, body, patience, credentials, control) {
  const timer = setTimeout(() => control.abort(), patience);
  const begun = performance.now();
  const address = new URL(url);
  const headers = new Headers();
  /** @type {RequestInit} */
  const init = { cache: "no-store", credentials, headers, signal: control.signal };
  if (body !== undefined) init.method = "POST";
  const wasForm = asForm;
  if (body) {
    const json = JSON.stringify(body);
    if (wasForm) {
      init.body = new URLSearchParams({ json });
    } else {
      init.body = json;
      headers.set("Content-Type", "application/json");
    }
  }
  const { password, username } = address;
  if (username || password) {
    // A fetch refuses these, a WebSocket sends them.
    headers.set("Authorization", "Basic " + btoa(unescape(`${username}:${password}`)));
    address.username = "";
    address.password = "";
  }
  let status = 0;
  let answer = null;
  try {
    const response = await fetch(address, init);
    status = response.status;
    url = response.url;
    answer = await response.json();
  } catch {
    // No answer, or nobody's that we know.
  }
  clearTimeout(timer);
  if (body && !answer?.error && [400, 403, 406, 415, 501].includes(status)) asForm = !wasForm;
  return { status, body: answer && typeof answer === "object" ? answer : null, took: performance.now() - begun, url };
}
