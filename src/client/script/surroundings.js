// @ts-check
// What a browser has beside requests and connections: chance, storage, a channel to other tabs.
//
// Enters: nothing. Leaves: functions for the core, which may not have these by itself. Must not touch: the core.

/** @typedef {import("./core/types.js").Outside} Outside */
/** @typedef {import("./core/types.js").TabMessage} TabMessage */

/**
 * So many letters and digits that nobody guesses.
 *
 * @param {number} length
 */
export function word(length) {
  const bytes = crypto.getRandomValues(new Uint8Array(length));
  return Array.from(bytes, byte => (byte % 36).toString(36)).join("");
}

/**
 * @param {string} base
 * @returns {Outside}
 */
export function outside(base) {
  const key = "underpass:" + base;
  // Without storage it holds for this page only.
  let kept = {};
  return {
    word,
    random: Math.random,
    date: Date.now,
    // The standard fails it. Firefox and Safari do not, and what works there natively is to work with us.
    strict: /Chrom/.test(globalThis.navigator?.userAgent),
    load() {
      try {
        kept = JSON.parse(localStorage.getItem(key) || "{}") || {};
      } catch {}
      return kept;
    },
    save(verdicts) {
      kept = verdicts;
      try {
        localStorage.setItem(key, JSON.stringify(verdicts));
      } catch {}
    },
  };
}

/**
 * Opens the channel to the other tabs, where browsers have one.
 *
 * @param {string} base
 * @param {(message: TabMessage) => void} hear
 */
export function openChannel(base, hear) {
  if (!globalThis.BroadcastChannel) return undefined;
  const channel = new BroadcastChannel("underpass " + base);
  channel.onmessage = ({ data }) => hear(data);
  // As the ticking timer (page.js).
  /** @type {{ unref?: () => void }} */ (channel).unref?.();
  return channel;
}
