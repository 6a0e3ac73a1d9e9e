// @ts-check
// Runs the core: tells it what happens and when, does what it says, wakes it at its deadlines.
//
// Enters: events. Leaves: requests, connections, messages to other tabs, words to pages. Must not touch: decisions.

import { open } from "./carriers.js";
import { Core } from "./core/core.js";
import { ask } from "./requests.js";
import { openChannel, outside, word } from "./surroundings.js";
import { makeTasks } from "./tasks.js";

/** @typedef {import("./core/attachment.js").Attachment} Attachment */
/** @typedef {import("./core/types.js").Action} Action */
/** @typedef {import("./core/types.js").Options} Options */
/** @typedef {import("./core/types.js").RequestBody} RequestBody */
/** @typedef {ReturnType<typeof makeRunner>} Runner */

/**
 * @param {Options} options
 * @param {typeof WebSocket} Native
 * @param {string} address The script's.
 */
export function makeRunner(options, Native, address) {
  const core = new Core(options, outside(options.base), Date.now().toString(36) + word(8), performance.now());
  /** What is still to be done. @type {Action[]} */
  const actions = [];
  /** Requests that may be cancelled. @type {Map<number, AbortController>} */
  const requests = new Map();
  /** @type {Map<Attachment, import("./carriers.js").Connection>} */
  const connections = new Map();
  /** @type {ReturnType<typeof openChannel>} */
  let channel;
  let acting = false;
  /** When the timer is due, and whether it was set by a timer: browsers slow down such chains in hidden pages. */
  let due = Infinity;
  let isChain = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;

  /**
   * Lets something happen in the core, and does what follows. What happens meanwhile is done behind it.
   *
   * @param {() => void} event
   * @param {boolean} [byTimer]
   */
  function tell(event, byTimer = false) {
    core.hidden = !!globalThis.document?.hidden;
    // One by one: a piece of a stream may hold more messages than a call takes arguments.
    for (const action of core.at(performance.now(), event)) actions.push(action);
    if (acting) return;
    acting = true;
    let done = 0;
    try {
      while (done < actions.length) act(actions[done++]);
    } finally {
      actions.splice(0, done);
      acting = false;
    }
    setTimer(byTimer);
  }

  /** @param {boolean} byTimer */
  function setTimer(byTimer) {
    const first = core.timers.first();
    const next = first ? first.at : Infinity;
    if (next === due && !isChain) return;
    clearTimeout(timer);
    due = next;
    isChain = byTimer;
    if (!first) return;
    timer = setTimeout(() => {
      due = Infinity;
      tell(() => core.expire(), true);
    }, due - performance.now());
  }

  /** @param {Action} action */
  function act(action) {
    switch (action[0]) {
      case "request": return request(action[1], action[2], action[3], action[4]);
      case "cancel": return requests.get(action[1])?.abort();
      case "attach": return attach(action[1], action[2]);
      case "detach": return detach(action[1]);
      case "transmit": return connections.get(action[1])?.send?.(action[2]);
      case "beacon": return navigator.sendBeacon(action[1], JSON.stringify(action[2]));
      case "gather": return gather();
      case "say": return channel?.postMessage(action[1]);
      case "tell": return tellPage(action);
    }
  }

  /**
   * @param {number} id
   * @param {string} url
   * @param {RequestBody} body
   * @param {number} patience
   */
  async function request(id, url, body, patience) {
    const control = new AbortController();
    requests.set(id, control);
    const answer = await ask(url, body, patience, options.credentials, control);
    requests.delete(id);
    tell(() => core.answered(id, answer));
  }

  /**
   * @param {Attachment} attachment
   * @param {string} url
   */
  function attach(attachment, url) {
    try {
      connections.set(attachment, open(runner, attachment, url));
    } catch {
      // Not every worker has what it takes.
      tell(() => attachment.end("refused"));
    }
  }

  /** @param {Attachment} attachment */
  function detach(attachment) {
    connections.get(attachment)?.close();
    connections.delete(attachment);
  }

  function gather() {
    const { sharedPoll } = core;
    channel = openChannel(options.base, message => tell(() => sharedPoll.hear(message)));
    const [entry] = /** @type {PerformanceResourceTiming[]} */ (performance.getEntriesByName(address));
    // HTTP/2 has one connection for all.
    const places = /^h[23]/.test(entry?.nextHopProtocol) ? 50 : 3;
    tell(() => sharedPoll.gathered(!!channel, places));
  }

  const runner = { Native, core, options, tasks: makeTasks(), tell };
  return runner;
}

/** @param {Extract<Action, ["tell", ...unknown[]]>} action */
function tellPage([, page, event, ...values]) {
  /** @type {(...values: any[]) => void} */ (page[event])(...values);
}
