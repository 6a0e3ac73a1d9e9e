// One run: tabs with sockets, a sidecar, a network that changes for the worse; then fair weather, in which everything that is
// owed must come, the best transport be found, and every socket be closed as it was asked.
//
// Enters: a seed. Leaves: what was covered; a failure when something is wrong. Must not touch: the core's insides.
import assert from "node:assert/strict";
import { Sidecar } from "./answers.mjs";
import { Chance } from "./chance.mjs";
import { Clock } from "./clock.mjs";
import { Front } from "./front.mjs";
import { Page } from "./page.mjs";
import { Tab } from "./tab.mjs";
import { fair, foul } from "./weather.mjs";

// Milliseconds of fair weather in which everything comes right.
const PATIENCE = 180000;
const TRACED = 120;

const REFUSALS = [
  { code: "backend_refused", status: 403 }, { code: "backend_unreachable", status: 502 },
  { code: "overloaded", status: 503 }, { code: "overloaded", status: 503 },
];

export class Run {
  clock = new Clock();
  coverage = {};
  tabs = [];
  pages = [];
  // By target: how the next openings are refused; which were refused for good.
  refusals = new Map();
  refused = new Set();
  // Targets whose opening was asked again, but by somebody else as it looked.
  reopened = new Set();
  storage = { verdicts: {} };
  dateShift = 0;
  weather = fair();
  isBusy = false;
  isOver = false;
  // Since when the weather is fair for good.
  fairSince = Infinity;
  trace = [];
  // All addresses that were asked, and the length of the longest body.
  urls = [];
  longest = 0;

  constructor(seed, traced) {
    this.seed = seed;
    this.traced = traced;
    this.chance = new Chance(seed);
    const { chance } = this;
    this.isGentle = chance.oneIn(3);
    this.hasChannel = !chance.oneIn(5);
    const all = ["ws", "sse", "stream", "poll"];
    const transports = chance.pick([all, all, all, all.slice(1), ["ws", "poll"], ["poll"], ["ws"], ["sse"], ["stream", "ws"]]);
    this.front = new Front(chance);
    // Whether the browser, and whether the backend, insist on a subprotocol.
    this.isStrict = chance.oneIn(2);
    this.options = { base: this.front.base, transports, ws: "session", credentials: "same-origin", debug: false };
    this.sidecar = new Sidecar(this);
  }

  go() {
    const { chance, clock } = this;
    for (let at = chance.pick([1, 1, 2, 3]); at > 0; at--) this.openTab();
    for (let at = chance.pick([1, 1, 2, 5]); at > 0; at--) this.openPage();
    this.#every(500, () => this.sidecar.expire(), true);
    this.#every(300, () => this.#live());
    this.#every(700, () => this.#disturb());
    this.#every(chance.pick([1000, 3000]), () => this.#changeWeather());
    clock.runUntil(clock.now + chance.between(3000, chance.pick([15000, 15000, 30000, 100000])));
    this.isOver = true;
    this.#finale();
    return this.coverage;
  }

  // === what it is made of ===

  get closing() {
    return this.pages.length;
  }

  cover(what) {
    this.coverage[what] = (this.coverage[what] || 0) + 1;
  }

  note(...words) {
    if (!this.traced) return;
    const brief = word => (word && typeof word === "object" ? (word.constructor === Object || Array.isArray(word) ? JSON.stringify(word, (_, value) => (value?.core ? `<${value.name}>` : value)) : `<${word.name ?? word.constructor.name}>`) : String(word));
    this.trace.push(`${this.clock.now} ${words.map(brief).join(" ")}`.slice(0, 300));
    if (this.trace.length > TRACED) this.trace.shift();
  }

  // The core has a request made.
  asks(url, body) {
    if (!this.traced) return;
    this.urls.push(url);
    if (body) this.longest = Math.max(this.longest, JSON.stringify(body).length);
  }

  opened(target, session) {
    const page = this.pages.find(({ name }) => name === target);
    assert.ok(!page.session || this.reopened.delete(target), `${target}: two sessions were opened for one socket`);
    page.session = session;
    session.backend.expected = page.sent;
  }

