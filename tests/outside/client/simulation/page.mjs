// A page with one socket: what it sends and hears, and whether it hears just what the backend said.
//
// Enters: chance, by way of the run; words of the core. Leaves: events for the core; a failure as soon as a word is wrong.
// Must not touch: the network.
import assert from "node:assert/strict";
import { Session } from "../../../../src/client/script/core/session.js";
import { LIMITS } from "./sidecar.mjs";
import { plain } from "./backend.mjs";

const encoder = new TextEncoder();

export class Page {
  // Messages up, as the backend is to hear them, and their sizes; how much of it counts as sent and not drained.
  sent = [];
  buffered = 0;
  got = 0;
  isOpen = false;
  // What became of its first request: it was asked, then answered.
  opening;
  transport = null;
  closing = null;
  ended = null;
  lastHeard;
  // The sidecar's half, once there is one.
  session = null;

  constructor(run, tab, name) {
    Object.assign(this, { run, tab, name, clock: run.clock, chance: run.chance, openedAt: run.clock.now, lastHeard: run.clock.now });
    this.core = new Session(tab.core, this, run.front.target(name), ["a"], "");
    tab.pages.push(this);
  }

  open() {
    this.tab.tell(() => this.core.open());
  }

  get isGone() {
    return this.tab.gone;
  }

  get isLive() {
    return this.isOpen && !this.ended && !this.closing && !this.isGone;
  }

  // Whether all that both have said was heard.
  get isSettled() {
    if (!this.isLive || !this.session) return true;
    return this.got === this.session.down.length && this.session.up.length === this.sent.length && this.buffered === 0;
  }

  // === what it does ===

  send(count) {
    for (; count > 0; count--) {
      const data = this.session.backend.message(`u${this.sent.length + 1}`);
      const size = (typeof data === "string" ? encoder.encode(data) : data).length;
      this.sent.push(plain(data));
      this.buffered += size;
      const isBlob = typeof data !== "string" && this.chance.oneIn(3);
      const item = typeof data === "string" ? { text: data, size } : isBlob ? { size } : { bytes: data, size };
      this.tab.tell(() => this.core.up.push(item));
      if (isBlob) this.clock.after(this.chance.pick([0, 3, 200]), () => this.tab.tell(() => this.core.converted(item, data.slice().buffer)));
    }
    this.clock.after(0, () => this.tab.tell(() => this.core.up.pump()));
  }

  close() {
    if (this.closing || this.ended || this.isGone) return;
    const [code, reason] = this.chance.pick([[undefined, ""], [1000, ""], [3001, "done"], [4999, "é"]]);
    this.closing = { code, reason, at: this.clock.now, wasOpen: this.isOpen };
    this.run.cover("page closes");
    this.tab.tell(() => this.core.close(code, reason));
  }

  // === what it hears ===

  opened() {
    assert.ok(!this.isOpen && !this.ended, `${this.name}: opened twice, or after its end`);
    this.isOpen = true;
    this.run.cover("opened");
  }

  message(data) {
    assert.ok(this.isOpen && !this.ended, `${this.name}: a message before the opening or after the end`);
    const { said } = this.session.backend;
    assert.deepEqual(plain(data), plain(said[this.got] ?? "nothing more"), `${this.name}: the page heard wrong as number ${this.got + 1}`);
    this.got++;
    this.run.cover("heard by a page");
  }

  drained(size) {
    this.buffered -= size;
    assert.ok(this.buffered >= 0, `${this.name}: more was drained than sent`);
  }

  changed({ transport, from, cause }) {
    assert.equal(from, this.transport, `${this.name}: it was carried by something else`);
    assert.notEqual(transport, from, `${this.name}: a change to the same`);
    this.transport = transport;
    this.run.cover(`to ${transport}`);
    this.run.cover(`cause ${cause}`);
  }

  closed(close, failed) {
    assert.ok(!this.ended, `${this.name}: closed twice`);
    assert.equal(failed, !this.isOpen, `${this.name}: an error is an event of what was never open`);
    this.ended = { ...close, failed, at: this.clock.now };
    const gaveUp = close.code === 1006 && this.session?.closing?.code !== 1006;
    this.run.cover(gaveUp ? "failed" : "closed");
    this.#judge(gaveUp);
  }

  // Whether it may end like this, now.
  #judge(gaveUp) {
    const { closing, ended, session } = this;
    const { code, reason, at } = ended;
    const given = ["client gone", "client too slow"].includes(session?.fate) && session.endedAt > this.run.fairSince + 30000;
    assert.ok(!given, `${this.name}: in fair weather the sidecar gave it up: ${session?.fate}`);
    const what = `${this.name}: ended ${JSON.stringify(ended)}, the sidecar's: ${JSON.stringify(session?.closing)} (${session?.fate})`;
    // It was too large, which only scenes have.
    if (code === 1009) return;
    if (gaveUp) {
      assert.ok(this.#mayFail(at), what);
      return;
    }
    assert.ok(session?.closing, what);
    const untold = closing && closing.code === undefined && session.closing.code === 1000 && session.closing.reason === "";
    assert.deepEqual({ code, reason }, untold ? { code: 1005, reason: "" } : { code: session.closing.code, reason: session.closing.reason }, what);
    const isLate = session.isOver || (closing && at - closing.at >= 7000);
    assert.ok(isLate || this.got === session.down.length, `${what}: ${this.got} of ${session.down.length} messages came`);
  }

  #mayFail(at) {
    const { closing, lastHeard, run, session, tab } = this;
    const { code } = this.ended;
    if (!this.isOpen) return Boolean(closing || run.refused.has(this.name) || (!run.isGentle && at - this.openedAt > 1500));
    if (code !== 1006) return false;
    if (this.mayBeRefused) return true;
    // It was asked to close, and could not in 30 s or five attempts; or nothing was heard for longer than the grace.
    const closeFailed = closing && at - closing.at >= 7000 && !run.isGentle;
    const gaveUp = at - lastHeard > LIMITS.grace * 1000 && !tab.frozen && lastHeard < run.fairSince;
    return Boolean(closeFailed || gaveUp || (closing && at - closing.at >= 30000) || !session);
  }
}
