// What is on the way answers, and what the class makes of it.
import http from "node:http";
import { PAGE, asked, expect, talk } from "./stage.mjs";

// In a page: sends twenty numbered messages, and tells which came back.
const twenty = (url, patience) => new Promise(done => {
  const got = [], by = [], socket = new WebSocket(url);
  let sent = 0;
  const end = () => done({ sent, got, by, state: socket.readyState });
  socket.addEventListener("underpass", event => by.push(event.detail.transport));
  socket.onmessage = ({ data }) => { got.push(data); if (got.length === 20) setTimeout(end, 300); };
  socket.onclose = ({ code }) => { by.push("closed " + code); end(); };
  socket.onopen = () => { const timer = setInterval(() => sent < 20 ? socket.send("m" + sent++) : clearInterval(timer), 100); };
  setTimeout(end, patience);
});
const inOrder = ({ got }) => got.length === 20 && got.every((text, at) => text === "m" + at);

export const answers = {
  // Services take credentials as a subprotocol: of 150 bytes to 10 KB.
  async "a token of some KiB goes as a subprotocol"(stage) {
    const backend = await stage.backend({ pages: { "/": PAGE } });
    const bearer = "bearer." + "x".repeat(8000);
    for (const [way, port] of Object.entries(await stage.ways(backend))) {
      const page = await stage.page(`http://localhost:${port}/`);
      const told = await page.run(talk, `ws://localhost:${port}/x`, ["chat", bearer]);
      expect(told.got === "hi" && told.protocol === "chat", way, told);
      expect(asked(backend).headers["sec-websocket-protocol"].replaceAll(" ", "") === `chat,${bearer}`, way, {});
    }
  },

  // WebSockets Standard, "establish a WebSocket connection": it has failed. Firefox does not keep to that; ours does what the
  // browser does.
  async "a server that chooses no subprotocol is what it is natively"(stage) {
    const backend = await stage.backend({ pages: { "/": PAGE }, ws: { handleProtocols: () => false } });
    for (const [way, port] of Object.entries(await stage.ways(backend))) {
      const page = await stage.page(`http://localhost:${port}/`);
      const told = await page.run(talk, `ws://localhost:${port}/x`, ["chat.v2", "chat.v1"]);
      const fails = told.code === 1006 && told.events.join() === "error,close";
      expect(stage.which === "firefox" ? told.got === "hi" && told.protocol === "" : fails, way, told);
    }
  },

  // The box resets what is too large for it, so that no answer tells.
  async "a message that can never be sent ends the conversation at once"(stage) {
    const backend = await stage.backend({ pages: { "/": PAGE } });
    const up = await stage.sidecar(backend, 'inject = true\n[session]\nmessage = "1MiB"\nbody = "2MiB"\n');
    let uploads = 0;
    const front = await stage.front(up, { meddle: request => {
      if (/\/send\?/.test(request.url)) uploads++;
      if (!(request.headers["content-length"] > 1 << 20)) return false;
      request.once("data", () => request.socket.resetAndDestroy());
      return true;
    } });
    const page = await stage.page(`http://localhost:${front.port}/`);
    const told = await page.run(url => new Promise(done => {
      const socket = new WebSocket(url);
      socket.onopen = () => { socket.send("a"); socket.send("y".repeat(1200000)); socket.send("b"); };
      socket.onclose = ({ code, reason }) => done({ code, reason, buffered: socket.bufferedAmount });
      setTimeout(() => done({ state: socket.readyState, buffered: socket.bufferedAmount }), 15000);
    }), `ws://localhost:${front.port}/x`);
    expect(told.code === 1009 && uploads <= 2, "1009, and no upload over and over", { told, uploads });
  },

  // Notebooks' outputs, the first state of a document, pictures.
  async "messages of some MB cross both ways"(stage) {
    const backend = await stage.backend({ pages: { "/": PAGE } });
    const up = await stage.sidecar(backend), blocked = await stage.front(up);
    const polling = await stage.front(up, { meddle: ({ url }, response) => /\/(sse|stream)\?/.test(url) && response.writeHead(403).end() });
    for (const { port } of [up, blocked, polling]) {
      const page = await stage.page(`http://localhost:${port}/`);
      const told = await page.run(url => new Promise(done => {
        const text = "ü".repeat(1000000), bytes = Uint8Array.from({ length: 3000000 }, (_, at) => at * 31), came = [], socket = new WebSocket(url);
        socket.binaryType = "arraybuffer";
        socket.onopen = () => { socket.send(text); socket.send(bytes); };
        socket.onmessage = ({ data }) => {
          const same = typeof data === "string" ? data === text : indexedDB.cmp(data, bytes) === 0;
          if (came.push(same) === 2) done({ came });
        };
        socket.onclose = ({ code }) => done({ code, came });
        setTimeout(() => done({ came, state: socket.readyState }), 40000);
      }), `ws://localhost:${port}/x`);
      expect(told.came.join() === "true,true", "both came as they were sent", told);
    }
  },

  // A CDN set to ignore query strings and `no-store`; streams are refused, so polls have to do.
  async "a store that ignores queries makes no socket mute"(stage) {
    const backend = await stage.backend({ pages: { "/": PAGE } });
    const up = await stage.sidecar(backend), kept = new Map();
    const front = await stage.front(up, { meddle: (request, response) => {
      const path = request.url.split("?")[0];
      if (/\/(sse|stream)$/.test(path)) return response.writeHead(403).end();
      if (request.method !== "GET" || !/\/poll$/.test(path)) return false;
      if (kept.has(path)) return response.writeHead(200, { "Content-Type": "application/json" }).end(kept.get(path));
      http.get({ host: "127.0.0.1", port: up.port, path: request.url, headers: request.headers }, answer => {
        const pieces = [];
        answer.on("data", piece => pieces.push(piece)).on("end", () => {
          if (answer.statusCode === 200) kept.set(path, Buffer.concat(pieces));
          response.writeHead(answer.statusCode, answer.headers).end(Buffer.concat(pieces));
        });
      });
      return true;
    } });
    const page = await stage.page(`http://localhost:${front.port}/`);
    const told = await page.run(twenty, `ws://localhost:${front.port}/x`, 30000);
    expect(inOrder(told), "all came back", told);
  },

  async "a service worker that ignores queries makes no socket mute"(stage) {
    const worker = `self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", event => event.waitUntil(clients.claim()));
self.addEventListener("fetch", event => { if (event.request.method === "GET") event.respondWith(answer(event.request)); });
async function answer(request) {
  const store = await caches.open("all"), known = await store.match(request, { ignoreSearch: true });
  if (known) return known;
  const response = await fetch(request);
  if (!/event-stream|octet-stream/.test(response.headers.get("Content-Type"))) await store.put(request, response.clone());
  return response;
}`;
    const html = PAGE.replace("window.ran = 1", 'window.ready = navigator.serviceWorker.register("/sw.js").then(() => new Promise(done => navigator.serviceWorker.controller ? done() : navigator.serviceWorker.addEventListener("controllerchange", done)))');
    const backend = await stage.backend({ pages: { "/": html, "/sw.js": (_, response) => response.writeHead(200, { "Content-Type": "text/javascript" }).end(worker) } });
    const up = await stage.sidecar(backend);
    for (const streams of [true, false]) {
      const front = await stage.front(up, { meddle: ({ url }, response) => !streams && /\/(sse|stream)\?/.test(url) && response.writeHead(403).end() });
      const page = await stage.page(`http://localhost:${front.port}/`);
      await page.run(() => ready);
      const told = await page.run(twenty, `ws://localhost:${front.port}/x`, 30000);
      expect(inOrder(told), `all came back, streams ${streams}`, told);
    }
  },

  // Users paste their console into tickets.
  async "a WebSocket that failed leaves no token in the console"(stage) {
    if (stage.which !== "chromium") return;
    const backend = await stage.backend({ pages: { "/": PAGE } });
    const { blocked } = await stage.ways(backend);
    const page = await stage.page(`http://localhost:${blocked}/`);
    const told = await page.run(talk, `ws://localhost:${blocked}/x`);
    const lines = page.complaints.filter(line => /WebSocket/.test(line) && /_underpass/.test(line));
    expect(told.got === "hi" && lines.length > 0, "the browser has written about it", { told, complaints: page.complaints });
    expect(!lines.some(line => /n1-[\w-]{20}/.test(line)), "without the token", lines);
  },
};
