// The box itself: each switch does what it says, before an origin that tells what it got. Node alone: no browser, no sidecar.
import assert from "node:assert/strict";
import http from "node:http";
import net from "node:net";
import { Box } from "./box.mjs";

const wait = ms => new Promise(done => setTimeout(done, ms));
const all = "one,two,three";

// What a box stands before: it answers in three parts, and knows what it was asked and how often it was left.
async function origin() {
  const site = http.createServer((request, response) => {
    note(request);
    request.resume();
    response.on("close", () => { if (!response.writableEnded) site.left++; });
    if (request.url.endsWith("/status")) return response.writeHead(410, { "Content-Type": "application/json" }).end("{}");
    if (request.url.endsWith("/silent")) return;
    response.writeHead(200, { "Content-Type": "text/event-stream", "X-Of-Origin": "1", "Cache-Control": "no-store" });
    response.flushHeaders();
    const parts = ["one,", "two,", "three"];
    const say = () => {
      response.write(parts.shift());
      if (parts.length) setTimeout(say, 100); else if (!request.url.endsWith("/stays")) response.end();
    };
    setTimeout(say, 100);
  });
  const note = request => site.asked.push({ headers: request.headers, version: request.httpVersion, from: request.socket.remoteAddress });
  Object.assign(site, { asked: [], left: 0 });
  site.on("upgrade", (request, socket) => {
    note(request);
    socket.on("error", () => {});
    socket.on("end", () => socket.end());
    socket.on("close", () => site.left++);
    socket.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Of-Origin: 1\r\n\r\n");
    socket.on("data", chunk => socket.write("echo " + chunk));
  });
  await new Promise(done => site.listen(0, "127.0.0.1", done));
  site.at = "127.0.0.1:" + site.address().port;
  return site;
}

// A request through a box. With `at` it is watched for a while more when this text has come, and then left.
async function ask(box, path, { method = "GET", body, headers, at } = {}) {
  const seen = { text: "", times: [] }, begun = Date.now();
  await new Promise(done => {
    const leave = () => setTimeout(() => { seen.open = !seen.ended; request.destroy(); done(); }, 300);
    const ended = how => { Object.assign(seen, how, { ended: true }); done(); };
    const request = http.request(box.url + path, { method, headers, agent: false }, response => {
      Object.assign(seen, { status: response.statusCode, headers: response.headers, head: Date.now() - begun });
      response.on("data", chunk => {
        seen.text += chunk;
        seen.times.push(Date.now() - begun);
        if (seen.text === at) leave();
      });
      response.on("end", () => ended({ whole: response.complete }));
      response.on("error", error => ended({ error: error.code }));
    });
    request.on("error", error => ended({ error: error.code }));
    request.end(body);
    if (at === "") leave();
  });
  return seen;
}

// A WebSocket of sorts through a box: says something behind the 101; watched like the above.
async function upgrade(box, at) {
  const socket = net.connect(new URL(box.url).port, "127.0.0.1"), seen = { text: "" };
  const head = ["GET /_underpass/s/n1-x/ws HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: k", "X-Old: 1", "", ""];
  socket.write(head.join("\r\n"));
  await new Promise(done => {
    const leave = () => setTimeout(() => { seen.open = !seen.ended; socket.destroy(); done(); }, 300);
    socket.on("data", chunk => {
      if (!seen.text) socket.write("hello");
      seen.text += chunk;
      if (at && seen.text.endsWith(at)) leave();
    });
    socket.on("error", error => { seen.error = error.code; });
    socket.on("end", () => socket.end());
    socket.on("close", () => { seen.ended = true; done(); });
    if (at === "") leave();
  });
  return seen;
}

async function soon(test) { for (const end = Date.now() + 20000; !test(); await wait(10)) assert.ok(Date.now() < end, "in vain: " + test); }

