// @ts-check
// The client's core: all sessions of a page, and what they share. It decides, and does nothing itself.
//
// Enters: events, as calls within `at`, with the time at which they happen; randomness, storage and date as functions.
// Leaves: actions, in the order in which they are to be done; the next deadline. Must not touch: timers, requests, the
// page, a clock, chance of its own. That is why thousands of bad days can be tried in a minute (tests/outside/client/simulation).
//
//   const actions = core.at(now, () => session.close(1000, "bye"));
//
// What is asked for (`ask`) is answered by an event of its own (`answered`), and deadlines (`after`) by `expire`.

import { makeSharedPoll } from "./shared_poll.js";
import { makeTimers } from "./timers.js";
import { makeVerdicts } from "./verdicts.js";

/** @typedef {import("./types.js").Action} Action */
/** @typedef {import("./types.js").Answer} Answer */
/** @typedef {import("./types.js").Options} Options */
/** @typedef {import("./types.js").Outside} Outside */
/** @typedef {import("./types.js").Session} Session */

/** A page that was not run for so long was asleep. */
const SLEEP = 5000;

export class Core {
  now = 0;
  /** Whether the page is hidden: its timers are slow. */
  hidden = false;
  /** @type {Set<Session>} */
  sessions = new Set();
  /** Those whose opening is under way, and those that wait for it. @type {Set<Session>} */
  openings = new Set();
  timers = makeTimers();

  /** @type {Action[]} */
  #actions = [];
  /** Who waits for the answer of which request. @type {Map<number, (answer: Answer) => void>} */
  #asked = new Map();
  #requests = 0;
  #ticked = 0;

  /**
   * @param {Options} options
   * @param {Outside} outside
   * @param {string} tab This tab's name; names sort by age.
   * @param {number} now
   */
  constructor(options, outside, tab, now) {
    this.options = options;
    this.outside = outside;
    this.verdicts = makeVerdicts(outside);
    this.sharedPoll = makeSharedPoll(this, tab);
    this.#ticked = now;
  }

  /**
   * Lets events happen. Returns what is to be done.
   *
   * @param {number} now
   * @param {() => void} events
   */
  at(now, events) {
    this.now = now;
    events();
    return this.#actions.splice(0);
  }

  // --- events ---

  /**
   * A request was answered, or was not.
   *
   * @param {number} id
   * @param {Answer} answer
   */
  answered(id, answer) {
    const act = this.#asked.get(id);
    this.#asked.delete(id);
    act?.(answer);
  }

  /** Time has passed: do what is due. */
  expire() {
    this.timers.expire(this.now);
  }

  /** About once a second. */
  tick() {
    const slept = this.now - this.#ticked > SLEEP;
    this.#ticked = this.now;
    this.sharedPoll.tick();
    this.#each(session => session.tick(slept));
  }

  /** The page is set aside (back/forward cache, freezing). */
  sleep() {
    this.#each(session => session.sleep());
    this.sharedPoll.say({ bye: true });
  }

  /**
   * The page is back, or shown again.
   *
   * @param {string} cause
   */
  rouse(cause) {
    this.#each(session => session.rouse(cause, false));
  }

  /** Another network, or the same one again. */
  networkChanged() {
    this.verdicts.clear();
    this.sharedPoll.forget();
    this.#each(session => session.rouse("network", true));
  }

  /** The page goes for good. */
  leave() {
    this.sharedPoll.say({ bye: true });
    this.#each(session => session.leave());
  }

  // --- for the parts of the core ---

  /** @param {Action} action */
  do(...action) {
    this.#actions.push(action);
  }

  /**
   * @param {string} url
   * @param {import("./types.js").RequestBody} body
   * @param {(answer: Answer) => void} answered
   * @param {number} [patience] Milliseconds.
   */
  ask(url, body, answered, patience = 10000) {
    const id = ++this.#requests;
    this.#asked.set(id, answered);
    this.do("request", id, url, body, patience);
    return id;
  }

  /**
   * Nobody waits for this request any more.
   *
   * @param {number} id
   */
  cancel(id) {
    if (this.#asked.delete(id)) this.do("cancel", id);
  }

  /**
   * @param {number} time Milliseconds.
   * @param {() => void} act
   */
  after(time, act) {
    return this.timers.set(this.now + time, act);
  }

  /** @param {(session: Session) => void} act */
  #each(act) {
    for (const session of [...this.sessions]) act(session);
  }
}
