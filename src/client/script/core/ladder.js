// @ts-check
// What carries a session: the best transport that this network lets through. It falls to the next one when one fails, and
// climbs when a better one works again, making the new one before it breaks the old one.
//
// Enters: what became of attachments; seconds. Leaves: attachments to try; verdicts; what the page is told of a change.
// Must not touch: messages.

import { Attachment, PollAttachment } from "./attachment.js";
import { SocketAttachment } from "./socket.js";
import { backoff, clamp } from "./waiting.js";

/** @typedef {import("./types.js").Carrier} Carrier */
/** @typedef {ReturnType<typeof makeLadder>} Ladder */

/** Deaths of young attachments in a row, behind which it is the network's fault. */
const STRIKES = 2;
/** Milliseconds in which an attachment is young. */
const YOUNG = 10000;
/** A moment without messages of so many milliseconds is quiet; after so many seconds a better transport waits no more. */
const QUIET = 1000;
const LONGEST_WAIT = 30;

/**
 * A stream needs a connection of its own for as long as it lasts.
 *
 * @param {string} name
 */
const isStream = name => name === "sse" || name === "stream";

/** @param {import("./session.js").Session} session */
export function makeLadder(session) {
  const { core } = session;
  const { options, sharedPoll, verdicts } = core;
  const ladder = {
    /** Carries the session. */
    current: /** @type {Attachment | null} */ (null),
    /** Is to prove itself. */
    trying: /** @type {Attachment | null} */ (null),
    /** A WebSocket whose handshake takes so long that another one is tried meanwhile. */
    late: /** @type {Attachment | null} */ (null),
    /** Attempts to reach the sidecar that were in vain. */
    failures: 0,
    ended,
    fell,
    letGo,
    next,
    proved,
    tick,
  };
  /** Counts attempts to attach: an older one gives way. */
  let turn = 0;
  /** Deaths while young, by transport. @type {Record<string, number>} */
  const strikes = {};
  /** Seconds that a better transport has waited for a quiet moment. */
  let waited = 0;
  /** What the page was told last. @type {Carrier | null} */
  let shown = null;

  /**
   * The best transport that may be used now.
   *
   * @returns {Carrier}
   */
  function choose() {
    const known = options.transports.filter(name => session.facts.transports.includes(name));
    const usable = known.filter(name => !verdicts.against(name));
    const streams = usable.some(isStream);
    if (!usable.includes("ws")) sharedPoll.want(session, streams);
    const free = usable.find(name => !isStream(name) || sharedPoll.grants(session));
    return free || (streams ? "poll" : known[known.length - 1] || "poll");
  }

  /**
   * Nothing carries the session: see whether the sidecar is there, attach the best transport.
   *
   * @param {string} why
   * @param {number} time Milliseconds to wait before.
   * @param {string} suspect A transport that is to blame if the sidecar is there.
   */
  function next(why = "opened", time = 0, suspect = "") {
    const ours = ++turn;
    const go = () => {
      if (why === "opened" || why === "recycled") attachBest(ours, why, suspect);
      else reach(ours, why, suspect);
    };
    if (time) session.pause(time, go);
    else go();
  }

  /**
   * @param {number} ours
   * @param {string} why
   * @param {string} suspect
   */
  function reach(ours, why, suspect) {
    if (ours !== turn) return;
    session.reach(reached => {
      if (reached) return attachBest(ours, why, suspect);
      const time = backoff(ladder.failures++) * (1 + core.outside.random() / 4);
      session.pause(time, () => reach(ours, why, ""));
    });
  }

  /**
   * @param {number} ours
   * @param {string} why
   * @param {string} suspect
   */
  function attachBest(ours, why, suspect) {
    // Whether it is still for us to attach: nobody else does, and the session has not ended or been set aside.
    const isOurs = () => ours === turn && !session.setAside;
    const go = () => {
      if (isOurs()) attach(choose(), why);
    };
    ladder.failures = 0;
    // Even if the session has ended meanwhile: the next one is spared.
    if (suspect) verdicts.draw(suspect);
    if (!isOurs()) return;
    if (choose() === "ws") go();
    else sharedPoll.whenReady(go);
  }

  /**
   * @param {Carrier} name
   * @param {string} cause
   */
  function attach(name, cause) {
    const { deadline, roundTrip } = session;
    const Kind = name === "ws" ? SocketAttachment : name === "poll" ? PollAttachment : Attachment;
    const attachment = new Kind(session, name, cause);
    ladder.trying = attachment;
    attachment.start();
    if (name !== "poll") attachment.expect(name === "ws" ? clamp(1000, 3 * roundTrip, 2500) : deadline);
  }

  /**
   * The round trip was made: this attachment carries the session now.
   *
   * @param {Attachment | undefined} attachment
   */
  function proved(attachment) {
    if (!attachment || attachment.good || attachment.dead) return;
    const { cause, name } = attachment;
    attachment.good = true;
    attachment.proven();
    drop(attachment);
    ladder.current = attachment;
    verdicts.lift(name);
    if (name === "ws") sharedPoll.want(session, false);
    if (shown !== name) core.do("tell", session.page, "changed", { transport: name, from: shown, cause });
    shown = name;
    session.up.pump();
    session.down.acknowledge();
  }

  /**
   * An attachment is over. A verdict is drawn when it was the network's fault, and the sidecar can be reached otherwise.
   *
   * @param {Attachment} attachment
   * @param {string} why
   * @param {number} [time]
   */
  function ended(attachment, why, time) {
    if (attachment.dead) return;
    attachment.stop();
    const { name } = attachment;
    const superseded = why === "superseded";
    if (superseded && ladder.late) {
      ladder.trying = ladder.late;
      ladder.late = null;
      ladder.trying.expect(session.deadline);
    }
    const suspect = isGuilty(attachment, why) ? name : "";
    forget(attachment);
    fell(`${name} ${why}`, time || (superseded ? 200 : 0), suspect);
  }

  /**
   * Something carries the session no more, or failed to. No verdict is drawn while the sidecar cannot be reached.
   *
   * @param {string} why
   * @param {number} time
   * @param {string} suspect
   */
  function fell(why, time, suspect) {
    if (!ladder.current && !ladder.trying) next(why, time, suspect);
    else if (suspect) session.reach(reached => reached && verdicts.draw(suspect));
  }

  /**
   * Whether it looks as if the network did it.
   *
   * @param {Attachment} attachment
   * @param {string} why
   */
  function isGuilty({ born, good, name }, why) {
    const cut = why === "cut";
    const young = core.now - born < YOUNG;
    if (!young) strikes[name] = 0;
    else if (cut) strikes[name] = (strikes[name] || 0) + 1;
    if (name === "poll") return false;
    if (["silent", "held", "altered", "stale"].includes(why)) return true;
    if (cut && young && strikes[name] > STRIKES) return true;
    return !good && (cut || why === "refused");
  }

  /**
   * Lets go of all attachments but one.
   *
   * @param {Attachment} [kept]
   */
  function drop(kept) {
    for (const attachment of [ladder.current, ladder.trying, ladder.late]) {
      if (!attachment) continue;
      if (attachment !== kept) attachment.stop();
      forget(attachment);
    }
  }

  /** @param {Attachment} attachment */
  function forget(attachment) {
    if (ladder.current === attachment) ladder.current = null;
    if (ladder.trying === attachment) ladder.trying = null;
    if (ladder.late === attachment) ladder.late = null;
  }

  /** Lets go of everything; what is under way comes to nothing. */
  function letGo() {
    turn++;
    drop();
    sharedPoll.want(session, false);
  }

  /**
   * Watches over what carries the session, and climbs.
   *
   * @param {boolean} slept
   */
  function tick(slept) {
    const { current } = ladder;
    if (!current) return;
    // A sidecar says by itself what is safe, and is asked when it has not.
    if (current.next > session.up.first) current.acknowledge();
    // Polls are watched where they are shared.
    const silent = current.name !== "poll" && core.now - current.heard > session.patience;
    const unanswered = current.asked && core.now - current.asked > 2 * session.deadline && !slept;
    if (silent || unanswered) current.end(slept ? "asleep" : "silent");
    else if (!ladder.trying && !ladder.late) climb(current);
  }

  // Better transports are tried again in a quiet moment.
  /** @param {Attachment} current */
  function climb(current) {
    const { transports } = options;
    // What the settings do not name is the last resort.
    const rank = /** @param {Carrier} name */ name => (transports.includes(name) ? transports.indexOf(name) : Infinity);
    const best = choose();
    if (current.name !== best && isStream(current.name) && !sharedPoll.grants(session)) current.end("shared");
    else if (rank(best) >= rank(current.name)) waited = 0;
    else if (core.now - session.busy > QUIET || ++waited > LONGEST_WAIT) attach(best, "better");
  }

  return ladder;
}
