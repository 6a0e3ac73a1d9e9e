// @ts-check
// What is to happen later: a list of deadlines. Nothing ticks here.
//
// Enters: times, and what is to happen then. Leaves: the next deadline. Must not touch: a clock.

/** @typedef {{ at: number, act: () => void }} Timer */

export function makeTimers() {
  /** @type {Set<Timer>} */
  const waiting = new Set();
  const timers = {
    /**
     * @param {number} at
     * @param {() => void} act
     */
    set(at, act) {
      const timer = { at, act };
      waiting.add(timer);
      return timer;
    },

    /** @param {Timer | null} timer */
    clear(timer) {
      if (timer) waiting.delete(timer);
    },

    /** The timer that is due first; of several, the one that was set first. Null when there is none. */
    first() {
      let first = null;
      for (const timer of waiting) {
        if (!first || timer.at < first.at) first = timer;
      }
      return first;
    },

    /** @param {number} now */
    expire(now) {
      for (let timer = timers.first(); timer && timer.at <= now; timer = timers.first()) {
        timers.clear(timer);
        timer.act();
      }
    },
  };
  return timers;
}