  heardOf(token) {
    const page = this.pages.find(({ session }) => session?.token === token);
    if (page) page.lastHeard = this.clock.now;
  }

  say(tab, message) {
    if (!this.hasChannel) return;
    const copy = JSON.stringify(message);
    for (const other of this.tabs) {
      if (other !== tab) this.clock.after(1, () => other.tell(() => other.core.sharedPoll.hear(JSON.parse(copy))));
    }
  }

  beacon(url, body) {
    if (!this.weather.offline) this.clock.after(5, () => this.sidecar.handle(url, body, () => {}));
  }

  openTab() {
    // Names sort by age.
    this.tabs.push(new Tab(this, `t${this.tabs.length}`));
  }

  openPage(tab = this.chance.pick(this.tabs)) {
    if (tab.gone || tab.frozen) return null;
    const name = `p${this.pages.length}`;
    if (!this.isOver && this.chance.oneIn(6)) {
      const refusals = Array.from({ length: this.chance.pick([1, 1, 4]) }, () => this.chance.pick(REFUSALS));
      this.refusals.set(name, refusals);
      this.refused.add(name);
    }
    const page = new Page(this, tab, name);
    this.pages.push(page);
    page.open();
    return page;
  }

  // Again and again; what is bad ends with the bad days.
  #every(time, act, always = false) {
    this.clock.after(this.chance.between(1, 2 * time), () => {
      if (this.isOver && !always) return;
      act();
      this.#every(time, act, always);
    });
  }

  // === bad days ===

  // The page and the backend talk, and close.
  #live() {
    const { chance } = this;
    for (const page of this.pages) {
      if (!page.isOpen || page.ended || page.isGone) continue;
      if (chance.oneIn(4) && !page.closing && !page.tab.frozen) page.send(chance.pick([1, 1, 3, 8]));
      if (chance.oneIn(4)) for (let at = chance.pick([1, 2, 8]); at > 0; at--) page.session.backend.talk(page.session);
      if (chance.oneIn(100) && !page.tab.frozen) page.close();
      if (chance.oneIn(100)) this.#closeByBackend(page.session);
    }
    if (this.pages.length < 8 && chance.oneIn(20)) this.openPage();
    if (this.tabs.length < 4 && chance.oneIn(60)) this.openTab();
  }

  #closeByBackend(session) {
    if (session.closing) return;
    const close = this.chance.pick([{ code: 4001, reason: "kicked", clean: true }, { code: 1000, reason: "", clean: true }, { code: 1006, reason: "", clean: false }, { code: 1005, reason: "", clean: true }]);
    this.cover("backend closes");
    session.end(close, "backend closed");
  }

  // Things happen to tabs and their connections.
  #disturb() {
    const { chance, clock } = this;
    const tab = chance.pick(this.tabs);
    this.isBusy = chance.oneIn(4);
    if (this.weather.cuts && chance.oneIn(this.weather.cuts)) for (const connection of tab.connections.values()) connection.cut();
    if (tab.gone || tab.frozen) return;
    if (chance.oneIn(12)) {
      tab.hidden = !tab.hidden;
      if (!tab.hidden) tab.tell(() => tab.core.rouse("shown"));
    }
    if (this.isGentle) return;
    if (chance.oneIn(60)) {
      this.cover("frozen");
      tab.frozen = true;
      clock.after(chance.pick([3000, 8000, 40000, 100000]), () => tab.thaw());
    } else if (chance.oneIn(60)) {
      this.cover("set aside");
      tab.tell(() => tab.core.sleep());
      clock.after(chance.pick([10, 3000, 30000]), () => tab.tell(() => tab.core.rouse("resumed")));
    } else if (chance.oneIn(60) && this.tabs.filter(({ gone }) => !gone).length > 1) {
      this.cover("tab gone");
      if (chance.oneIn(2)) tab.tell(() => tab.core.leave());
      tab.gone = true;
      for (const connection of tab.connections.values()) connection.detach();
    }
  }

  #changeWeather() {
    const { chance } = this;
    this.weather = chance.oneIn(4) ? fair() : foul(chance);
    if (this.isGentle) {
      this.weather.offline = false;
      for (const what of ["lostRequest", "lostAnswer", "replaced", "stale"]) this.weather[what] &&= 40;
    }
    if (this.weather.offline) this.cover("offline");
    if (chance.oneIn(2)) for (const tab of this.tabs) for (const connection of tab.connections.values()) if (chance.oneIn(2)) connection.cut();
    if (chance.oneIn(3)) {
      this.cover("another network");
      for (const tab of this.tabs) tab.tell(() => tab.core.networkChanged());
    }
  }

  // === fair weather ===

  until(what, done) {
    this.clock.runUntil(this.clock.now + PATIENCE, done);
    assert.ok(done(), `in fair weather ${what} did not come about: ${this.pages.filter(page => !page.isGone).map(page => this.#describe(page)).join("; ")}`);
  }

  #describe({ name, isOpen, ended, closing, got, sent, buffered, session, transport }) {
    return `${name} ${JSON.stringify({ isOpen, ended, closing, transport, got, of: session?.down.length, heard: session?.up.length, sent: sent.length, buffered })}`;
  }

  #finale() {
    const { chance, clock } = this;
    this.weather = fair();
    this.fairSince = clock.now;
    this.isBusy = false;
    for (const tab of this.tabs) {
      if (tab.frozen) tab.thaw();
      if (tab.hidden) tab.tell(() => tab.core.rouse("shown"));
      tab.hidden = false;
    }
    const here = this.pages.filter(page => !page.isGone);
    this.until("an opening or a refusal", () => here.every(page => page.isOpen || page.ended));
    for (const page of here) {
      if (!page.isLive) continue;
      page.send(3);
      page.session.backend.talk(page.session);
    }
    this.until("what is owed", () => here.every(page => page.isSettled));
    // What was begun in bad weather is over; then verdicts are forgotten in time.
    this.clock.runUntil(this.clock.now + 20000);
    this.dateShift += 11 * 60000;
    this.until("the best transport", () => this.#isBest(here.filter(page => page.isLive)));
    for (const page of here) {
      if (!page.isLive) continue;
      page.send(2);
      if (chance.oneIn(2)) page.close();
      else this.#closeByBackend(page.session);
    }
    this.until("the end of all", () => here.every(page => page.ended));
    for (const page of here) this.#verify(page);
    this.#verifyNothingIsKept();
  }

  // The best that the settings allow: a WebSocket, or one of three streams.
  #isBest(pages) {
    const { transports } = this.options;
    if (transports[0] === "ws") return pages.every(({ transport }) => transport === "ws");
    const streams = transports.filter(name => name !== "ws" && name !== "poll");
    // From a poll that the settings do not name nothing climbs.
    if (!streams.length || !transports.includes("poll")) return true;
    const places = this.hasChannel ? Math.min(3, pages.length) : Math.min(1, pages.length);
    return pages.filter(({ transport }) => transport === streams[0] || transport === "ws").length >= places;
  }

  #verify(page) {
    const { closing, ended, sent, session } = page;
    if (!session || ended.code === 1006 || !closing || session.fate !== "client closed") return;
    assert.equal(session.up.length, sent.length, `${page.name}: the backend heard ${session.up.length} of ${sent.length} before the close`);
    const expected = { code: closing.code ?? 1000, reason: closing.reason };
    const { code, reason } = session.backend.closes[0];
    assert.deepEqual({ code, reason }, expected, `${page.name}: the backend was told another close`);
  }

  // What has ended holds no place: whoever comes now gets a stream.
  #verifyNothingIsKept() {
    const tab = this.tabs.find(({ gone }) => !gone);
    this.weather.ws = "refuse";
    this.options.transports = ["ws", "sse", "stream", "poll"];
    this.storage.verdicts = {};
    const page = this.openPage(tab);
    this.until("a place for a newcomer", () => page.transport === "sse");
    page.close();
    this.until("its end", () => page.ended);
    this.clock.runUntil(this.clock.now + 60000);
    for (const { connections, core, gone, live, name, requests } of this.tabs) {
      if (gone) continue;
      const left = { connections: connections.size, requests: requests.size, sessions: core.sessions.size, timers: live.size };
      assert.deepEqual(left, { connections: 0, requests: 0, sessions: 0, timers: 0 }, `${name}: something is left`);
    }
  }
}
