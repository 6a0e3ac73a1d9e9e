// @ts-check
// An attachment: one connection, or a row of polls, that carries a session down. It is good once the round trip was made.
//
// Enters: what came on it, as events. Leaves: what that means for the session; actions. Must not touch: the connection.

/** @typedef {import("./types.js").Carrier} Carrier */
/** @typedef {import("./types.js").Close} Close */
/** @typedef {import("./session.js").Session} Session */

export class Attachment {
  /** It carried something both ways. */
  good = false;
  /** Nothing that still comes on it counts. */
  dead = false;
  /** How often a message on it made us acknowledge. */
  acks = 0;
  /** Whether messages up go over it too. */
  duplex = false;
  /** The number of the next message up on it, where it takes messages up. */
  next = 0;
  /** When an acknowledgement was sent on it that is not answered yet, or 0. */
  asked = 0;
  /** The proof must come by then. @type {import("./timers.js").Timer | null} */
  #proof = null;

  /**
   * @param {Session} session
   * @param {Carrier} name
   * @param {string} cause Why the session changes to it.
   */
  constructor(session, name, cause) {
    this.session = session;
    this.core = session.core;
    this.name = name;
    this.cause = cause;
    this.born = this.core.now;
    this.heard = this.core.now;
    /** The number of the last message that came on it. */
    this.number = session.down.cursor;
  }

  start() {
    const cause = `&cause=${encodeURIComponent(this.cause)}`;
    this.core.do("attach", this, this.session.address(this.name, cause));
  }

  stop() {
    this.dead = true;
    this.proven();
    this.detach();
  }

  detach() {
    this.core.do("detach", this);
  }

  /**
   * The proof must come within `time`.
   *
   * @param {number} time
   */
  expect(time) {
    this.proven();
    this.#proof = this.core.after(time, () => this.missing());
  }

  /** No proof is waited for any more. */
  proven() {
    this.core.timers.clear(this.#proof);
  }

  /** The proof did not come in time. */
  missing() {
    this.end("silent");
  }

  /** Messages up go over it, from the queue. */
  pump() {}

  /** Presents the cursor on it. Returns whether it can. */
  acknowledge() {
    return false;
  }

  // --- events ---

  /** Something came on it. Returns whether that still counts. */
  hear() {
    if (this.dead) return false;
    this.session.heard(this);
    return true;
  }

  /** Its connection stands. */
  connected() {}

  /** @param {{ token: string, from: number, next: number }} facts */
  begun(facts) {
    // Not what was asked for: somebody has kept it.
    if (facts.from !== this.number || facts.token !== this.session.facts.token) return this.end("stale");
    this.session.up.accepted(facts.next);
  }

  /**
   * A message that has the number behind the one before.
   *
   * @param {string | Uint8Array<ArrayBuffer>} data
   * @param {number} size
   */
  unnumbered(data, size) {
    this.numbered(this.number + 1, data, size);
  }

  /**
   * A message that says its number. Without one of its own it has the one before: it was spoilt on the way, and may have
   * been anything.
   *
   * @param {number} number
   * @param {string | Uint8Array<ArrayBuffer>} data
   * @param {number} size
   */
  numbered(number, data, size) {
    if (!(number > this.number)) return this.end("altered");
    this.number = number;
    this.session.down.take(this, number, data, size);
  }

  /**
   * A heartbeat: all up to `sent` was written.
   *
   * @param {number} sent
   */
  beat(sent) {
    if (sent > this.session.down.cursor) return this.end("altered");
    this.session.ladder.proved(this);
    this.session.down.acknowledge();
  }

  /**
   * Our acknowledgement was answered: all messages up below `next` are safe.
   *
   * @param {number} next
   */
  accepted(next) {}

  /**
   * @param {number} number
   * @param {Close} close
   */
  closed(number, close) {
    if (number === this.session.down.cursor + 1) this.session.finish(close, true);
    else this.end("altered");
  }

  /**
   * It is over.
   *
   * @param {string} why
   * @param {number} [time] Milliseconds to wait before the next one.
   */
  end(why, time) {
    this.session.ladder.ended(this, why, time);
  }
}

/** A row of long polls: the first one by itself, for it does not wait, and the others with those of all tabs. */
export class PollAttachment extends Attachment {
  start() {
    const { core, session } = this;
    session.down.collect(this, collected => {
      if (!collected) this.end("refused");
      else if (!this.dead) core.sharedPoll.join(this);
    });
  }

  detach() {
    this.core.sharedPoll.leave(this);
  }
}
