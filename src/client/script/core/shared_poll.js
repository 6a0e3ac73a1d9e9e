// @ts-check
// Few connections for many sessions. A browser opens six HTTP/1.1 connections to a host, for all tabs together. The three
// oldest sessions of all tabs may have a stream; the others share one poll, which the oldest tab that needs it holds for
// all.
//
// Enters: who would like a stream, who polls; what other tabs say; answers of the poll. Leaves: who may have a stream; the
// poll; what the other tabs are told. Must not touch: the channel between tabs; what is in the answers.

import { makePoll } from "./poll.js";
import { makeWait } from "./poll_wait.js";
import { backoff } from "./waiting.js";

/** @typedef {import("./attachment.js").Attachment} Attachment */
/** @typedef {import("./types.js").Answer} Answer */
/** @typedef {import("./types.js").PollAnswer} PollAnswer */
/** @typedef {import("./types.js").TabMessage} TabMessage */
/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./timers.js").Timer} Timer */
/** @typedef {{ wants: number, polls: number, fresh: boolean }} Tab */

/** Milliseconds: what the other tabs have to answer; what is worth a timer, so that changes come together. */
const ROLL_CALL = 60;
const TOGETHER = 10;
const OTHERS_PRESENT = 15;
/** A poll that fails within so many milliseconds was not carried at all. */
const AT_ONCE = 1500;

/** Sessions of one poll; the sidecar takes 256. */
const MOST_SESSIONS = 250;
/** Seconds between two roll calls. */
const ROLL = 5;

/**
 * The sidecar that a session lives on.
 *
 * @param {string} token
 */
const nodeOf = token => token.split("-")[0];

/**
 * @param {import("./core.js").Core} core
 * @param {string} tab This tab's name; names sort by age.
 */
