// Scenes of the ladder: when a session falls, when it climbs, which verdicts are drawn, when it acknowledges.
//
// Enters: the class of scenes, settings. Leaves: scenes by name. Must not touch: the core's insides.
import assert from "node:assert/strict";

const ALL = ["ws", "sse", "stream", "poll"];

export const climbing = (Scene, usual) => {
  // A page that is carried by an event stream, since WebSockets were refused until now; the verdict has just expired.
  const below = seed => {
    const scene = new Scene(seed, ALL, { ws: "refuse" }, { ...usual, recycle: 1000 });
    const page = scene.open();
    scene.within(10000, "a stream", () => page.transport === "sse");
    scene.pass(2000);
    scene.weather.ws = "pass";
    return { scene, page };
  };
  const expire = scene => { scene.dateShift += 11 * 60000; };

  return {
    "in a quiet moment a better transport is taken at once"(seed) {
      const { scene, page } = below(seed);
      expire(scene);
      scene.within(5000, "the WebSocket", () => page.transport === "ws");
    },

    "while messages flow a better transport waits, but not for ever"(seed) {
      const { scene, page } = below(seed);
      const feed = scene.feed(page, 200, true);
      scene.pass(1000);
      expire(scene);
      scene.pass(20000);
      assert.equal(page.transport, "sse");
      scene.within(20000, "the WebSocket", () => page.transport === "ws");
      feed.over = true;
    },

    "a verdict is not forgotten before its time"(seed) {
      const { scene, page } = below(seed);
      scene.pass(9 * 60000);
      assert.equal(page.transport, "sse");
      scene.within(2 * 60000, "the WebSocket", () => page.transport === "ws" || !expire(scene));
    },

    "a stream that the settings name alone is climbed to"(seed) {
      const scene = new Scene(seed, ["sse"], {}, usual);
      scene.hasChannel = true;
      const pages = Array.from({ length: 5 }, () => scene.open());
      scene.within(10000, "three streams", () => pages.filter(page => page.transport === "sse").length === 3);
      scene.within(10000, "two polls", () => pages.filter(page => page.transport === "poll").length === 2);
      const others = pages.filter(({ transport }) => transport === "poll");
      for (const page of pages) if (!others.includes(page)) page.close();
      scene.within(40000, "two streams", () => others.every(({ transport }) => transport === "sse"));
    },

    "no verdict is drawn while the sidecar cannot be reached"(seed) {
      for (const weather of [{ ws: "swallow", lostRequest: 1 }, { ws: "refuse", lostRequest: 1 }, { offline: true }]) {
        const scene = new Scene(seed, ALL, {}, usual);
        const page = scene.open();
        Object.assign(scene.weather, weather);
        scene.pass(8000);
        Object.assign(scene.weather, { ws: "pass", lostRequest: 0, offline: false });
        scene.within(20000, "the WebSocket", () => page.transport === "ws");
        assert.deepEqual(scene.storage.verdicts, {});
      }
    },

    "nor when a better transport is tried then"(seed) {
      for (const weather of [{ ws: "swallow", lostRequest: 1 }, { ws: "refuse", lostRequest: 1 }]) {
        const { scene } = below(seed);
        const before = { ...scene.storage.verdicts };
        Object.assign(scene.weather, weather);
        expire(scene);
        const tried = scene.asked("/ack?");
        scene.pass(8000);
        assert.ok(scene.asked("/ack?") > tried, "nothing was tried");
        assert.deepEqual(scene.storage.verdicts, before);
      }
    },

    "connections that are cut young again and again are given up"(seed) {
      const scene = new Scene(seed, ALL, { ws: "young" }, usual);
      const page = scene.open();
      scene.within(30000, "a stream", () => page.transport === "sse");
      scene.pass(20000);
      assert.equal(page.transport, "sse");
    },

    "those that are cut young now and then are not"(seed) {
      const scene = new Scene(seed, ["sse", "poll"], {}, usual);
      const page = scene.open();
      for (const age of [1000, 1000, 15000, 1000, 1000, 15000, 1000, 1000]) {
        scene.within(10000, "the stream", () => page.transport === "sse" && scene.tab.connections.size === 1);
        scene.pass(age);
        for (const connection of scene.tab.connections.values()) connection.cut();
        scene.pass(500);
      }
      scene.pass(2000);
      assert.equal(page.transport, "sse");
    },

    "what works is no longer held against it"(seed) {
      const scene = new Scene(seed, ["ws"], { ws: "refuse" }, usual);
      const page = scene.open();
      scene.within(5000, "a verdict", () => scene.storage.verdicts.ws);
      scene.weather.ws = "pass";
      scene.within(20000, "the WebSocket", () => page.transport === "ws");
      assert.deepEqual(scene.storage.verdicts, {});
    },

    "a flood is acknowledged as it comes, a trickle now and then"(seed) {
      const scene = new Scene(seed, ["sse", "poll"], {}, usual);
      const page = scene.open();
      scene.within(5000, "the stream", () => page.transport === "sse");
      let feed = scene.feed(page, 5);
      scene.within(15000, "a thousand messages", () => page.got > 1000);
      feed.over = true;
      scene.pass(5000);
      feed = scene.feed(page, 1000, true);
      scene.pass(30000);
      const acks = scene.rate("/ack?", 2);
      assert.ok(acks > 4 && acks < 25, `${acks} acknowledgements a minute`);
      feed.over = true;
    },

    "a stream that went mute is found out by the answer of a send"(seed) {
      const scene = new Scene(seed, ["sse", "poll"], {}, usual);
      const page = scene.open();
      scene.within(5000, "the stream", () => page.transport === "sse");
      scene.pass(3000);
      scene.weather.sse = "mute";
      page.session.backend.talk(page.session);
      scene.pass(100);
      page.send(1);
      scene.within(6000, "what was said", () => page.isSettled);
    },
  };
};
