// What the client must do, in a real browser. Functions given to `run` are executed in the page.
import assert from "node:assert/strict";
import { asked, conversed } from "./conformance.mjs";

// What a busy machine may take for what takes a second or two, in milliseconds.
const LATE = 20000;

export const cases = {
  async "the same as the native one: what is refused, and what it looks like"({ page }) {
    const tab = await page();
    for (const name of ["Native", "WebSocket"]) await tab.run(`async name => { window["table" + name] = await (${asked})(window[name], Native); }`, name);
    const [native, ours] = [await tab.run("() => tableNative"), await tab.run("() => tableWebSocket")];
    if (/SyntaxError/.test(native["url "])) {
      console.log("       (the empty address is left out: this browser refuses it, though it is a relative URL like any other)");
      delete native["url "], delete ours["url "];
    }
    assert.ok(Object.keys(native).length > 40);
    assert.deepEqual(ours, native);
  },

  async "the same as the native one: conversations"({ page }) {
    let native;
    for (const transports of ["ws", "sse", "stream", "poll"]) {
      const tab = await page({ "data-transports": transports });
      native ??= await tab.run(`() => (${conversed})(Native)`);
      const ours = await tab.run(`() => (${conversed})(WebSocket)`);
      assert.deepEqual(ours, native, transports);
      await tab.close();
    }
  },

  async "ws when everything passes"({ page }) {
    const tab = await page();
    await tab.run(async () => {
      const socket = open_("/echo/plain");
      await on(socket, "ws");
      socket.send("x");
      await until("echo", () => socket.got[0] === "x");
    });
    assert.match(tab.console.join("\n"), /underpass: ws:\/\/[^ ]*\/echo\/plain by ws, before null: opened/);
  },

  async "a page that nobody edited works where WebSockets are refused"({ legacy, box }) {
    box.modes = { ws: "kill" };
    const tab = await legacy();
    const seen = await tab.run(async () => {
      for (const end = Date.now() + 10000; Date.now() < end && !got.length;) await new Promise(done => setTimeout(done, 10));
      return { got, first: document.scripts[0].src.split("?")[0].replace(location.origin, "") };
    });
    assert.deepEqual(seen, { got: ["x"], first: "/_underpass/client.js" });
  },

  ...ends("sse when WebSockets are refused", { ws: "kill" }, "sse"),
  ...ends("sse when the handshake is swallowed", { ws: "swallow" }, "sse"),
  ...ends("sse when nothing comes down a WebSocket", { ws: "mute" }, "sse"),
  ...ends("stream when event streams are held", { ws: "kill", sse: "hold" }, "stream"),
  ...ends("stream when events come one late", { ws: "kill", sse: "late" }, "stream"),
  ...ends("poll when all streams are held", { ws: "kill", sse: "hold", stream: "hold" }, "poll"),

  async "a stream that goes mute is left, and what it swallowed comes another way"({ page, box }) {
    box.modes = { ws: "kill" };
    const tab = await page();
    await tab.run(async () => { window.socket = open_("/echo"); await on(socket, "sse"); });
    box.modes = { ws: "kill", sse: "mute" };
    const took = await tab.run(async () => {
      const begun = performance.now();
      socket.send("burst 50");
      await until("what was swallowed", () => socket.got.length === 50);
      const took = performance.now() - begun;
      await on(socket, "stream");
      return took;
    });
    assert.ok(took < LATE, `${took} ms`);
    box.modes = { ws: "kill", sse: "mute", stream: "mute" };
    // Nothing is said at all: the heartbeat is missed.
    await tab.run(() => on(socket, "poll"));
  },

  async "WebSockets that die young are given up"({ page, box }) {
    box.modes = { ws: "young" };
    const tab = await page();
    await tab.run(async () => {
      const socket = open_("/echo");
      await on(socket, "sse");
      socket.send("x");
      await until("echo", () => socket.got[0] === "x");
    });
  },

  async "3,000 numbered messages each way while the box changes"({ page, box }) {
    const tab = await page();
    await tab.run(async () => {
      window.socket = open_("/count?3000");
      await opened(socket);
    });
    const stages = [["ws", {}], ["sse", { ws: "kill" }], ["stream", { ws: "kill", sse: "hold", send: "twice" }],
      ["poll", { ws: "kill", sse: "hold", stream: "hold", send: "lost" }], ["sse", { ws: "mute" }], ["ws", {}]];
    for (const [stage, [transport, modes]] of stages.entries()) {
      box.modes = modes;
      if (stage) {
        box.cut();
        // As if another network were joined: verdicts are void.
        await tab.run(() => window.dispatchEvent(new Event("online")));
      }
      await tab.run(async (stage, transport) => {
        for (let sent = stage * 500 + 1; sent <= stage * 500 + 500; sent++) {
          socket.send(String(sent));
          if (sent % 5 === 0) await wait(10);
        }
        if (stage < 5) await on(socket, transport);
      }, stage, transport);
    }
    const { wrong, got, ended } = await tab.run(async () => {
      await until("the end", () => socket.ended);
      return { wrong: socket.got.findIndex((text, at) => text !== String(at + 1)), got: socket.got.length, ended: socket.ended };
    });
    assert.deepEqual({ wrong, got, ended }, { wrong: -1, got: 3000, ended: { code: 4200, reason: "all came", wasClean: true } });
  },

  async "binary and blobs keep their order and their bytes on every transport"({ page }) {
    for (const transports of ["ws", "sse", "stream", "poll"]) {
      const tab = await page({ "data-transports": transports });
      const got = await tab.run(async () => {
        const socket = open_("/echo");
        await opened(socket);
        const big = Uint8Array.from({ length: 200000 }, (_, at) => at % 251);
        socket.send("one");
        socket.send(new Blob(["two"]));
        socket.send("three\r\nfour\u2028");
        socket.send(big);
        socket.send(new Blob([big, "end"]));
        socket.send("");
        socket.send(new ArrayBuffer(0));
        socket.send("ä€😀\ud800");
        await until("8 echoes", () => socket.got.length === 8);
        await until("all accepted", () => socket.bufferedAmount === 0);
        const same = (a, b) => a.length === b.length && a.every((byte, at) => byte === b[at]);
        const { got } = socket, text = data => typeof data === "string" ? data : "bytes " + new TextDecoder().decode(data);
        return [text(got[0]), text(got[1]), text(got[2]), same(new Uint8Array(got[3]), big), same(new Uint8Array(got[4]).subarray(0, 200000), big), got[4].byteLength, text(got[5]), text(got[6]), text(got[7])];
      });
      assert.deepEqual(got, ["one", "bytes two", "three\r\nfour\u2028", true, true, 200003, "", "bytes ", "ä€😀\ufffd"], transports);
      await tab.close();
    }
  },

  async "a flood of small messages is not held up for want of acknowledgements"({ page }) {
    // Polls need no acknowledgement: their pauses are the machine's.
    let usual;
    for (const transports of ["poll", "ws", "sse", "stream"]) {
      const tab = await page({ "data-transports": transports });
      const pauses = await tab.run(async () => {
        const socket = open_("/echo");
        await opened(socket);
        let last = performance.now(), pauses = 0;
        socket.onmessage = () => {
          const time = performance.now();
          if (time - last > 400) pauses++;
          last = time;
        };
        socket.send("burst 40000");
        await until("the last", () => socket.got.length === 40000, 100000);
        return pauses;
      });
      // Ten times the sidecar's buffer: were each one emptied by a timer's acknowledgement, there would be ten pauses.
      usual ??= pauses;
      assert.ok(pauses < usual + 6, `${pauses} pauses by ${transports}, ${usual} by poll`);
      await tab.close();
    }
  },

  async "25 sockets in one page, with no more than four requests held"({ page, box }) {
    box.modes = { ws: "kill" };
    const tab = await page();
    await tab.run(async () => {
      window.sockets = Array.from({ length: 25 }, (_, at) => open_("/echo/" + at));
      await Promise.all(sockets.map(opened));
      for (const round of [1, 2, 3]) {
        sockets.forEach((socket, at) => socket.send(`${at}.${round}`));
        await until("25 echoes", () => sockets.every((socket, at) => socket.got.at(-1) === `${at}.${round}`));
      }
    });
    await tab.run(() => until("three streams and a poll", () => sockets.filter(socket => socket.moves.at(-1)?.transport === "sse").length === 3));
    box.most = 0;
    await tab.run(async () => {
      await wait(1500);
      sockets.forEach(socket => socket.send("burst 20"));
      await until("bursts", () => sockets.every(socket => socket.got.at(-1) === "b20" && socket.got.length === 23));
      sockets.forEach(socket => socket.close(1000));
      await until("closes", () => sockets.every(socket => socket.ended?.code === 1000));
    });
    assert.ok(box.most <= 5, `${box.most} held at once`);
  },

  async "a hidden tab that holds the poll for all is not slow"({ which, page }) {
    if (which === "firefox") return console.log("       (left out: every page has a window of its own here, and none is hidden)");
    const echo = (tab, count) => tab.run(async count => {
      window.socket ??= open_("/echo");
      await opened(socket);
      const begun = performance.now();
      for (let n = 1; n <= count; n++) {
        socket.send(String(n));
        await until("echo " + n, () => socket.got.at(-1) === String(n));
      }
      return performance.now() - begun;
    }, count);
    const hidden = await page({ "data-transports": "poll" });
    await echo(hidden, 1);
    const shown = await page({ "data-transports": "poll" });
    await shown.call("Page.bringToFront");
    await hidden.run(() => until("being hidden", () => document.hidden));
    await echo(shown, 2);
    // Each would wait for a timer of the hidden one, which come once a second.
    const took = await echo(shown, 12);
    assert(took < 8000, `${took} ms`);
  },

  async "seven tabs with a socket each, also when the first ones go"({ page, box }) {
    box.modes = { ws: "kill" };
    const tabs = [];
    for (let at = 0; at < 7; at++) tabs.push(await page());
    const talk = (tab, what) => tab.run(async what => {
      window.socket ??= open_("/echo");
      await opened(socket);
      socket.send(what);
      await until("echo of " + what, () => socket.got.at(-1) === what);
    }, what);
    await Promise.all(tabs.map(tab => talk(tab, "one")));
    await Promise.all(tabs.map(tab => talk(tab, "two")));
    // A tab that took a place before it knew of the older ones gives it back in its next second.
    let transports;
    for (const end = Date.now() + LATE; Date.now() < end; await new Promise(done => setTimeout(done, 100))) {
      transports = await Promise.all(tabs.map(tab => tab.run(() => socket.moves.at(-1).transport)));
      if (transports.filter(name => name === "sse").length === 3) break;
    }
    assert.equal(transports.filter(name => name === "sse").length, 3, transports.join());
    // The fourth tab holds the poll for those behind it.
    await Promise.all([tabs[0], tabs[3]].map(tab => tab.close()));
    const left = tabs.filter((_, at) => at !== 0 && at !== 3);
    await Promise.all(left.map(tab => talk(tab, "three")));
    await left.at(-1).run(async () => {
      await until("a place of its own or still the poll", () => socket.readyState === 1);
    });
  },

  async "offline for a while, then online: nothing is lost"({ page, box }) {
    box.modes = { ws: "kill" };
    const tab = await page();
    await tab.run(async () => {
      window.socket = open_("/echo");
      await on(socket, "sse");
      socket.send("one");
      await until("echo", () => socket.got.length === 1);
    });
    box.modes = { ws: "kill", offline: true };
    box.cut();
    await tab.offline(true);
    await tab.run(async () => { socket.send("two"); await wait(1500); if (socket.got.length !== 1) throw new Error("not offline"); });
    box.modes = { ws: "kill" };
    await tab.offline(false);
    const transport = await tab.run(async () => {
      await until("echo", () => socket.got[1] === "two", 20000);
      await wait(1000);
      return socket.moves.at(-1).transport;
    });
    assert.equal(transport, "sse", "no verdict is drawn while the sidecar cannot be reached");
  },

  async "a page that leaves closes its session"({ page, box }) {
    box.modes = { ws: "kill" };
    const [tab, witness] = [await page(), await page()];
    // A page with this listener is not kept for going back.
    await tab.run(async () => {
      addEventListener("unload", () => {});
      const lock = await new Promise(got => navigator.locks.request("stay", () => new Promise(() => got(true))));
      window.socket = open_("/echo/leaving");
      await on(socket, "sse");
      return lock;
    });
    // As by a link: one that is sent elsewhere from outside may have its running script stopped by Firefox.
    await tab.run(other => { setTimeout(() => { location.href = other; }); }, `${box.url}/page?other`);
    await witness.run(() => until("the close", async () => (await log("/echo/leaving")).some(line => line.startsWith("closed /echo/leaving 1000"))));
  },

  async "back from the back/forward cache a socket goes on"({ page, box }) {
    box.modes = { ws: "kill" };
    const tab = await page();
    await tab.run(async () => {
      addEventListener("pageshow", event => { window.shown = event.persisted; });
      window.socket = open_("/echo");
      await on(socket, "sse");
      socket.send("one");
      await until("echo", () => socket.got.length === 1);
    });
    await tab.go(`${box.url}/page?other`);
    await tab.back();
    const { kept, got } = await tab.run(async () => {
      await new Promise(done => setTimeout(done, 300));
      if (!window.socket) return { kept: false };
      socket.send("two");
      await until("echo", () => socket.got[1] === "two");
      return { kept: true, persisted: window.shown, got: socket.got };
    });
    if (kept) assert.deepEqual(got, ["one", "two"]);
    else console.log("       (this browser does not keep a page with an event stream: nothing was tested)");
  },

  async "a portal that answers in the sidecar's place is no verdict"({ page, box }) {
    box.modes = { ws: "kill" };
    const tab = await page({ "data-transports": "poll" });
    await tab.run(async () => { window.socket = open_("/echo"); await on(socket, "poll"); });
    box.modes = { ws: "kill", poll: "portal" };
    box.cut();
    await tab.run(async () => { socket.send("burst 3"); await wait(1200); });
    box.modes = { ws: "kill" };
    await tab.run(() => until("what waited", () => socket.got.join() === "b1,b2,b3"));
  },

  async "a better transport is taken when it works again, and the page is told"({ page, box }) {
    box.modes = { ws: "kill", sse: "hold", stream: "hold" };
    const tab = await page();
    await tab.run(async () => { window.socket = open_("/echo"); await on(socket, "poll"); });
    box.modes = {};
    const moves = await tab.run(async () => {
      localStorage.clear(); // as after ten minutes
      await on(socket, "ws");
      socket.send("x");
      await until("echo", () => socket.got[0] === "x");
      return socket.moves;
    });
    const last = moves.at(-1);
    assert.deepEqual([last.transport, last.cause], ["ws", "better"]);
  },

  async "a closed backend, a lost backend and a dead one end the socket as they should"({ page, box }) {
    for (const modes of [{}, { ws: "kill" }]) {
      box.modes = modes;
      const tab = await page();
      const ends = await tab.run(async () => {
        const dead = open_("/dead"), lost = open_("/echo"), closed = open_("/echo");
        dead.onerror = () => { dead.failed = true; };
        await Promise.all([lost, closed].map(opened));
        lost.send("drop");
        closed.send("close 4001 kicked");
        await until("three ends", () => dead.ended && lost.ended && closed.ended);
        return [dead.failed, dead.ended, lost.ended, closed.ended];
      });
      assert.deepEqual(ends, [true, { code: 1006, reason: "", wasClean: false }, { code: 1006, reason: "", wasClean: false }, { code: 4001, reason: "kicked", wasClean: true }]);
      await tab.close();
    }
  },

  async "raw: a plain WebSocket where it works, a session where not"({ page, box }) {
    let tab = await page({ "data-ws": "raw" });
    const talk = () => tab.run(async () => {
      const socket = open_("/echo/raw");
      await opened(socket);
      socket.send("a");
      socket.send(new Blob(["b"]));
      socket.send("c");
      await until("echoes", () => socket.got.length === 3);
      const { moves, got } = socket;
      socket.close(4002, "bye");
      await until("the end", () => socket.ended);
      return [moves[0].transport, got[0], got[2], socket.ended];
    });
    const end = { code: 4002, reason: "bye", wasClean: true };
    assert.deepEqual(await talk(), ["raw", "a", "c", end]);
    assert.ok(!box.requests.some(line => /open/.test(line)), "no session");
    box.modes = { ws: "kill" };
    tab = await page({ "data-ws": "raw" });
    assert.deepEqual(await talk(), ["sse", "a", "c", end]);
  },

  async "raw ones that are cut young again and again give way to sessions"({ page, box }) {
    const tab = await page({ "data-ws": "raw" });
    box.modes = { ws: { young: 700 } };
    const moves = await tab.run(async () => {
      const moves = [];
      for (let times = 0; times < 4; times++) {
        const socket = open_("/echo");
        await opened(socket);
        socket.send("x");
        await until("echo", () => socket.got[0] === "x");
        await until("a transport", () => socket.moves[0]);
        moves.push(socket.moves[0].transport);
        if (times < 3) await until("the cut", () => socket.ended);
        else socket.close();
      }
      return moves;
    });
    assert.deepEqual(moves.slice(0, 3), ["raw", "raw", "raw"]);
    assert.notEqual(moves[3], "raw");
    assert.ok(await tab.run(() => JSON.stringify({ ...localStorage }).includes("raw")), "it is remembered");
  },

  async "in workers of every kind"({ page, box }) {
    box.modes = { ws: "kill" };
    const tab = await page();
    const got = await tab.run(async () => {
      const address = location.origin + "/_underpass/client.js", text = await (await fetch(address)).text();
      const talk = `
        const say = data => (self.postMessage ? postMessage(data) : self.port.postMessage(data));
        const begin = () => {
          const socket = new WebSocket("${location.origin.replace("http", "ws")}/echo");
          socket.onopen = () => socket.send("hi");
          socket.onmessage = ({ data }) => (say([data, underpass.options.transports.join()]), socket.close());
          socket.onclose = ({ code }) => say(code);
        };
        if (self.postMessage) begin();
        else self.onconnect = ({ ports: [port] }) => { self.port = port; begin(); };`;
      const kinds = {
        "imports the script": [`importScripts("${address}");${talk}`],
        "imports it with settings": [`importScripts("${address}?transports=poll");${talk}`],
        "has it in front": [`self.underpassAddress = "${address}";${text};${talk}`],
        "has it in front, a module": [`self.underpassAddress = "${address}";${text};${talk}`, "module"],
        "imports it as a module": [`import "${address}";${talk}`, "module"],
        "is shared": [`importScripts("${address}");${talk}`, "classic", true],
      };
      const got = {};
      for (const [kind, [script, type = "classic", shared]] of Object.entries(kinds)) {
        const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
        got[kind] = await new Promise(done => {
          const worker = shared ? new SharedWorker(url) : new Worker(url, { type });
          worker.onerror = event => done("error " + event.message);
          (worker.port || worker).onmessage = ({ data }) => done(data);
          setTimeout(done, 10000, "nothing");
        });
      }
      return got;
    });
    const usual = ["hi", "ws,sse,stream,poll"];
    assert.deepEqual(got, {
      "imports the script": usual, "imports it with settings": ["hi", "poll"], "has it in front": usual,
      "has it in front, a module": usual, "imports it as a module": usual, "is shared": usual,
    });
  },

  async "a base element leads only the page's own addresses elsewhere"({ page, box }) {
    box.modes = { ws: "kill" };
    const tab = await page();
    const got = await tab.run(async () => {
      document.head.append(Object.assign(document.createElement("base"), { href: "http://127.0.0.1:1/assets/" }));
      const urls = [new WebSocket("x"), new Native("x")].map(socket => (socket.close(), socket.url));
      const socket = open_(location.origin.replace("http", "ws") + "/echo");
      await on(socket, "sse");
      socket.send("x");
      await until("echo", () => socket.got[0] === "x");
      return urls;
    });
    assert.equal(got[0], got[1]);
  },

  async "handshakes come one after the other, as the browser has them"({ page, box }) {
    const tab = await page();
    box.modes = { any: { delay: 400 } };
    const order = await tab.run(async () => {
      const table = {};
      for (const [name, Class] of Object.entries({ native: Native, ours: WebSocket })) {
        const begun = performance.now(), times = [];
        const sockets = [0, 1, 2].map(() => new Class("/echo"));
        sockets.forEach((socket, at) => { socket.onopen = () => { times[at] = performance.now() - begun; }; });
        await until("three openings", () => times.filter(Boolean).length === 3);
        table[name] = [times[1] - times[0] > 250, times[2] - times[1] > 250];
        for (const socket of sockets) socket.close();
        await wait(1000);
      }
      return table;
    });
    assert.deepEqual(order.ours, order.native);
    assert.deepEqual(order.native, [true, true]);
  },

  async "a message that is too large ends its socket with 1009, and nothing is uploaded"({ page, box }) {
    for (const transports of ["ws", "sse,poll"]) {
      const tab = await page({ "data-transports": transports });
      const ended = await tab.run(async () => {
        const socket = open_("/echo");
        await opened(socket);
        const { limits: { message } } = await (await fetch("/_underpass/info")).json();
        socket.send("before");
        socket.send(new Blob([new Uint8Array(message + 1)]));
        await until("the end", () => socket.ended);
        return [socket.ended, socket.got];
      });
      assert.deepEqual(ended[0], { code: 1009, reason: "message too large", wasClean: true }, transports);
      await tab.close();
    }
    assert.ok(!box.struck.body);
  },

  async "as a module it replaces nothing"({ page }) {
    const tab = await page();
    const [same, other, echo] = await tab.run(async () => {
      const frame = document.body.appendChild(document.createElement("iframe"));
      frame.srcdoc = `<script type="module">
        const native = WebSocket;
        const { WebSocket: Ours, options } = await import("${location.origin}/_underpass/client.mjs");
        const socket = new Ours("${location.origin.replace("http", "ws")}/echo");
        socket.onopen = () => socket.send("hello");
        socket.onmessage = ({ data }) => parent.postMessage([WebSocket === native, Ours !== native, data]);
      </script>`;
      return await new Promise(done => { window.onmessage = ({ data }) => done(data); });
    });
    assert.deepEqual([same, other, echo], [true, true, "hello"]);
  },
};

// A case: behind a box with these modes a new socket ends up on this transport, and its first message comes in time.
function ends(name, modes, transport) {
  return {
    async [name]({ page, box }) {
      box.modes = modes;
      const tab = await page();
      const took = await tab.run(async transport => {
        const begun = performance.now(), socket = open_("/echo");
        await opened(socket);
        socket.send("first");
        await until("the first message", () => socket.got[0] === "first");
        const took = performance.now() - begun;
        await on(socket, transport);
        for (let at = 0; at < 50; at++) socket.send("n" + at);
        await until("50 more", () => socket.got.length === 51);
        await wait(2500);
        if (socket.moves.at(-1).transport !== transport) throw new Error("it moved on: " + JSON.stringify(socket.moves));
        socket.close(4321, "enough");
        await until("the close", () => socket.ended);
        if (socket.ended.code !== 4321 || socket.ended.reason !== "enough") throw new Error(JSON.stringify(socket.ended));
        return took;
      }, transport);
      assert.ok(took < LATE, `the first message took ${took} ms`);
    },
  };
}
