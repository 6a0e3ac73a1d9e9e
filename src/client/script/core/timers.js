// @ts-check
// What is to happen later: a list of deadlines. Nothing ticks here.
//
// Enters: times, and what is to happen then. Leaves: the next deadline. Must not touch: a clock.

/** @typedef {{ at: number, act: () => void }} Timer */

export class Timers {
  /** @type {Set<Timer>} */
  #waiting = new Set();

  /**
   * @param {number} at
   * @param {() => void} act
   * @returns {Timer}
   */
  set(at, act) {
    const timer = { at, act };
    this.#waiting.add(timer);
    return timer;
  }

  /** @param {Timer | null} timer */
  clear(timer) {
    if (timer) this.#waiting.delete(timer);
  }

  /**
   * The timer that is due first; of several, the one that was set first.
   *
   * @returns {Timer | null}
   */
  get first() {
    let first = null;
    for (const timer of this.#waiting) {
      if (!first || timer.at < first.at) first = timer;
    }
    return first;
  }

  /** @param {number} now */
  expire(now) {
    for (let timer = this.first; timer && timer.at <= now; timer = this.first) {
      this.clear(timer);
      timer.act();
    }
  }
}
