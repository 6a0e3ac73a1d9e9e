// @ts-check
// How long a poll may wait on this network. A box that cuts what is idle shows itself by cutting twice at the same age, or by
// an error page that says so. A single cut may be anything: a proxy that is restarted, a laptop that slept. What was learnt is
// tried again from time to time, so that it is forgotten when the box is gone.
//
// Enters: polls that passed or failed, and their age. Leaves: seconds to wait. Must not touch: polls.

import { clamp } from "./waiting.js";

/** Milliseconds: a poll that fails earlier has met something else, one that fails so much later than its wait was asleep. */
const YOUNG = 1500;
const ASLEEP = 15000;
/** Milliseconds until the whole wait is tried again, at first and at most. */
const RETRY = 180000;
const LATEST_RETRY = 3600000;

/** Request Timeout, Gateway Timeout. */
const TIMEOUTS = [408, 504];

export function makeWait() {
  /** Seconds: what the sidecar allows, what the network does. */
  let most = 25;
  let seconds = 25;
  /** The age of the last poll that was cut. */
  let cut = 0;
  let retry = RETRY;
  let retryAt = 0;
  return {
    /** @param {number} allowed Seconds. */
    allow(allowed) {
      most = Math.min(most, allowed);
      seconds = Math.min(seconds, most);
    },

    /** @param {number} now */
    at(now) {
      if (now > retryAt) seconds = most;
      return seconds;
    },

    /** @param {number} age */
    passed(age) {
      if (age < cut + 2000) return;
      cut = 0;
      retry = RETRY;
    },

    /**
     * @param {number} now
     * @param {number} age
     * @param {number} status
     */
    failed(now, age, status) {
      const due = seconds * 1000;
      if (age < YOUNG || age > due + ASLEEP) return;
      const again = Math.abs(age - cut) < clamp(500, age / 5, 2000);
      cut = age;
      if (!again && !TIMEOUTS.includes(status)) return;
      // Beyond its wait a poll was not cut but dropped, nobody knows when.
      seconds = Math.max(1, age < due ? age / 1250 : seconds / 2);
      retryAt = now + retry;
      retry = Math.min(2 * retry, LATEST_RETRY);
    },

    /** This is another network. */
    forget() {
      retryAt = 0;
      cut = 0;
      retry = RETRY;
    },
  };
}
