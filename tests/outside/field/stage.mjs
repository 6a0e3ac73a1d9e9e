// Where a case happens: a backend, sidecars, fronts and pages; all of them end with it. What a case wants of a page's
// WebSocket is in `talk`.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import http from "node:http";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { WebSocketServer } from "../real/node_modules/ws/wrapper.mjs";

export const PAGE = "<!doctype html><html><head><title>x</title></head><body><script>window.ran = 1</script></body></html>";
export const JS = { "Content-Type": "text/javascript" };
export const HTML = { "Content-Type": "text/html; charset=utf-8" };

const REFUSED = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

// In a page or a worker: opens a WebSocket, sends "hi", and tells what came of it.
export const talk = async (url, protocols, patience = 8000) => {
  const told = { by: [], events: [] };
  let socket;
  try {
    socket = protocols ? new WebSocket(url, protocols) : new WebSocket(url);
  } catch (error) {
    return { thrown: error.name };
  }
  return new Promise(done => {
    const end = () => done({ ...told, protocol: socket.protocol, state: socket.readyState, url: socket.url });
    setTimeout(end, patience);
    socket.addEventListener("underpass", event => told.by.push(event.detail.transport));
    for (const name of ["open", "error", "close"]) socket.addEventListener(name, () => told.events.push(name));
    socket.onopen = () => socket.send("hi");
    socket.onmessage = ({ data }) => { told.got = data; setTimeout(end, 200); };
    socket.onclose = ({ code }) => { told.code = code; setTimeout(end, 50); };
  });
};

export class Stage {
  pages = []; said = []; ends = [];
  constructor(program, which, context) { Object.assign(this, { program, which, context }); }

  // A backend: `pages` by path (a text of HTML, or a function of request and response), `ws` options of its WebSockets, `talk`
  // what they do (an echo), `answer` lines for their 101.
  async backend({ pages = {}, ws = {}, talk, answer } = {}) {
    const seen = [];
    const server = http.createServer((request, response) => {
      seen.push({ url: request.url, method: request.method, headers: request.headers });
      const page = pages[request.url.split("?")[0]];
      if (typeof page === "function") page(request, response);
      else if (page) response.writeHead(200, HTML).end(page);
      else response.writeHead(404).end();
    });
    const sockets = new WebSocketServer({ server, maxPayload: 1 << 28, perMessageDeflate: false, ...ws });
    if (answer) sockets.on("headers", lines => lines.push(...answer));
    sockets.on("connection", (socket, request) => {
      seen.push({ socket: request.url, headers: request.headers });
      socket.on("error", () => {});
      if (talk) talk(socket, request);
      else socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
    });
    return { seen, port: await this.listen(server) };
  }

  // A sidecar before it; `more` is TOML, tables last.
  async sidecar({ port }, more = "inject = true\n") {
    const folder = mkdtempSync(join(tmpdir(), "underpass-field-")), file = join(folder, "underpass.toml");
    const [top, ...tables] = more.split(/^(?=\[)/m);
    writeFileSync(file, `listen = "127.0.0.1:0"\nupstream = "ws://127.0.0.1:${port}"\n${top}\n${tables.join("")}\n[log]\nformat = "json"\n`);
    const child = spawn(this.program, ["run", file], { stdio: ["ignore", "ignore", "pipe"] });
    this.ends.push(() => { child.kill("SIGKILL"); rmSync(folder, { recursive: true, force: true }); });
    const lines = createInterface({ input: child.stderr });
    lines.on("line", line => this.said.push(line));
    const address = await new Promise((done, fail) => {
      lines.on("line", line => { const said = JSON.parse(line); if (said.message === "listening") done(said.address); });
      lines.once("close", () => fail(new Error("the sidecar ended: " + this.said.join("\n"))));
    });
    return { port: +address.split(":").at(-1) };
  }

  // A front that refuses Upgrades unless told. `strip` is taken from the start of paths, `add` put before them, `fields` are
  // said to what is behind; `meddle` may answer a request itself, and then returns true.
  async front({ port }, { strip = "", add = "", upgrades = false, fields = {}, meddle = () => false } = {}) {
    const inward = url => url.startsWith(strip) ? add + (url.slice(strip.length) || "/") : null;
    const agent = new http.Agent({ keepAlive: true });
    const server = http.createServer((request, response) => {
      const path = inward(request.url);
      if (path === null) return response.writeHead(404).end("the front knows no such path");
      if (meddle(request, response)) return;
      const headers = { ...request.headers, ...fields };
      const onward = http.request({ agent, host: "127.0.0.1", port, path, method: request.method, headers }, answer => {
        response.writeHead(answer.statusCode, answer.rawHeaders);
        response.flushHeaders();
        answer.pipe(response);
        answer.on("error", () => response.destroy());
      });
      onward.on("error", () => response.destroy());
      response.on("close", () => onward.destroy());
      request.pipe(onward);
    });
    server.on("upgrade", (request, socket, head) => {
      const path = inward(request.url);
      socket.on("error", () => {});
      if (!upgrades || path === null) return socket.end(REFUSED);
      const onward = net.connect(port, "127.0.0.1", () => {
        const lines = [`${request.method} ${path} HTTP/1.1`];
        for (let at = 0; at < request.rawHeaders.length; at += 2) lines.push(`${request.rawHeaders[at]}: ${request.rawHeaders[at + 1]}`);
        for (const [name, value] of Object.entries(fields)) lines.push(`${name}: ${value}`);
        onward.write(lines.join("\r\n") + "\r\n\r\n");
        onward.write(head);
        socket.pipe(onward).pipe(socket);
      });
      onward.on("error", () => socket.destroy());
      socket.on("close", () => onward.destroy());
    });
    this.ends.push(() => agent.destroy());
    return { port: await this.listen(server) };
  }

  // The same backend three ways: by itself, behind a sidecar, and behind one where Upgrades are refused on the way.
  async ways(backend, more) {
    const up = await this.sidecar(backend, more), blocked = await this.front(up);
    return { native: backend.port, passing: up.port, blocked: blocked.port };
  }

  async page(url) {
    const page = await this.context.page(url);
    this.pages.push(page);
    return page;
  }

  async listen(server) {
    await new Promise(done => server.listen(0, "127.0.0.1", done));
    this.ends.push(() => { server.close(); server.closeAllConnections(); });
    return server.address().port;
  }

  end() { for (const end of this.ends.reverse()) end(); }
}

// The last handshake that a backend has seen.
export const asked = backend => backend.seen.findLast(({ socket }) => socket);

// What a case expects, with what was seen when it is not so.
export function expect(holds, what, seen) {
  assert.ok(holds, `${what}: ${JSON.stringify(seen)}`);
}
