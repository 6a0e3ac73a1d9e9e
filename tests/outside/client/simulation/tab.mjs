// A tab: the core, and a shell that does what it says through a simulated network, as src/client/script/runner.js does
// through a real one.
//
// Enters: events. Leaves: requests, connections, words to other tabs and to pages. Must not touch: the core's insides,
// except to see that nothing grows.
import assert from "node:assert/strict";
import { Core } from "../../../../src/client/script/core/core.js";
import { Connection } from "./connections.mjs";
import { strikes } from "./weather.mjs";

// More timers and requests than this, beside so many for each session, and something grows.
const MOST = 20;
const MOST_EACH = 40;

export class Tab {
  connections = new Map();
  // Polls that wait: what cuts them.
  polls = new Map();
  pages = [];
  hidden = false;
  // It is not run: its computer sleeps.
  frozen = false;
  gone = false;
  #actions = [];
  #acting = false;
  #armed = Infinity;
  #missed = [];
  // Its clock began when it was opened.
  #origin;

  constructor(run, name) {
    Object.assign(this, { run, name, clock: run.clock, chance: run.chance, requests: new Map() });
    this.#origin = run.clock.now - run.chance.between(0, 100);
    const { chance, storage } = run;
    const outside = {
      random: () => chance.random(),
      word: length => chance.word(length),
      date: () => 1.7e12 + run.clock.now + run.dateShift,
      strict: run.isStrict,
      load: () => ({ ...storage.verdicts }),
      save: verdicts => { storage.verdicts = { ...verdicts }; },
    };
    this.core = new Core(run.options, outside, name, this.#now);
    this.#count(this.core.timers);
    this.#tick();
  }

  // Timers that are set and have neither gone off nor been cleared.
  live = new Set();

  #count(timers) {
    const { clear, set } = timers;
    timers.set = (at, act) => {
      const timer = set.call(timers, at, act);
      this.live.add(timer);
      return timer;
    };
    timers.clear = timer => {
      this.live.delete(timer);
      clear.call(timers, timer);
    };
  }

