// Single things that must come about, each in a network made for it, under a few seeds.
//
// Enters: seeds. Leaves: the names of those scenes that go wrong, and how. Must not touch: the core's insides.
import assert from "node:assert/strict";
import { climbing } from "./climbing.mjs";
import { Run } from "./run.mjs";
import { LIMITS } from "./sidecar.mjs";
import { fair } from "./weather.mjs";

const SEEDS = [1, 2, 3, 4, 5];
const MINUTE = 60000;
const usual = { ...LIMITS };

// A tab with a page whose socket is open.
class Scene extends Run {
  constructor(seed, transports, weather = {}, limits = {}) {
    super(seed, true);
    Object.assign(LIMITS, limits);
    this.options.transports = transports;
    // Nobody refuses an opening.
    this.isOver = true;
    this.weather = { ...fair(), latency: [1, 5], ...weather };
    this.openTab();
    [this.tab] = this.tabs;
  }

  open() {
    const page = this.openPage();
    this.until("an opening", () => page.isOpen);
    return page;
  }

  // Lets so many milliseconds pass.
  pass(time) {
    this.clock.runUntil(this.clock.now + time);
  }

  within(time, what, done) {
    this.clock.runUntil(this.clock.now + time, done);
    assert.ok(done(), `${what} did not come about in ${time} ms`);
  }

  // How many requests that fit are made a minute.
  rate(part, minutes) {
    const before = this.asked(part);
    this.pass(minutes * MINUTE);
    return (this.asked(part) - before) / minutes;
  }

  // The backend talks on, every so many milliseconds, until it is over.
  feed(page, pause, isSmall = false) {
    const feed = { over: false };
    const talk = () => {
      if (feed.over) return;
      if (isSmall) page.session.backend.say(page.session, "x");
      else page.session.backend.talk(page.session);
      this.clock.after(pause, talk);
    };
    talk();
    return feed;
  }

  asked(part) {
    return this.urls.filter(url => url.includes(part)).length;
  }
}

const POLLS = { wait: 25, heartbeat: 15 };
const all = ["ws", "sse", "stream", "poll"];

