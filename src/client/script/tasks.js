// @ts-check
// A task of the page's for each of its events, in order, so that what a page does between two of them is done between them.
// Timers would be throttled.
//
// Enters: work. Leaves: the same, later. Must not touch: what it is.

export function makeTasks() {
  /** @type {(() => void)[]} */
  const waiting = [];
  const { port1, port2 } = new MessageChannel();
  let alone = false;
  function next() {
    waiting.shift()?.();
    if (!waiting.length) port1.onmessage = null;
  }
  return {
    /**
     * What `act` adds first need not wait: this is a task by itself already.
     *
     * @param {boolean} isAlone
     * @param {() => void} act
     */
    during(isAlone, act) {
      alone = isAlone;
      act();
      alone = false;
    },

    /** @param {() => void} work */
    add(work) {
      if (alone && !waiting.length) {
        alone = false;
        work();
      } else {
        waiting.push(work);
        // Only now: Node.js lives as long as somebody hears a port.
        port1.onmessage = next;
        port2.postMessage(0);
      }
    },
  };
}