export function makeSharedPoll(core, tab) {
  const poll = makePoll(core);
  const wait = makeWait();
  /** The other tabs. @type {Map<string, Tab>} */
  const tabs = new Map();
  /** Our sessions that have or would like a stream, oldest first. @type {Set<Session>} */
  const wanting = new Set();
  /** Our sessions that poll, by token; those that were answered last come last. @type {Map<string, Attachment>} */
  const polling = new Map();
  /** Sessions of other tabs that we poll for: tab to token to cursor. @type {Map<string, Record<string, number>>} */
  const carried = new Map();
  /** Who waits until we know what the other tabs want; nobody any more once we do. @type {(() => void)[] | null} */
  let waiting = [];
  let gathering = false;
  /** Whether there is a channel to other tabs. */
  let shared = false;
  /** How many sessions may have a stream. */
  let places = 3;
  /** The poll under way, or 0; and for what. */
  let request = 0;
  let held = "";
  let failures = 0;
  let ticks = 0;
  let turn = 0;
  /** @type {Timer | null} */
  let timer = null;

  // --- who may have a stream ---

  function gather() {
    if (!gathering) core.do("gather");
    gathering = true;
  }

  /** @param {() => void} then */
  function whenReady(then) {
    if (!waiting) return then();
    waiting.push(then);
    gather();
  }

  /**
   * An event: there is a channel to other tabs, or there is none.
   *
   * @param {boolean} hasChannel
   * @param {number} streams How many there may be.
   */
  function gathered(hasChannel, streams) {
    const ready = () => {
      const ours = waiting || [];
      waiting = null;
      for (const then of ours) then();
    };
    places = streams;
    shared = hasChannel;
    if (!shared) return ready();
    say({ roll: true });
    core.after(ROLL_CALL, ready);
  }

  /**
   * @param {Session} session
   * @param {boolean} wanted
   */
  function want(session, wanted) {
    if (wanting.has(session) === wanted) return;
    if (wanted) wanting.add(session);
    else wanting.delete(session);
    gather();
    report();
  }

  /** @param {Session} session */
  function grants(session) {
    let before = [...wanting].indexOf(session);
    for (const [id, { wants }] of tabs) {
      if (id < tab) before += wants;
    }
    return wanting.has(session) && before < places;
  }

  // --- the other tabs ---

  /** @param {TabMessage} message */
  function say(message) {
    core.do("say", { id: tab, ...message });
  }

  function report() {
    say({ wants: wanting.size, polls: polling.size });
  }

  /**
   * An event: another tab has said something.
   *
   * @param {TabMessage} message
   */
  function hear({ id = "", to, roll, bye, wants = 0, polls = 0, carry, told }) {
    if (roll) return report();
    if (bye) forget(id);
    else if (to && to !== tab) return;
    else if (carry) carried.set(id, carry);
    else if (told) return deliver(told);
    else tabs.set(id, { wants, polls, fresh: true });
    arrange(TOGETHER);
  }

  /** @param {string} id */
  function forget(id) {
    tabs.delete(id);
    carried.delete(id);
  }

  // Tabs that do not answer the roll are gone.
  function tick() {
    if (++ticks % ROLL || !shared || !(wanting.size || polling.size)) return;
    for (const [id, other] of tabs) {
      if (!other.fresh) {
        forget(id);
        arrange(TOGETHER);
      }
      other.fresh = false;
    }
    say({ roll: true });
  }

  // --- the poll ---

  /** @param {Attachment} attachment */
  function join(attachment) {
    const { facts } = attachment.session;
    polling.set(facts.token, attachment);
    wait.allow(facts.wait);
    report();
    arrange(TOGETHER);
  }

  /** @param {Attachment} attachment */
  function leave(attachment) {
    const { token } = attachment.session.facts;
    if (polling.get(token) !== attachment) return;
    polling.delete(token);
    report();
    arrange(TOGETHER);
  }

  /** The oldest tab that polls, or we. */
  function leader() {
    const others = [...tabs].filter(([, { polls }]) => polls).map(([id]) => id);
    return [tab, ...others].sort()[0];
  }

  function ourCursors() {
    return Object.fromEntries([...polling].map(([token, { session }]) => [token, session.down.cursor]));
  }

  /**
   * Sees to it, after `time`, that the right sessions are polled for by the right tab.
   *
   * @param {number} time
   */
  function arrange(time) {
    const act = () => {
      const to = leader();
      if (to === tab) return hold();
      cancel();
      held = "";
      if (polling.size) say({ to, carry: ourCursors() });
    };
    core.timers.clear(timer);
    // Hidden, a short wait is a second, and all tabs would wait.
    if (time > OTHERS_PRESENT || (time && !core.hidden)) timer = core.after(time, act);
    else act();
  }

  function cancel() {
    core.cancel(request);
    request = 0;
  }

  // Holds the poll, unless it is held for just these already.
  function hold() {
    /** @type {Record<string, number>} */
    const cursors = Object.assign({}, ...(polling.size ? carried.values() : []), ourCursors());
    const all = Object.keys(cursors);
    // A balancer may have spread them over sidecars, by the beginning of the token: these in turn.
    const nodes = [...new Set(all.map(nodeOf))];
    const node = nodes[turn % nodes.length];
    const tokens = all.filter(token => nodeOf(token) === node).slice(0, MOST_SESSIONS);
    const wanted = JSON.stringify(cursors);
    if (request && wanted === held) return;
    cancel();
    if (!polling.size) return;
    held = wanted;
    // Only now: who is asked in vain to hold it would pass over a sidecar, and always the same one.
    turn++;
    const [own] = polling.values();
    // The next sidecar has its turn soon. After a failure it is worth knowing soon whether this one is there.
    const isShort = nodes.length > 1 || failures > 0;
    const seconds = isShort ? 1 : wait.at(core.now);
    const asked = Object.fromEntries(tokens.map(token => [token, cursors[token]]));
    request = poll(own.session.url, asked, `wait=${seconds}`, seconds * 1000 + 10000, (answers, answer) => {
      answered(answers, answer, isShort);
    });
  }

  /**
   * @param {Record<string, PollAnswer> | null} answers
   * @param {Answer} answer
   * @param {boolean} isShort
   */
  function answered(answers, { status, took }, isShort) {
    request = 0;
    if (!answers) {
      if (!isShort) wait.failed(core.now, took, status);
      failures = took > AT_ONCE ? 1 : failures + 1;
      return arrange(backoff(failures - 1));
    }
    failures = 0;
    wait.passed(took);
    const others = deliverToOthers(answers);
    deliver(answers);
    // The others present their cursors meanwhile.
    arrange(others ? OTHERS_PRESENT : 0);
  }

  /** @param {Record<string, PollAnswer>} answers */
  function deliverToOthers(answers) {
    let others = false;
    for (const [to, cursors] of carried) {
      /** @type {Record<string, PollAnswer>} */
      const told = {};
      for (const token in cursors) {
        if (!answers[token]) continue;
        told[token] = answers[token];
        delete cursors[token];
        others = true;
      }
      say({ to, told });
    }
    return others;
  }

  /** @param {Record<string, PollAnswer>} answers */
  function deliver(answers) {
    for (const token in answers) {
      const attachment = polling.get(token);
      if (!attachment || attachment.dead) continue;
      // To the end: those that were not answered have their turn.
      polling.delete(token);
      polling.set(token, attachment);
      attachment.session.down.polled(answers[token], attachment);
    }
    if (leader() !== tab) arrange(0);
  }

  return { forget: wait.forget, gathered, grants, hear, join, leave, poll, say, tick, want, whenReady };
}
