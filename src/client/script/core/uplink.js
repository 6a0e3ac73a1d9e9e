// @ts-check
// What a session has to say: messages numbered from 1, kept until the sidecar has accepted them, sent again under the same
// number until it has.
//
// Enters: messages of the page; up to which number the sidecar has them. Leaves: requests that send them; how much is off
// the page's buffer. Must not touch: messages down.

import { toBase64 } from "./codec.js";
import { backoff } from "./waiting.js";

/** @typedef {import("./types.js").Item} Item */
/** @typedef {ReturnType<typeof makeUplink>} Uplink */

/** What JSON adds to a text, and to base64. */
const QUOTES = 3;
const BASE64 = 14;
const BASE64_FACTOR = 1.34;

/** Milliseconds that a request may take, and bytes in each of them beyond that. */
const PATIENCE = 10000;
const SLOWEST = 32;

/** @param {import("./session.js").Session} session */
export function makeUplink(session) {
  const { core } = session;
  const up = {
    /** Not accepted yet. */
    queue: /** @type {Item[]} */ ([]),
    /** The number of the first of them. */
    first: 1,
    /** The session has ended at the sidecar's, and takes nothing any more; its close comes down. */
    muted: false,
    /** Requests in a row that were in vain. */
    misses: 0,
    /** Bytes of one request. */
    limit: Infinity,
    accepted,
    at,
    lastWords,
    pump,
    push,
    ready,
  };
  let posting = false;

  /**
   * The message of this number.
   *
   * @param {number} number
   * @returns {Item | undefined}
   */
  function at(number) {
    return up.queue[number - up.first];
  }

  /** @param {Item} item */
  function ready({ bytes, size, text }) {
    return (text !== undefined || !!bytes) && size <= session.facts.max_message;
  }

  /** @param {Item} item */
  function push(item) {
    up.queue.push(item);
    session.busy = core.now;
  }

  /**
   * All messages below `next` are with the sidecar.
   *
   * @param {number} next
   */
  function accepted(next) {
    const { queue } = up;
    const count = Math.min(next - up.first, queue.length);
    if (count > 0) {
      up.first += count;
      for (const { size } of queue.splice(0, count)) core.do("tell", session.page, "drained", size);
    }
    if (queue[0]?.size > session.facts.max_message) session.refuse();
    if (session.closing && !queue.length) session.sendClose();
  }

  /** Sends what there is to send, by the way there is. */
  function pump() {
    const { current } = session.ladder;
    if (session.over || up.muted || !session.isOpen || session.setAside) return;
    // What stands at the head and is too large is never sent.
    accepted(0);
    if (current?.duplex) current.pump();
    else if (!posting) post();
  }

  // One request at a time. What cannot be delivered is sent again with the same number.
  function post() {
    const [count, size] = batch();
    if (!count) return;
    posting = true;
    const again = () => {
      posting = false;
      pump();
    };
    const messages = up.queue.slice(0, count).map(({ bytes, text }) => (bytes ? { base64: toBase64(bytes) } : text));
    session.post("send", { messages }, `&seq=${up.first}`, ({ body, status }) => {
      const code = body?.error?.code;
      const tooLarge = status === 413;
      if (tooLarge && count > 1) up.limit = Math.min(up.limit, size) / 2;
      else if (tooLarge) session.refuse();
      if (body && (!code || code === "too_large")) {
        up.misses = 0;
        again();
      } else {
        session.pause(backoff(up.misses++), again);
      }
    }, PATIENCE + size / SLOWEST);
  }

  /** How many messages go into the next request, and about how many bytes that makes. */
  function batch() {
    let size = 0;
    let count = 0;
    for (const item of up.queue) {
      if (!ready(item)) break;
      size += item.bytes ? item.size * BASE64_FACTOR + BASE64 : item.size + QUOTES;
      if (count && size > up.limit) break;
      count++;
    }
    return [count, size];
  }

  /** What a page that leaves may still hand over: all of it, or nothing. */
  function lastWords() {
    const messages = up.queue.map(({ text }) => text);
    return messages.length && !messages.includes(undefined) && { messages };
  }

  return up;
}
