// How the script comes to pages and workers.
import { HTML, JS, PAGE, expect, talk } from "./stage.mjs";

const answering = `onmessage = async event => postMessage(await (${talk})(event.data));`;
const js = body => (_, response) => response.writeHead(200, JS).end(body);
const register = `window.ready = navigator.serviceWorker.register("/sw.js").then(() => new Promise(done => navigator.serviceWorker.controller ? done() : navigator.serviceWorker.addEventListener("controllerchange", done)))`;
const claiming = `self.addEventListener("install", event => { self.skipWaiting(); event.waitUntil(keep()); });
self.addEventListener("activate", event => event.waitUntil(clients.claim()));\n`;

// In a page: what a worker tells of a WebSocket. `made` makes the worker, as text; a shared one has a port.
const ask = (made, url) => new Promise(done => {
  const worker = new Function("return " + made)(), port = worker.port ?? worker;
  worker.onerror = event => done({ failed: event.message });
  port.onmessage = ({ data }) => data === "ready" ? port.postMessage(url) : done(data);
  port.start?.();
  setTimeout(() => done({ failed: "silence" }), 15000);
});

export const scripts = {
  async "a page that a service worker passes on has the script"(stage) {
    const html = PAGE.replace("window.ran = 1", register);
    const worker = `const keep = async () => {};${claiming}self.addEventListener("fetch", event => event.respondWith(fetch(event.request)));`;
    const backend = await stage.backend({ pages: { "/": html, "/sw.js": js(worker) } });
    const { blocked } = await stage.ways(backend);
    const page = await stage.page(`http://localhost:${blocked}/`);
    await page.run(() => ready);
    await page.go(`http://localhost:${blocked}/`);
    expect(await page.run(() => !!navigator.serviceWorker.controller && typeof underpass === "object"), "on the second visit", {});
    const told = await page.run(talk, `ws://localhost:${blocked}/x`);
    expect(told.got === "hi", "it talks", told);
  },

  // An application's shell: put by at installation, shown at every address.
  async "a page that a service worker keeps has the script, wherever it is shown"(stage) {
    const html = PAGE.replace("window.ran = 1", register);
    const worker = `const keep = async () => (await caches.open("shell")).addAll(["/"]);${claiming}
self.addEventListener("fetch", event => { if (event.request.mode === "navigate") event.respondWith(caches.match("/")); });`;
    const backend = await stage.backend({ pages: { "/": html, "/sw.js": js(worker) } });
    const { blocked } = await stage.ways(backend);
    const page = await stage.page(`http://localhost:${blocked}/`);
    await page.run(() => ready);
    for (const path of ["/", "/some/where/else"]) {
      await page.go(`http://localhost:${blocked}${path}`);
      expect(await page.run(() => typeof underpass === "object"), path, {});
      const told = await page.run(talk, `ws://localhost:${blocked}/x`);
      expect(told.got === "hi", `it talks at ${path}`, told);
    }
  },

  async "a base elsewhere does not lead the script astray"(stage) {
    const based = base => PAGE.replace("<title>", `<meta charset=utf-8><base href="${base}"><title>`);
    const backend = await stage.backend({ pages: { "/own": based("/deep/er/"), "/other": based("http://cdn.invalid/assets/") } });
    const { blocked } = await stage.ways(backend);
    for (const path of ["/own", "/other"]) {
      const page = await stage.page(`http://localhost:${blocked}${path}`);
      expect(await page.run(() => typeof underpass === "object"), path, {});
      const told = await page.run(talk, `ws://localhost:${blocked}/x`);
      expect(told.got === "hi", `it talks at ${path}`, told);
    }
  },

  async "a page whose policy wants digests runs the script"(stage) {
    const backend = await stage.backend({ pages: { "/": (_, response) => response.writeHead(200, { ...HTML, "Integrity-Policy": "blocked-destinations=(script)" }).end(PAGE) } });
    const { blocked } = await stage.ways(backend);
    const page = await stage.page(`http://localhost:${blocked}/`);
    expect(await page.run(() => typeof underpass === "object"), "the script ran", {});
  },

  // Terminals, editors, one connection for all tabs.
  async "workers have a WebSocket that works, by a line of their own"(stage) {
    const shared = `onconnect = ({ ports: [port] }) => { port.onmessage = async event => port.postMessage(await (${talk})(event.data)); port.postMessage("ready"); };`;
    const backend = await stage.backend({ pages: {
      "/": PAGE,
      "/classic.js": js(`importScripts("/_underpass/client.js"); ${answering} postMessage("ready");`),
      "/module.js": js(`import { WebSocket } from "/_underpass/client.mjs"; self.WebSocket = WebSocket; ${answering} postMessage("ready");`),
      "/shared.js": js(`importScripts("/_underpass/client.js"); ${shared}`),
    } });
    const { blocked } = await stage.ways(backend);
    const page = await stage.page(`http://localhost:${blocked}/`);
    const blob = `importScripts("http://localhost:${blocked}/_underpass/client.js"); ${answering} postMessage("ready");`;
    for (const made of ['new Worker("/classic.js")', 'new Worker("/module.js", { type: "module" })', 'new SharedWorker("/shared.js")', `new Worker(URL.createObjectURL(new Blob([${JSON.stringify(blob)}])))`]) {
      const told = await page.run(ask, made, `ws://localhost:${blocked}/x`);
      expect(told.got === "hi" && told.by?.length, made, told);
    }
  },

  async "workers have a WebSocket that works, where the operator has it written before them"(stage) {
    const backend = await stage.backend({ pages: {
      "/": PAGE,
      "/deep/classic.js": js(`"use strict"; ${answering} postMessage("ready");`),
      "/module.js": js(`import "/empty.js"; ${answering} postMessage("ready");`),
      "/empty.js": js(""),
    } });
    const { blocked } = await stage.ways(backend, "inject = true\ninject_workers = true\n");
    const page = await stage.page(`http://localhost:${blocked}/`);
    for (const made of ['new Worker("/deep/classic.js")', 'new Worker("/module.js", { type: "module" })']) {
      const told = await page.run(ask, made, `ws://localhost:${blocked}/x`);
      expect(told.got === "hi" && told.by?.length, made, told);
    }
  },

  async "a frame without an address of its own has the script by a tag in its text"(stage) {
    const backend = await stage.backend({ pages: { "/": PAGE } });
    const { blocked } = await stage.ways(backend);
    const page = await stage.page(`http://localhost:${blocked}/`);
    const told = await page.run((talk, url) => new Promise(done => {
      const frame = document.createElement("iframe");
      addEventListener("message", ({ data }) => done(data));
      frame.srcdoc = `<!doctype html><script src="/_underpass/client.js"></` + `script><script>(${talk})("${url}").then(told => parent.postMessage(told))</` + `script>`;
      document.body.append(frame);
      setTimeout(() => done({ failed: "silence" }), 15000);
    }), String(talk), `ws://localhost:${blocked}/x`);
    expect(told.got === "hi" && told.by?.length, "it talks", told);
  },
};
