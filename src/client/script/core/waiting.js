// @ts-check
// How long to wait.
//
// Enters: numbers. Leaves: numbers. Must not touch: anything else.

/**
 * @param {number} low
 * @param {number} value
 * @param {number} high
 */
export function clamp(low, value, high) {
  return Math.min(Math.max(value, low), high);
}

/**
 * Milliseconds before the next attempt, after so many that failed.
 *
 * @param {number} failures
 */
export function backoff(failures) {
  return clamp(250, 250 * 2 ** failures, 5000);
}