const S = "/_underpass/s/n1-x/sse", P = "/_underpass/s/n1-x/poll", UP = "/_underpass/s/n1-x/send";
const OPEN = "/x?underpass=open", STAYS = S + "/stays", END = "\r\n\r\n", ECHO = END + "echo hello";
const checks = {
  pass: [{}, async box => assert.equal((await ask(box, S)).text, all)],
  kill: [{ sse: { kill: 502 } }, async box => assert.deepEqual([(await ask(box, S)).status, (await ask(box, P)).status], [502, 200])],
  swallow: [{ sse: "swallow" }, async (box, site) => { assert.ok((await ask(box, S, { at: "" })).open); assert.equal(site.asked.length, 0); }],
  portal: [{ any: "portal" }, async box => assert.match((await ask(box, P)).text, /organisation/)],
  methods: [{ any: { methods: ["GET"] } }, async box => assert.equal((await ask(box, UP, { method: "POST" })).status, 405)],
  types: [{ any: { types: ["application/json"] } }, async box => {
    const as = async type => (await ask(box, UP, { method: "POST", body: "{}", headers: { "Content-Type": type } })).status;
    assert.deepEqual([await as("application/json; charset=utf-8"), await as("text/plain")], [403, 200]);
  }],
  answerTypes: [{ any: { answerTypes: ["text/event-stream"] } }, async box => assert.equal((await ask(box, S)).status, 403)],
  url: [{ any: { url: 40 } }, async box => assert.deepEqual([(await ask(box, S + "?" + "x".repeat(40))).status, (await ask(box, S)).status], [414, 200])],
  body: [{ any: { body: 3 } }, async box => assert.equal((await ask(box, UP, { method: "POST", body: "1234" })).status, 413)],
  "headers, rename": [{ any: { headers: { "x-a": null, "x-b": "new" }, rename: { "x-c": "x-d" } } }, async (box, site) => {
    await ask(box, S, { headers: { "x-a": "1", "x-b": "1", "x-c": "1" } });
    const { headers } = site.asked[0];
    assert.deepEqual([headers["x-a"], headers["x-b"], headers["x-c"], headers["x-d"]], [undefined, "new", undefined, "1"]);
  }],
  only: [{ any: { only: ["host"] } }, async (box, site) => { await ask(box, S, { headers: { "x-a": "1" } }); assert.equal(site.asked[0].headers["x-a"], undefined); }],
  answer: [{ any: { answer: { "x-of-origin": null } } }, async box => assert.equal((await ask(box, S)).headers["x-of-origin"], undefined)],
  twice: [{ any: "twice" }, async (box, site) => { assert.equal((await ask(box, S)).text, all); assert.equal(site.asked.length, 2); }],
  lost: [{ any: { lost: 1 } }, async (box, site) => { assert.ok((await ask(box, P)).error); assert.equal(site.asked.length, 1); }],
  ghost: [{ sse: "ghost" }, async (box, site) => { await ask(box, STAYS, { at: all }); await wait(300); assert.equal(site.left, 0); }],
  "ghost, not": [{}, async (box, site) => { await ask(box, STAYS, { at: all }); await soon(() => site.left === 1); }],
  coalesce: [{ any: "coalesce" }, async (box, site) => {
    const both = await Promise.all([ask(box, S), ask(box, S)]);
    assert.deepEqual([both[0].text, both[1].text, site.asked.length], [all, all, 1]);
  }],
  cache: [{ any: "cache" }, async (box, site) => {
    await ask(box, S);
    assert.equal((await ask(box, S)).text, all);
    await ask(box, S + "?other");
    assert.equal(site.asked.length, 2);
  }],
  http10: [{ any: "http10" }, async (box, site) => { assert.equal((await ask(box, S)).text, all); assert.equal(site.asked[0].version, "1.0"); }],
  addresses: [{ any: { addresses: ["127.0.0.3"] } }, async (box, site) => { await ask(box, S); assert.equal(site.asked[0].from, "127.0.0.3"); }],
  alternate: [{ any: "alternate" }, async (box, site) => {
    box.sites.push({ host: "127.0.0.1", port: 1 });
    for (let at = 0; at < 4; at++) await ask(box, OPEN);
    assert.equal(site.asked.length, 2);
    assert.ok((await ask(box, "/_underpass/s/n2-x/poll")).error);
  }],
  timeout: [{ any: { timeout: 100 } }, async box => assert.equal((await ask(box, S + "/silent")).status, 504)],
  hold: [{ sse: "hold" }, async box => { const { text, times, head } = await ask(box, S); assert.equal(text, all); assert.ok(times[0] > 250 && head > 250); }],
  until: [{ sse: { until: 8 } }, async box => { const { text, times } = await ask(box, S); assert.equal(text, all); assert.ok(times[0] > 180); }],
  block: [{ sse: { block: 6 } }, async box => assert.equal((await ask(box, STAYS, { at: "one,two,thre" })).text, "one,two,thre")],
  late: [{ sse: "late" }, async box => assert.equal((await ask(box, STAYS, { at: "one,two," })).text, "one,two,")],
  headless: [{ sse: "headless" }, async box => { assert.ok((await ask(box, S)).head > 90); assert.equal(box.struck.headless, 1); }],
  mute: [{ sse: { mute: 6 } }, async box => { const seen = await ask(box, S, { at: "one,tw" }); assert.equal(seen.text, "one,tw"); assert.ok(seen.open); }],
  delay: [{ sse: { delay: 200 } }, async box => { const { text, head } = await ask(box, S); assert.equal(text, all); assert.ok(head >= 199); }],
  rate: [{ sse: { rate: 40 } }, async box => { const { text, times } = await ask(box, S); assert.equal(text, all); assert.ok(times.at(-1) > 290); }],
  "cut, fin": [{ sse: { cut: { bytes: 6, how: "fin" } } }, async box => { const seen = await ask(box, STAYS); assert.equal(seen.text, "one,tw"); assert.ok(!seen.whole); }],
  "cut, rst": [{ sse: { cut: { after: 150, how: "rst" } } }, async box => assert.equal((await ask(box, STAYS)).error, "ECONNRESET")],
  "cut, silent": [{ sse: { cut: { bytes: 4, how: "silent" } } }, async box => { const seen = await ask(box, S, { at: "one," }); assert.equal(seen.text, "one,"); assert.ok(seen.open); }],
  "cut, clean": [{ sse: { cut: { bytes: 6, how: "clean" } } }, async box => { const seen = await ask(box, STAYS); assert.equal(seen.text, "one,tw"); assert.ok(seen.whole); }],
  idle: [{ sse: { idle: 150 } }, async box => assert.ok(!(await ask(box, STAYS)).whole)],
  errors: [{ any: "errors" }, async box => { const seen = await ask(box, S + "/status"); assert.equal(seen.status, 410); assert.match(seen.text, /wrong/); }],
  inject: [{ sse: { inject: "<b>" } }, async box => assert.equal((await ask(box, S)).text, "<b>" + all)],
  "inject, each": [{ sse: { inject: { each: "!" } } }, async box => assert.equal((await ask(box, S)).text, "!one,!two,!three")],
  "from hold to pass": [{ sse: "hold" }, async box => { setTimeout(() => { box.modes = {}; }, 150); assert.equal((await ask(box, STAYS, { at: all })).text, all); }],
  "from pass to mute": [{}, async box => {
    const asked = ask(box, STAYS, { at: "one," });
    await soon(() => [...box.live].some(({ given }) => given === 4));
    box.modes = { sse: "mute" };
    assert.equal((await asked).text, "one,");
  }],
  offline: [{ offline: true }, async box => assert.ok((await ask(box, S)).error)],
  freeze: [{}, async box => {
    const asked = ask(box, STAYS, { at: "one," });
    await soon(() => [...box.live].some(({ given }) => given === 4));
    box.freeze();
    const { text, open } = await asked;
    assert.deepEqual([text, open], ["one,", true]);
  }],
  "ws: pass": [{}, async box => assert.ok((await upgrade(box, ECHO)).open)],
  "ws: kill": [{ ws: "kill" }, async box => assert.match((await upgrade(box)).text, /^HTTP\/1.1 403/)],
  "ws: swallow": [{ ws: "swallow" }, async box => { const { text, open } = await upgrade(box, ""); assert.deepEqual([text, open], ["", true]); }],
  "ws: strip": [{ ws: "strip" }, async (box, site) => {
    await ask(box, S);
    upgrade(box, "three");
    await soon(() => site.asked.length === 2);
    const { headers } = site.asked[1];
    assert.deepEqual([headers.upgrade, headers["sec-websocket-key"]], [undefined, "k"]);
  }],
  "ws: connection": [{ ws: { connection: "keep-alive" } }, async (box, site) => {
    upgrade(box, "three");
    await soon(() => site.asked.length);
    const { headers } = site.asked[0];
    assert.deepEqual([headers.connection, headers.upgrade], ["keep-alive", "websocket"]);
  }],
  "ws: headers, answer": [{ ws: { headers: { "x-old": null }, answer: { "x-of-origin": null } } }, async (box, site) => {
    assert.doesNotMatch((await upgrade(box, ECHO)).text, /Origin/);
    assert.equal(site.asked[0].headers["x-old"], undefined);
  }],
  "ws: mute": [{ ws: "mute" }, async box => assert.ok((await upgrade(box, END)).text.endsWith(END))],
  "ws: drop": [{ ws: { drop: "up" } }, async box => assert.ok((await upgrade(box, END)).text.endsWith(END))],
  "ws: young": [{ ws: { young: 100 } }, async box => assert.ok((await upgrade(box)).ended)],
  "ws: cut": [{ ws: { cut: { after: 100, how: "rst" } } }, async box => assert.equal((await upgrade(box)).error, "ECONNRESET")],
  "ws: silent": [{ ws: { cut: { after: 0, how: "silent" } } }, async box => { const { text, open } = await upgrade(box, ""); assert.doesNotMatch(text, /echo/); assert.ok(open); }],
  "ws: idle": [{ ws: { idle: 100 } }, async box => assert.ok((await upgrade(box)).ended)],
  "ws: delay": [{ ws: { delay: 100 } }, async box => { const begun = Date.now(); await upgrade(box, ECHO); assert.ok(Date.now() - begun >= 299); }],
  "ws: ghost": [{ ws: "ghost" }, async (box, site) => { await upgrade(box, ECHO); await wait(300); assert.equal(site.left, 0); }],
  "ws: ghost, not": [{}, async (box, site) => { await upgrade(box, ECHO); await soon(() => site.left === 1); }],
};

// All at once: most of it is waiting.
const failures = [];
await Promise.all(Object.entries(checks).map(async ([name, [modes, check]]) => {
  const site = await origin(), box = await Box.start(site.at);
  box.modes = modes;
  const patience = new Promise((_, fail) => setTimeout(fail, 60000, new Error("took too long")).unref());
  await Promise.race([check(box, site), patience]).catch(error => failures.push(`${name}: ${error.stack}`));
}));
console.log(failures.join("\n") || `${Object.keys(checks).length} switches do as they say`);
process.exit(failures.length ? 1 : 0);
