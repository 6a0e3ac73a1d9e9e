// @ts-check
// The connections behind attachments: an EventSource, the body of a fetch, a WebSocket.
//
// Enters: addresses; bytes and events as browsers give them. Leaves: the core's events. Must not touch: what follows from
// them.

import { fromBase64, readFrames, receiveFrame } from "./core/codec.js";

/** @typedef {import("./core/attachment.js").Attachment} Attachment */
/** @typedef {import("./runner.js").Runner} Runner */
/** @typedef {{ close(): void, send?: (data: string | Uint8Array<ArrayBuffer>) => void }} Connection */

/**
 * Something came, unless it counts no more.
 *
 * @param {Runner} runner
 * @param {Attachment} attachment
 * @param {() => void} read
 * @param {string} [unreadable] What it is when it cannot be read.
 */
function hear(runner, attachment, read, unreadable = "altered") {
  runner.tell(() => {
    if (!attachment.hear()) return;
    try {
      read();
    } catch {
      attachment.end(unreadable);
    }
  });
}

/**
 * @param {Runner} runner
 * @param {Attachment} attachment
 * @param {string} url
 * @returns {Connection}
 */
function openEvents(runner, attachment, url) {
  const source = new EventSource(url, { withCredentials: runner.options.credentials === "include" });
  /**
   * @param {string} name
   * @param {(text: string, number: number) => void} read
   */
  const on = (name, read) => source.addEventListener(name, ({ data, lastEventId }) => {
    hear(runner, attachment, () => read(data, +lastEventId));
  });
  /**
   * @param {string} name
   * @param {(text: string) => string | Uint8Array<ArrayBuffer>} decode
   */
  const onMessage = (name, decode) => on(name, (text, number) => attachment.numbered(number, decode(text), text.length));
  on("session", text => attachment.begun(JSON.parse(text)));
  onMessage("message", text => text);
  onMessage("json", JSON.parse);
  onMessage("binary", fromBase64);
  on("heartbeat", text => attachment.beat(+text));
  on("close", (text, number) => attachment.closed(number, JSON.parse(text)));
  on("superseded", () => attachment.end("superseded"));
  on("reconnect", text => attachment.end("recycled", JSON.parse(text).after_ms));
  on("lost", () => attachment.session.fail());
  source.onerror = () => runner.tell(() => attachment.end("cut"));
  return source;
}

/**
 * Reads until it is over, and tells why.
 *
 * @param {Runner} runner
 * @param {Attachment} attachment
 * @param {string} url
 * @param {AbortSignal} signal
 */
async function readStream(runner, attachment, url, signal) {
  try {
    const { body, headers } = await fetch(url, { cache: "no-store", credentials: runner.options.credentials, signal });
    if (!body || !/octet-stream/.test(headers.get("Content-Type") || "")) return "refused";
    const reader = body.getReader();
    const read = readFrames((kind, payload) => {
      if (attachment.hear()) receiveFrame(attachment, kind, payload);
    });
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      hear(runner, attachment, () => read(value), "cut");
    }
  } catch {
    // Cut, or let go of.
  }
  return "cut";
}

/**
 * @param {Runner} runner
 * @param {Attachment} attachment
 * @param {string} url
 * @returns {Connection}
 */
function openStream(runner, attachment, url) {
  const control = new AbortController();
  readStream(runner, attachment, url, control.signal).then(why => runner.tell(() => attachment.end(why)));
  return { close: () => control.abort() };
}

/**
 * @param {Runner} runner
 * @param {Attachment} attachment
 * @param {string} url
 * @returns {Connection}
 */
function openSocket(runner, attachment, url) {
  const protocols = ["underpass.v1", "underpass.token." + attachment.session.facts.token];
  const socket = new runner.Native(url.replace(/^http/, "ws"), protocols);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => runner.tell(() => attachment.connected());
  socket.onmessage = ({ data }) => {
    const isText = typeof data === "string";
    const kind = isText ? 1 : new Uint8Array(data)[0];
    const read = () => {
      if (isText) attachment.unnumbered(data.slice(1), data.length - 1);
      else receiveFrame(attachment, kind, new Uint8Array(data, 1));
    };
    runner.tasks.during(kind < 3, () => hear(runner, attachment, read));
  };
  socket.onclose = () => runner.tell(() => attachment.end(attachment.good ? "cut" : "refused"));
  return {
    send: data => socket.send(data),
    close() {
      socket.onclose = null;
      socket.onmessage = null;
      socket.close();
    },
  };
}

/**
 * @param {Runner} runner
 * @param {Attachment} attachment
 * @param {string} url
 */
export function open(runner, attachment, url) {
  const { name } = attachment;
  return (name === "ws" ? openSocket : name === "sse" ? openEvents : openStream)(runner, attachment, url);
}