  get #now() {
    return this.clock.now - this.#origin;
  }

  // What happens in a frozen tab happens when it is woken.
  tell(event) {
    if (this.gone) return;
    if (this.frozen) return void this.#missed.push(event);
    this.core.hidden = this.hidden;
    this.#actions.push(...this.core.at(this.#now, event));
    if (this.#acting) return;
    this.#acting = true;
    for (let action = this.#actions.shift(); action; action = this.#actions.shift()) this.#do(action);
    this.#acting = false;
    this.#arm();
    this.#measure();
  }

  thaw() {
    this.frozen = false;
    for (const event of this.#missed.splice(0)) this.tell(event);
    this.#armed = Infinity;
    this.tell(() => {});
  }

  // Timers come late, in hidden tabs by up to a second.
  #arm() {
    const first = this.core.timers.first();
    if (!first || first.at >= this.#armed) return;
    this.#armed = first.at;
    const due = first.at;
    const late = this.hidden ? this.chance.between(0, 1000) : this.chance.pick([0, 0, 1, 15]);
    this.clock.after(due - this.#now + late, () => {
      if (this.#armed === due) this.#armed = Infinity;
      this.tell(() => this.core.expire());
    });
  }

  #tick() {
    this.clock.after(1000, () => {
      if (this.gone) return;
      if (!this.frozen) this.tell(() => this.core.tick());
      this.#tick();
    });
  }

  // Nothing grows without end.
  #measure() {
    const { sessions } = this.core;
    const most = MOST + MOST_EACH * (sessions.size + this.run.closing);
    assert.ok(this.live.size <= most, `${this.name}: ${this.live.size} timers for ${sessions.size} sessions`);
    assert.ok(this.requests.size <= most, `${this.name}: ${this.requests.size} requests for ${sessions.size} sessions`);
    assert.ok(this.connections.size <= 3 * this.pages.length, `${this.name}: ${this.connections.size} connections`);
  }

  #do([what, ...values]) {
    this.run.note(this.name, what, values);
    switch (what) {
      case "request": return this.#request(...values);
      case "cancel": return this.requests.get(values[0])?.();
      case "attach": return this.connections.set(values[0], new Connection(this.run, this, ...values));
      case "detach": return this.#detach(values[0]);
      case "transmit": return this.connections.get(values[0])?.transmit(values[1]);
      case "beacon": return this.run.beacon(...values);
      case "gather": return this.tell(() => this.core.sharedPoll.gathered(this.run.hasChannel, 3));
      case "say": return this.run.say(this, values[0]);
      case "tell": return values[0][values[1]](...values.slice(2));
    }
    throw new Error(`nobody knows how to ${what}`);
  }

  // The run knows when a session was heard of last.
  #heard(url, json) {
    const [, token] = /\/s\/([^/]*)\//.exec(url) || [];
    for (const each of [token, ...Object.keys(json.sessions || {})]) this.run.heardOf(each);
  }

  #detach(attachment) {
    this.connections.get(attachment)?.detach();
    this.connections.delete(attachment);
  }

  // One handshake at a time: those that were opened before have been answered once, or are over.
  #opens(url) {
    const name = new URL(url).pathname.split("/").at(-1);
    const page = this.pages.find(page => page.name === name);
    const under = this.pages.find(page => page.opening === "asked" && !page.ended);
    assert.ok(page.opening || !under, `${name} is opened while ${under?.name} is`);
    page.opening ??= "asked";
    return page;
  }

  // A request through the network: it or its answer may be lost, it may come twice, somebody else may answer.
  #request(id, url, body, patience) {
    const { chance, clock, run } = this;
    const { weather } = run;
    run.asks(url, body);
    const opening = body?.nonce && this.#opens(url);
    const begun = this.#now;
    const { href } = new URL(url);
    const latency = () => chance.between(...run.weather.latency);
    const answer = (status, json) => {
      if (!this.requests.delete(id)) return;
      this.polls.delete(id);
      if (opening) opening.opening = "answered";
      if (json) this.#heard(url, json);
      this.tell(() => this.core.answered(id, { status, body: json, took: this.#now - begun, url: href }));
    };
    this.requests.set(id, () => clock.after(0, () => answer(0, null)));
    clock.after(patience, () => answer(0, null));
    if (weather.offline) return void (chance.oneIn(2) && clock.after(latency(), () => answer(0, null)));
    if (strikes(chance, weather.replaced)) {
      run.cover("somebody else answered");
      return clock.after(latency(), () => answer(chance.pick([200, 403, 502, 511]), chance.pick([null, {}, { n: "x" }])));
    }
    const waits = /\/polls?\?/.test(url) && !/wait=0&/.test(url);
    if (waits && weather.poll === "short") clock.after(chance.between(1600, 3000), () => answer(504, null));
    if (waits && weather.pollLimit) clock.after(weather.pollLimit, () => answer(weather.pollStatus, null));
    if (waits) this.polls.set(id, () => answer(0, null));
    if (weather.refused?.test(url)) return clock.after(latency(), () => answer(403, null));
    if (body && JSON.stringify(body).length > weather.largest) return clock.after(latency(), () => answer(413, null));
    const { pathname } = new URL(url);
    const store = body === undefined ? weather.store : null;
    if (store?.has(pathname)) return clock.after(latency(), () => answer(200, store.get(pathname)));
    const said = body === undefined ? undefined : JSON.parse(JSON.stringify(body));
    const arrive = () => run.sidecar.handle(url, said, ({ status, body: json }) => {
      const copy = JSON.parse(JSON.stringify(json));
      if (run.weather.offline || strikes(chance, weather.lostAnswer)) return run.cover("answer lost");
      if (store && status === 200) store.set(pathname, copy);
      if (strikes(chance, weather.stale)) copy.n = "another's";
      if (waits && this.#now - begun > weather.silentAfter) return run.cover("dropped in silence");
      clock.after(latency(), () => run.weather.offline || answer(status, copy));
    });
    if (strikes(chance, weather.lostRequest)) return run.cover("request lost");
    const upload = weather.pace && body ? JSON.stringify(body).length / weather.pace : 0;
    clock.after(latency() + upload, () => this.requests.has(id) && arrive());
    if (strikes(chance, weather.twice)) clock.after(latency() + chance.pick([0, 50, 3000]), arrive);
  }
}