const scenes = {
  ...climbing(Scene, POLLS),

  "a single cut leaves two polls a minute"(seed) {
    const scene = new Scene(seed, ["poll"], {}, POLLS);
    scene.open();
    // The same age again, after a poll that lasted longer, is chance; so is a laptop that slept twice.
    for (const age of [2000, 2000, 20000, 10 * MINUTE, 10 * MINUTE]) {
      scene.pass(MINUTE);
      const polls = scene.asked("/poll?");
      scene.within(MINUTE, "the next poll", () => scene.asked("/poll?") > polls);
      scene.tab.frozen = age > MINUTE;
      scene.pass(age < MINUTE ? age : 5000);
      for (const cut of scene.tab.polls.values()) cut();
      if (age > MINUTE) scene.pass(age);
      scene.tab.thaw();
      scene.pass(5000);
      const rate = scene.rate("/poll?", 10);
      assert.ok(rate < 2.8, `${rate} polls a minute`);
    }
  },

  "a box that cuts at 10 s is learnt, and forgotten when it is gone"(seed) {
    for (const pollStatus of [0, 502, 504]) {
      const scene = new Scene(seed, ["poll"], { pollLimit: 10000, pollStatus }, POLLS);
      scene.open();
      scene.pass(MINUTE);
      const rate = scene.rate("/poll?", 2);
      assert.ok(rate > 7 && rate < 8.5, `${rate} polls a minute behind the box`);
      const tried = scene.rate("wait=25&", 60) * 60;
      assert.ok(tried > 2 && tried < 9, `the whole wait is tried ${tried} times an hour`);
      scene.weather.pollLimit = 0;
      scene.pass(60 * MINUTE);
      const later = scene.rate("/poll?", 10);
      assert.ok(later < 2.8, `${later} polls a minute when the box is gone`);
    }
  },

  "a box that drops what is idle without a word is learnt, and does not end the session"(seed) {
    const scene = new Scene(seed, ["poll"], {}, POLLS);
    const page = scene.open();
    scene.weather.silentAfter = 10000;
    scene.pass(20 * MINUTE);
    assert.ok(page.isLive, "it ended");
    const rate = scene.rate("/poll?", 5);
    assert.ok(rate > 5 && rate < 12, `${rate} polls a minute`);
  },

  "a minute without a word teaches nothing"(seed) {
    const scene = new Scene(seed, ["poll"], {}, { ...POLLS, grace: 300 });
    const page = scene.open();
    scene.pass(MINUTE);
    scene.weather.silentAfter = 0;
    scene.pass(1.5 * MINUTE);
    scene.weather.silentAfter = Infinity;
    scene.pass(20000);
    const rate = scene.rate("/poll?", 2);
    assert.ok(page.isLive && rate < 2.8, `${rate} polls a minute`);
  },

  "another network is tried with the whole wait at once"(seed) {
    const scene = new Scene(seed, ["poll"], { pollLimit: 3000, pollStatus: 504 }, POLLS);
    scene.open();
    scene.pass(MINUTE);
    scene.weather.pollLimit = 0;
    scene.tab.tell(() => scene.tab.core.networkChanged());
    scene.pass(5000);
    const rate = scene.rate("/poll?", 2);
    assert.ok(rate < 2.8, `${rate} polls a minute`);
  },

  "nobody who keeps answers makes a socket mute"(seed) {
    for (const sse of ["refuse", "pass", "stale"]) {
      const scene = new Scene(seed, ["ws", "sse", "poll"], { ws: "refuse", sse, store: new Map() });
      const page = scene.open();
      for (let said = 0; said < 20; said++) {
        page.send(1);
        page.session.backend.talk(page.session);
        scene.pass(200);
        // What is cut is asked for by a poll first.
        if (said % 10 === 9) for (const connection of scene.tab.connections.values()) connection.cut();
      }
      scene.within(10000, "what was said", () => page.isSettled);
      if (sse === "pass") scene.within(10000, "the stream again", () => page.transport === "sse");
    }
  },

  "where POSTs are refused, polls are GETs again"(seed) {
    const scene = new Scene(seed, ["poll"], { store: new Map() });
    const page = scene.open();
    page.session.backend.talk(page.session);
    scene.within(20000, "a poll by POST", () => scene.asked("/polls?") > 0);
    scene.weather.store = null;
    scene.weather.refused = /\/polls\?/;
    for (let times = 0; times < 2; times++) {
      page.session.backend.talk(page.session);
      scene.within(20000, "what was said", () => page.got === page.session.down.length);
    }
  },

  "a stream that somebody has kept is no stream"(seed) {
    for (const before of [0, 3]) {
      const scene = new Scene(seed, all, { ws: "refuse", sse: before ? "pass" : "stale", stream: "stale" });
      const page = scene.open();
      for (let at = 0; at < before; at++) page.session.backend.talk(page.session);
      scene.within(10000, "what was said before", () => page.got === before);
      scene.weather.sse = "stale";
      for (const connection of scene.tab.connections.values()) connection.cut();
      const seen = [];
      const changed = page.changed.bind(page);
      page.changed = change => {
        seen.push(change.transport);
        changed(change);
      };
      scene.pass(1000);
      page.session.backend.talk(page.session);
      scene.within(10000, "what was said", () => page.got === before + 1);
      assert.deepEqual(seen, ["poll"]);
    }
  },

  "a message that is too large ends the socket with 1009, behind those before it"(seed) {
    for (const [transports, before] of [[["ws"], 3], [["ws"], 0], [["sse", "poll"], 3], [["poll"], 3], [["poll"], 0]]) {
      const scene = new Scene(seed, transports);
      const page = scene.open();
      scene.within(5000, "a transport", () => page.transport);
      page.send(before);
      const text = "y".repeat(LIMITS.max_message + 1);
      page.buffered += text.length;
      scene.tab.tell(() => page.core.up.push({ text, size: text.length }));
      page.send(1);
      scene.within(1000, "the end", () => page.ended);
      const { code, reason, clean, failed } = page.ended;
      assert.deepEqual({ code, reason, clean, failed }, { code: 1009, reason: "message too large", clean: true, failed: false });
      assert.equal(page.session.up.length, before, "what was sent before has not come");
      scene.within(1000, "the backend's end", () => page.session.backend.closes.length);
      assert.ok(scene.longest < LIMITS.max_message, "it was uploaded");
      quiet(scene);
    }
  },

  "behind a box with a bound smaller batches are sent, and what cannot pass ends the socket"(seed) {
    const scene = new Scene(seed, ["poll"], { largest: 200 });
    const page = scene.open();
    for (let at = 0; at < 40; at++) push(page, "x".repeat(50));
    page.send(0);
    scene.within(10000, "all of them", () => page.session.up.length === 40);
    // Halved from 500 to below the box's 200.
    assert.ok(scene.asked("/send?") <= 40 / 2 + 5, `${scene.asked("/send?")} requests`);
    push(page, "x".repeat(300));
    page.send(0);
    scene.within(1000, "the end", () => page.ended);
    assert.deepEqual([page.ended.code, page.ended.clean], [1009, true]);
    quiet(scene);
  },

  "what is refused again and again ends the socket"(seed) {
    const codes = [["bad_request", 400], ["origin_refused", 403], ["not_found", 404], ["method_not_allowed", 405]];
    for (const [code, status] of codes) {
      for (const verb of ["send", "poll", "ack"]) {
        const scene = new Scene(seed, verb === "ack" ? ["sse"] : ["poll"]);
        const page = scene.open();
        scene.within(5000, "a transport", () => page.transport);
        scene.weather.errors = { [verb]: { code, status } };
        page.mayBeRefused = true;
        page.send(1);
        const feed = scene.feed(page, 300);
        scene.within(20000, `an end by ${code} of ${verb}`, () => page.ended);
        feed.over = true;
        assert.deepEqual([page.ended.code, page.ended.failed], [1006, false]);
        quiet(scene);
      }
    }
  },

  "what is refused once or twice is tried again"(seed) {
    for (const verb of ["send", "poll"]) {
      const scene = new Scene(seed, ["poll"]);
      const page = scene.open();
      for (let times = 0; times < 8; times++) {
        scene.weather.errors = { [verb]: { code: "bad_request", status: 400 } };
        page.send(1);
        const refused = scene.asked(`/${verb}?`);
        scene.within(5000, "a refusal", () => scene.asked(`/${verb}?`) > refused);
        scene.weather.errors = {};
        scene.within(10000, "what was sent", () => page.isSettled);
        page.session.backend.talk(page.session);
        scene.within(10000, "what was said", () => page.isSettled);
      }
    }
  },

  "no subprotocol chosen fails the socket where browsers fail it"(seed) {
    for (const strict of [true, false]) {
      const scene = new Scene(seed, ["poll"]);
      scene.isStrict = strict;
      scene.tabs = [];
      scene.openTab();
      scene.protocol = "";
      scene.refused.add("p0");
      const page = scene.openPage();
      scene.within(5000, "an opening or an end", () => page.isOpen || page.ended);
      assert.equal(page.isOpen, !strict);
      if (!strict) continue;
      assert.deepEqual([page.ended.code, page.ended.failed], [1006, true]);
      scene.within(1000, "the backend's end", () => page.session.backend.closes.length);
    }
  },

  "a socket that waits for another one's handshake is opened when that is closed"(seed) {
    const scene = new Scene(seed, ["poll"], { latency: [3000, 3000] });
    const [first, second, third] = [scene.openPage(), scene.openPage(), scene.openPage()];
    scene.pass(100);
    second.close();
    first.close();
    scene.pass(100);
    assert.deepEqual([first.opening, second.opening, third.opening], ["asked", undefined, "asked"]);
    scene.within(10000, "an opening", () => third.isOpen);
    assert.ok(first.ended.failed && second.ended.failed);
  },

  "a large message has time to cross a slow network"(seed) {
    const scene = new Scene(seed, ["poll"], { pace: 64 }, { ...POLLS, max_message: 1 << 24, max_batch: 1 << 16 });
    const page = scene.open();
    push(page, "x".repeat(1 << 21));
    page.send(0);
    scene.within(2 * MINUTE, "the message", () => page.session.up.length === 1);
    assert.equal(scene.asked("/send?"), 1, "it was uploaded more than once");
  },
};

function push(page, text) {
  page.sent.push(text);
  page.buffered += text.length;
  page.tab.tell(() => page.core.up.push({ text, size: text.length }));
}

// Nothing is asked any more.
function quiet(scene) {
  scene.pass(30000);
  const before = scene.urls.length;
  scene.pass(5 * MINUTE);
  assert.equal(scene.urls.length, before, `still asked: ${scene.urls.at(-1)}`);
}

// Plays all scenes, or those whose names have this part. Gives what went wrong.
export function play(part = "") {
  const wrong = [];
  const chosen = Object.entries(scenes).filter(([name]) => name.includes(part));
  assert.ok(chosen.length > 0, "no scene has such a name");
  for (const [name, act] of chosen) {
    for (const seed of SEEDS) {
      try {
        act(seed);
      } catch (error) {
        wrong.push(`"${name}" goes wrong with seed ${seed}: ${error.stack}`);
        break;
      } finally {
        Object.assign(LIMITS, usual);
      }
    }
  }
  return wrong;
}
