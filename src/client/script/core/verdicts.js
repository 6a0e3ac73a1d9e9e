// @ts-check
// Verdicts: which transports do not work on this network. They hold for ten minutes, and for all tabs of the origin.
//
// Enters: names of transports. Leaves: whether one is to be avoided. Must not touch: the storage itself, the clock itself.

const TEN_MINUTES = 600000;

/** @param {import("./types.js").Outside} outside */
export function makeVerdicts({ date, load, save }) {
  return {
    /** @param {string} transport */
    against: transport => load()[transport] > date(),

    /** @param {string} transport */
    draw(transport) {
      save({ ...load(), [transport]: date() + TEN_MINUTES });
    },

    /** @param {string} transport */
    lift(transport) {
      const { [transport]: lifted, ...others } = load();
      if (lifted) save(others);
    },

    clear() {
      save({});
    },
  };
}
