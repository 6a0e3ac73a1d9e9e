// @ts-check
// One session, from its opening to its end. Its parts: `up` and `down` number what is said and heard, `ladder` sees to it
// that something carries it.
//
// Enters: what the page wants; answers. Leaves: requests; what the page is told. Must not touch: numbers, attachments.

import { backoff, clamp } from "./waiting.js";
import { makeDownlink } from "./downlink.js";
import { makeLadder } from "./ladder.js";
import { makeUplink } from "./uplink.js";

/** @typedef {import("./attachment.js").Attachment} Attachment */
/** @typedef {import("./types.js").Answer} Answer */
/** @typedef {import("./types.js").Close} Close */
/** @typedef {import("./types.js").Facts} Facts */
/** @typedef {import("./types.js").Item} Item */
/** @typedef {import("./types.js").Page} Page */

/** Milliseconds. How long opening may take; closing as a whole; the backend's answer to a close. */
const OPENING = 15000;
const CLOSING = 30000;
const CLOSE_ANSWER = 7000;

/** Attempts. */
const OPENINGS = 4;
const CLOSES = 5;

const ABNORMAL = 1006;
const NO_STATUS = 1005;
const TOO_LARGE = { code: 1009, reason: "message too large", clean: true };

/** Errors that end a session at once. */
const FATAL = ["unknown_session", "bad_cursor"];
/** Errors that do not pass, though some box may have made them of a good request, once or twice. */
const LASTING = ["bad_request", "origin_refused", "not_found", "method_not_allowed"];
const MOST_REFUSALS = 4;

export class Session {
  /** What the sidecar says of it; nothing until it is `opened`. */
  facts = /** @type {Facts} */ ({});
  url = "";
  over = false;
  setAside = false;
  /** How the page wants it closed. @type {{ code?: number, reason?: string } | null} */
  closing = null;
  /** Milliseconds, averaged. */
  roundTrip = 300;
  /** Milliseconds in which the sidecar is to be heard. */
  patience = 0;
  /** When the sidecar was heard last, and when a message passed. */
  alive = 0;
  busy = 0;
  /** The page knows that it is open. */
  #told = false;
  #closeSent = false;
  /** Until when a close is waited for. @type {import("./timers.js").Timer | null} */
  #ending = null;
  /** How often what was asked for was refused in a row. @type {Record<string, number>} */
  #refusals = {};
  /** Ends a pause early. @type {Set<() => void>} */
  #paused = new Set();

  /**
   * @param {import("./core.js").Core} core
   * @param {Page} page
   * @param {string} target The WebSocket's address, with `http`.
   * @param {string[]} protocols
   * @param {string} suspect A transport that failed before, and is to blame if the session can be opened.
   */
  constructor(core, page, target, protocols, suspect) {
    this.core = core;
    this.page = page;
    this.target = target;
    this.protocols = protocols;
    this.suspect = suspect;
    this.up = makeUplink(this);
    this.down = makeDownlink(this);
    this.ladder = makeLadder(this);
  }

  get isOpen() {
    return this.url !== "";
  }

  /** How long a proof may take. */
  get deadline() {
    return clamp(1500, 3 * this.roundTrip, 3000);
  }

  // --- opening ---

  open() {
    const { core } = this;
    this.alive = core.now;
    this.busy = core.now;
    core.sessions.add(this);
    core.openings.add(this);
    if (core.openings.size === 1) this.#openFirst();
  }

