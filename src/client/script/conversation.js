// @ts-check
// What a socket of a page talks to: a session of the core, or a plain WebSocket (raw.js).
//
// Enters: what a page sends. Leaves: the core's events. Must not touch: what a page hears.

import { Session } from "./core/session.js";

/** @typedef {import("./core/types.js").Item} Item */
/** @typedef {import("./core/types.js").Page} Page */

/**
 * @typedef {object} Conversation
 * @property {(item: Item) => void} send
 * @property {(code?: number, reason?: string) => void} close
 */

/**
 * @param {import("./runner.js").Runner} runner
 * @param {Page} page
 * @param {string} target
 * @param {string[]} protocols
 * @param {string} [suspect] A transport that failed before.
 * @returns {Conversation}
 */
export function openSession({ core, tell }, page, target, protocols, suspect = "") {
  const session = new Session(core, page, target, protocols, suspect);
  let pumping = false;
  const pump = () => {
    pumping = false;
    session.up.pump();
  };
  tell(() => session.open());
  return {
    send(item) {
      tell(() => session.up.push(item));
      item.blob?.arrayBuffer().then(
        buffer => tell(() => session.converted(item, buffer)),
        () => tell(() => session.fail()),
      );
      // What is sent in one go travels together.
      if (!pumping) queueMicrotask(() => tell(pump));
      pumping = true;
    },
    close: (code, reason) => tell(() => session.close(code, reason)),
  };
}
