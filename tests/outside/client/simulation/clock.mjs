// Time that passes when there is nothing to do: a queue of what is to happen, in order.
//
// Enters: what is to happen, and when. Leaves: it happens. Must not touch: a real clock.

export class Clock {
  now = 1000;
  // A binary heap, by time and then by order of entry.
  #heap = [];
  #entered = 0;

  after(time, act) {
    const entry = { at: this.now + Math.max(0, time), order: this.#entered++, act };
    this.#heap.push(entry);
    for (let at = this.#heap.length - 1; at > 0;) {
      const above = (at - 1) >> 1;
      if (before(this.#heap[above], entry)) break;
      this.#heap[at] = this.#heap[above];
      this.#heap[above] = entry;
      at = above;
    }
  }

  // Lets happen what is due until `end`, or until it is `done`.
  runUntil(end, done = () => false) {
    while (this.#heap.length && this.#heap[0].at <= end && !done()) {
      const { at, act } = this.#take();
      this.now = at;
      act();
    }
    if (!done()) this.now = Math.max(this.now, end);
  }

  #take() {
    const [first] = this.#heap;
    const last = this.#heap.pop();
    if (!this.#heap.length) return first;
    let at = 0;
    for (;;) {
      let below = 2 * at + 1;
      if (below >= this.#heap.length) break;
      if (below + 1 < this.#heap.length && before(this.#heap[below + 1], this.#heap[below])) below++;
      if (before(last, this.#heap[below])) break;
      this.#heap[at] = this.#heap[below];
      at = below;
    }
    this.#heap[at] = last;
    return first;
  }
}

function before(a, b) {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}
