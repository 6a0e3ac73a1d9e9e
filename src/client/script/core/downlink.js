// @ts-check
// What a session hears: each number once, in order, whatever carries it; and the acknowledgements for it.
//
// Enters: numbered messages, answers of polls, what the sidecar says it has sent. Leaves: messages for the page;
// acknowledgements. Must not touch: messages up.

import { fromBase64 } from "./codec.js";

/** @typedef {import("./attachment.js").Attachment} Attachment */
/** @typedef {import("./timers.js").Timer} Timer */
/** @typedef {import("./types.js").Close} Close */
/** @typedef {import("./types.js").PollAnswer} PollAnswer */
/** @typedef {ReturnType<typeof makeDownlink>} Downlink */

/** What the sidecar counts for a message beside its payload. */
const OVERHEAD = 64;
/** Milliseconds in which a poll that does not wait is to be answered. */
const COLLECTING = 10000;

/** @param {import("./session.js").Session} session */
export function makeDownlink(session) {
  const { core } = session;
  const down = {
    /** The number of the last message that came. */
    cursor: 0,
    acknowledge,
    collect,
    compare,
    polled,
    stop,
    take,
  };
  /** Bytes since the last acknowledgement. */
  let unacked = 0;
  /** Acknowledges soon. @type {Timer | null} */
  let soon = null;
  /** An acknowledgement is under way; another one is to follow. */
  let acking = false;
  let again = false;

  /**
   * A message has come.
   *
   * @param {Attachment | undefined} attachment
   * @param {number} number
   * @param {string | Uint8Array<ArrayBuffer>} data
   * @param {number} size
   */
  function take(attachment, number, data, size) {
    if (session.over) return;
    session.heard(attachment);
    if (number > down.cursor + 1) return attachment?.end("altered");
    if (number > down.cursor) {
      down.cursor = number;
      unacked += size + OVERHEAD;
      session.busy = core.now;
      core.do("tell", session.page, "message", data);
    }
    session.ladder.proved(attachment);
    if (unacked >= session.facts.ack_bytes) acknowledge();
    else if (attachment) acknowledgeSoon(attachment);
  }

  /**
   * A poll was answered.
   *
   * @param {PollAnswer} answer
   * @param {Attachment} [attachment]
   */
  function polled(answer, attachment) {
    const { close, from, lost, messages, next, reconnect, superseded } = answer;
    const code = answer.error?.code;
    session.heard(attachment);
    if (code === "session_closed") return session.finish(/** @type {Close} */ (close));
    if (lost) return session.fail();
    session.judge("poll", code);
    if (code) {
      if (code !== "stale_cursor") attachment?.end("refused", 1000);
      return;
    }
    session.up.accepted(next);
    session.ladder.proved(attachment);
    messages.forEach((message, at) => {
      const data = typeof message === "string" ? message : fromBase64(message.base64);
      take(attachment, from + at + 1, data, data.length);
    });
    if (close) session.finish(close, true);
    else if (superseded) attachment?.end("superseded");
    else if (reconnect) attachment?.end("recycled", reconnect.after_ms);
  }

  /**
   * Polls once without waiting.
   *
   * @param {Attachment | undefined} attachment
   * @param {(collected: boolean) => void} then
   */
  function collect(attachment, then) {
    const { facts: { token }, url } = session;
    const cause = encodeURIComponent(attachment ? attachment.cause : "mop");
    core.sharedPoll.poll(url, { [token]: down.cursor }, `wait=0&cause=${cause}`, COLLECTING, (answers, { took }) => {
      if (session.over || !answers?.[token]) return then(session.over);
      session.measured(took);
      polled(answers[token], attachment);
      then(true);
    });
  }

  function acknowledge() {
    const { current } = session.ladder;
    stop();
    unacked = 0;
    // The next poll presents the cursor.
    if (!current || current.acknowledge() || current.name === "poll") return;
    if (acking) {
      again = true;
      return;
    }
    acking = true;
    session.post("ack", null, "", () => {
      const repeat = again;
      acking = false;
      again = false;
      if (repeat) acknowledge();
    });
  }

  // Soon at first, to learn early whether a box holds things back; then less often.
  /** @param {Attachment} attachment */
  function acknowledgeSoon(attachment) {
    soon ??= core.after(Math.min(400 * 2 ** attachment.acks++, session.facts.heartbeat * 333), acknowledge);
  }

  function stop() {
    core.timers.clear(soon);
    soon = null;
  }

  /**
   * The sidecar has written all up to `sent`: what does not arrive in time is held back on the way.
   *
   * @param {number} sent
   */
  function compare(sent) {
    const { deadline, ladder } = session;
    const { current } = ladder;
    if (!current || current.name === "poll" || sent <= down.cursor) return;
    core.after(deadline + 50, () => {
      const silent = core.now - current.heard >= deadline;
      if (current === ladder.current && sent > down.cursor && silent) current.end("held");
    });
  }

  return down;
}