  #openFirst() {
    this.#open({ nonce: this.core.outside.word(24), protocols: this.protocols }, 1);
  }

  // Browsers have one handshake with a host at a time: the next one begins when this one has come to something.
  #passOn() {
    const { openings } = this.core;
    const [first] = openings;
    openings.delete(this);
    const [next] = openings;
    if (first === this && next) next.#openFirst();
  }

  /**
   * @param {{ nonce: string, protocols: string[] }} asked
   * @param {number} attempt
   */
  #open(asked, attempt) {
    const { core } = this;
    const mark = /\?/.test(this.target) ? "&" : "?";
    core.ask(`${this.target}${mark}underpass=open`, asked, ({ status, body, took, url }) => {
      this.roundTrip = took;
      if (body?.session) this.#begin(body.session, url);
      this.#passOn();
      if (this.isOpen || this.over) return;
      // A cookie has changed since the first attempt, whose answer was lost.
      if (body?.error?.code === "nonce_reused" && attempt < OPENINGS) {
        return this.#open({ ...asked, nonce: core.outside.word(24) }, OPENINGS);
      }
      // What the sidecar or the backend refuses is refused; what did not get through is tried again.
      if (attempt === OPENINGS || (body?.error && status !== 503)) return this.fail();
      this.pause(backoff(attempt - 1), () => this.#open(asked, attempt + 1));
    }, OPENING);
  }

  /**
   * @param {Facts} facts
   * @param {string} base What its address is relative to.
   */
  #begin(facts, base) {
    const { core } = this;
    if (this.suspect) core.verdicts.draw(this.suspect);
    this.facts = facts;
    this.url = new URL(facts.url, base).href;
    if (this.over) return this.post("close", {});
    if (core.outside.strict && this.protocols.length && !facts.protocol) return this.fail();
    this.alive = core.now;
    this.patience = facts.heartbeat * 1000 + 4000;
    this.up.limit = facts.max_batch;
    this.#told = true;
    core.do("tell", this.page, "opened", facts.protocol);
    this.up.pump();
    this.ladder.next();
  }

  // --- requests ---

  /**
   * @param {string} what
   * @param {string} [query]
   */
  address(what, query = "") {
    const { id, token } = this.facts;
    // A browser writes the address of a WebSocket that failed to its console. The token goes with the subprotocols.
    const url = what === "ws" ? this.url.replace(token, token.split("-")[0] + "-" + id) : this.url;
    return `${url}/${what}?after=${this.down.cursor}${query}&n=${this.core.outside.word(12)}`;
  }

  /**
   * A short request on this session. Errors that end it are seen to here.
   *
   * @param {string} what
   * @param {import("./types.js").RequestBody} body
   * @param {string} [query]
   * @param {(answer: Answer) => void} [then]
   * @param {number} [patience]
   */
  post(what, body, query, then, patience) {
    const { core, up } = this;
    core.ask(this.address(what, query), body, answer => {
      const { next = -1, sent = -1, error } = answer.body || {};
      const code = error?.code;
      if (code || next >= 0) this.alive = core.now;
      this.judge(what, code);
      // How it ended comes down.
      if (code === "session_closed") up.muted = true;
      if (next >= 0) up.accepted(next);
      if (sent >= 0) {
        this.measured(answer.took);
        this.down.compare(sent);
      }
      then?.(answer);
    }, patience);
  }

  /**
   * The session fails when it is refused what it cannot do without.
   *
   * @param {string} what
   * @param {string} [code] Of the error, if it is one.
   */
  judge(what, code = "") {
    const times = LASTING.includes(code) ? (this.#refusals[what] || 0) + 1 : 0;
    this.#refusals[what] = times;
    if (FATAL.includes(code) || times >= MOST_REFUSALS) this.fail();
  }

  /**
   * Whether the sidecar answers. What was written and did not arrive is taken at once. A browser does not know that a
   * connection it kept is dead: the next one may be better.
   *
   * @param {(reached: boolean) => void} then
   */
  reach(then) {
    const { down } = this;
    this.post("ack", null, "", ({ body }) => {
      const { next = 0, sent = 0, error } = body || {};
      if (sent > down.cursor || error?.code === "session_closed") down.collect(undefined, then);
      else then(this.over || next > 0);
    }, 2 * this.deadline);
  }

  /**
   * A round trip took so long.
   *
   * @param {number} time
   */
  measured(time) {
    this.roundTrip += (time - this.roundTrip) / 4;
  }

  /**
   * The sidecar was heard.
   *
   * @param {Attachment} [attachment]
   */
  heard(attachment) {
    this.alive = this.core.now;
    if (attachment) attachment.heard = this.alive;
  }

  // --- events of the page ---

  /**
   * The bytes of a blob are there.
   *
   * @param {Item} item
   * @param {ArrayBuffer} buffer
   */
  converted(item, buffer) {
    item.bytes = new Uint8Array(buffer);
    this.up.pump();
  }

  /**
   * @param {number} [code]
   * @param {string} [reason]
   */
  close(code, reason) {
    this.closing = { code, reason };
    this.#endAfter(CLOSING, () => this.fail());
    if (!this.isOpen) this.fail();
    else if (!this.up.queue.length || this.up.muted) this.sendClose();
  }

  // The page goes away for good.
  leave() {
    const { core, up } = this;
    if (!this.isOpen) return;
    const lastWords = up.lastWords();
    if (lastWords && !this.ladder.current?.duplex) {
      core.do("beacon", this.address("send", `&seq=${up.first}&as=json`), lastWords);
    }
    core.do("beacon", this.url + "/close", this.closing?.code ? this.closing : { code: 1000 });
  }

  // The page is set aside: hold nothing open.
  sleep() {
    this.setAside = true;
    this.ladder.letGo();
  }

  /**
   * Something happened that makes it worth looking: the page is shown again, the network is back.
   *
   * @param {string} cause
   * @param {boolean} always Even if the attachment seems well.
   */
  rouse(cause, always) {
    const { core, ladder, up } = this;
    const { current } = ladder;
    this.alive = core.now;
    up.misses = 0;
    ladder.failures = 0;
    if (this.setAside) {
      this.setAside = false;
      up.pump();
      if (this.isOpen) ladder.next(cause);
    } else if (current && (always || core.now - current.heard > this.patience)) {
      current.end(cause);
    } else {
      this.#wake();
    }
  }

  /** @param {boolean} slept */
  tick(slept) {
    if (!this.isOpen || this.setAside) return;
    if (slept) this.alive = this.core.now;
    if (this.core.now - this.alive > this.facts.grace * 1000 + 5000) this.fail();
    else this.ladder.tick(slept);
  }

  // --- ending ---

  sendClose() {
    if (this.#closeSent) return;
    this.#closeSent = true;
    this.#sendClose(1);
  }

  /** @param {number} attempt */
  #sendClose(attempt) {
    if (this.over || attempt > CLOSES) return this.fail();
    const { code = 1000, reason } = this.closing || {};
    this.post("close", { code, reason }, "", ({ body }) => {
      const close = body?.close;
      // The backend's answer comes down behind its last messages; not for ever.
      if (close) this.#endAfter(CLOSE_ANSWER, () => this.finish(close));
      else this.pause(backoff(attempt), () => this.#sendClose(attempt + 1));
    });
  }

  /**
   * @param {number} time
   * @param {() => void} end
   */
  #endAfter(time, end) {
    this.core.timers.clear(this.#ending);
    this.#ending = this.core.after(time, end);
  }

  fail() {
    this.finish({ code: ABNORMAL, reason: "", clean: false }, false, true);
  }

  /** A message up can never be accepted. */
  refuse() {
    this.finish(TOO_LARGE, false, true);
  }

  /**
   * @param {Close} close
   * @param {boolean} [came] It came down in its turn, so that it can be acknowledged.
   * @param {boolean} [failed] The sidecar is to hear of it.
   */
  finish({ code, reason, clean }, came = false, failed = false) {
    const { closing, core, down } = this;
    if (this.over) return;
    this.over = true;
    core.sessions.delete(this);
    core.timers.clear(this.#ending);
    this.ladder.letGo();
    down.stop();
    if (came) {
      down.cursor++;
      core.ask(this.address("ack"), null, () => {});
    } else if (failed && this.isOpen) {
      core.ask(this.address("close"), {}, () => {});
    }
    // Asked to close without a code, the page expects to be told that there was none.
    if (closing && closing.code === undefined && code === 1000 && !reason) code = NO_STATUS;
    core.do("tell", this.page, "closed", { code, reason, clean }, !this.#told);
    this.#passOn();
    this.#wake();
  }

  // --- pauses ---

  /**
   * Goes on after `time`, or when something happens that makes it worth trying.
   *
   * @param {number} time
   * @param {() => void} then
   */
  pause(time, then) {
    const resume = () => {
      this.core.timers.clear(timer);
      this.#paused.delete(resume);
      then();
    };
    const timer = this.core.after(time, resume);
    this.#paused.add(resume);
  }

  #wake() {
    for (const resume of [...this.#paused]) resume();
  }
}
