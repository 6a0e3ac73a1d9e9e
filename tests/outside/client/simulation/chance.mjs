// Seeded chance: the same seed gives the same run, on every machine.
//
// Enters: a seed. Leaves: numbers and choices. Must not touch: anything else.

export class Chance {
  #state;

  constructor(seed) {
    this.#state = (seed * 2654435761 + 0x9e3779b9) >>> 0;
    for (let at = 0; at < 4; at++) this.random();
  }

  // 0 to 1: mulberry32.
  random() {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  }

  // Both ends included.
  between(low, high) {
    return low + Math.floor(this.random() * (high - low + 1));
  }

  oneIn(n) {
    return this.between(1, n) === 1;
  }

  pick(from) {
    return from[this.between(0, from.length - 1)];
  }

  word(length) {
    return Array.from({ length }, () => this.between(0, 35).toString(36)).join("");
  }
}
