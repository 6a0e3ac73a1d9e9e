// A box between browser and sidecar that does what networks do to HTTP, as it is told, and tells how often it did. It
// serves the test page itself, unharmed.
//
// `modes` says what is done to which kind of traffic: { sse: "hold", send: { lost: 0.3 }, any: { delay: 700 } }. Kinds:
// open, sse, stream, poll, send, ack, close, ws, other; `any` is all of them. A word stands for { word: true }. A value may
// be a function of the exchange. It may be changed at any time; what is under way follows. The switches:
//
//   kill: status   answers itself, 403 when not said       swallow       no answer, nothing passed on
//   portal         a page in place of every answer         methods: […]  405 for all but these
//   types: […]     403 for these content types, asked      answerTypes: […]  403 for these, answered
//   url: N, body: N   414, 413 beyond                      headers: {name: value, null: taken out}, only: […], rename: {}
//   twice          sent twice, the second answer given     lost: chance  answered, and the answer dropped
//   ghost          the sidecar's answer is read on when the client has left
//   coalesce       same GETs at a time have one answer     cache         answers are kept by URL, whatever they say
//   http10         HTTP/1.0 to the sidecar                 addresses: […]  from these in turn
//   alternate      sessions are opened at the sidecars in turn; where a token names its node, that one is taken always
//   timeout: ms    504 when no answer begins in time; the rest is in answer.mjs and upgrade.mjs
import http from "node:http";
import net from "node:net";
import { Answer } from "./answer.mjs";
import { inPage, page } from "./page.mjs";
import { refusal, sent } from "./request.mjs";
import { Tunnel } from "./upgrade.mjs";

export { inPage };

export class Box {
  #modes = {};
  sockets = new Set(); live = new Set(); stored = new Map();
  held = 0; most = 0; turns = 0; requests = []; struck = {};

  // Before these sidecars; all chances are drawn from the seed.
  static async start(sites, seed = 1) {
    const box = new Box();
    box.sites = [].concat(sites).map(site => ({ host: site.split(":")[0], port: +site.split(":")[1] }));
    box.random = chances(seed);
    box.server = http.createServer((request, response) => box.serve(request, response));
    box.server.keepAliveTimeout = 30000;
    box.server.on("upgrade", (request, socket, head) => box.upgrade(request, socket, head));
    box.server.on("connection", socket => {
      if (box.modes.offline) return socket.destroy();
      box.sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => box.sockets.delete(socket));
    });
    await new Promise(done => box.server.listen(0, "127.0.0.1", done));
    box.url = `http://127.0.0.1:${box.server.address().port}`;
    return box;
  }

  get modes() { return this.#modes; }
  set modes(modes) {
    this.#modes = modes;
    for (const one of this.live) one.changed();
  }

  // Cuts all connections now.
  cut() { for (const socket of this.sockets) socket.destroy(); }

  // All connections stay, and nothing passes on them any more.
  freeze() {
    for (const socket of this.sockets) socket.frozen = true;
    for (const one of this.live) one.freeze();
  }

  stop() {
    this.cut();
    this.server.close();
    for (const one of this.live) one.origin?.leave(one, true);
  }

  // What is done to an exchange of this kind now.
  switches(kind, exchange) {
    const all = {};
    for (const mode of [this.modes.any, this.modes[kind]]) {
      if (mode && mode !== "pass") Object.assign(all, typeof mode === "string" ? { [mode]: true } : mode);
    }
    for (const name in all) if (typeof all[name] === "function") all[name] = all[name](exchange);
    return all;
  }

  // A switch did something.
  strike(name) { this.struck[name] = (this.struck[name] || 0) + 1; }

  // Whether it strikes, of a chance.
  strikes(name, chance) {
    const does = chance === true || this.random() < chance;
    if (does) this.strike(name);
    return does;
  }

  site(path, { alternate }) {
    const [, node] = /\/s\/n(\d)-/.exec(path) || [];
    if (node && this.sites[node - 1]) return this.sites[node - 1];
    if (!alternate) return this.sites[0];
    this.strike("alternate");
    return this.sites[++this.turns % this.sites.length];
  }

  // Where a connection to the sidecar begins.
  from(path, switches) {
    const { addresses } = switches;
    if (addresses) this.strike("addresses");
    return { ...this.site(path, switches), ...(addresses && { localAddress: addresses[++this.turns % addresses.length] }) };
  }

  serve(request, response) {
    const path = request.url, kind = kindOf(path);
    if (request.socket.frozen) return;
    if (path.startsWith("/page")) return page(request, response, this.url);
    if (path === "/favicon.ico") return response.writeHead(204).end();
    this.requests.push(`${request.method} ${path}`);
    const bodies = [];
    request.on("data", chunk => bodies.push(chunk));
    request.on("end", () => this.pass({ box: this, request, response, kind, path, body: Buffer.concat(bodies) }));
    request.on("error", () => {});
    if (/^(sse|stream|poll)$/.test(kind)) {
      this.most = Math.max(this.most, ++this.held);
      response.on("close", () => this.held--);
    }
  }

  pass(exchange) {
    const { request, response, path, kind } = exchange, switches = this.switches(kind, exchange);
    if (switches.swallow) return this.strike("swallow");
    const refused = refusal(exchange, switches);
    if (refused) return response.writeHead(refused.status, { "Content-Type": "text/html", "Cache-Control": "no-store" }).end(refused.text);
    const answer = new Answer(exchange);
    const key = `${request.method} ${path}`, known = this.stored.get(key);
    const shared = switches.cache ? "cache" : switches.coalesce && !known?.ended && "coalesce";
    if (known && shared) return this.strike(shared), known.give(answer);
    const ask = () => {
      const origin = new Origin(exchange, switches);
      if (request.method === "GET" && (switches.cache || switches.coalesce)) this.stored.set(key, origin);
      return origin;
    };
    if (!switches.twice) return ask().give(answer);
    this.strike("twice");
    ask();
    setTimeout(() => ask().give(answer), 5);
  }

  upgrade(request, socket, head) {
    // The test's own look at the backend.
    const exchange = { box: this, request, socket, kind: /\/log/.test(request.url) ? "log" : "ws", path: request.url };
    this.requests.push(`UPGRADE ${request.url}`);
    if (!socket.frozen) new Tunnel(exchange, head);
  }
}

function kindOf(path) {
  const [, opened] = /[?&]underpass=(open|sse)\b/.exec(path) || [];
  return opened || /^\/_underpass\/(?:s\/[^/]*\/)?(sse|stream|poll|send|ack|close)s?\b/.exec(path)?.[1] || "other";
}

// Numbers from 0 to 1, the same for the same seed.
function chances(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let word = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    word = (word + Math.imul(word ^ (word >>> 7), 61 | word)) ^ word;
    return ((word ^ (word >>> 14)) >>> 0) / 4294967296;
  };
}

// One request to the sidecar, and those who get its answer.
class Origin {
  answers = new Set(); chunks = [];

  constructor(exchange, switches) {
    const { box, path } = exchange;
    this.box = box;
    this.exchange = exchange;
    const where = box.from(path, switches);
    const options = { ...where, ...sent(exchange, switches), agent: false };
    // Without an agent it makes the connection itself.
    if (switches.http10) Object.assign(options, { agent: undefined, createConnection: () => older(net.connect(where), box) });
    this.request = http.request(options, answer => this.begun(answer));
    this.request.on("error", () => this.lost());
    this.request.end(exchange.body);
    if (switches.timeout) this.timer = setTimeout(() => this.late(), switches.timeout);
  }

  give(answer) {
    answer.origin = this;
    this.answers.add(answer);
    if (this.head) answer.head(...this.head);
    for (const chunk of this.chunks) answer.data(chunk);
    if (this.ended) answer.end();
    if (this.broken) answer.broken();
  }

  begun(answer) {
    clearTimeout(this.timer);
    if (this.head) return answer.resume();
    const headers = { ...answer.headers };
    delete headers.connection;
    delete headers["keep-alive"];
    delete headers["transfer-encoding"];
    this.head = [answer.statusCode, headers];
    for (const one of this.answers) one.head(...this.head);
    answer.on("data", chunk => {
      if (this.box.stored.size) this.chunks.push(chunk);
      for (const one of this.answers) one.data(chunk);
    });
    answer.on("end", () => {
      this.ended = true;
      for (const one of this.answers) one.end();
    });
    answer.on("error", () => this.lost());
  }

  late() {
    this.box.strike("timeout");
    this.head = [504, { "content-type": "text/html" }];
    this.chunks = [Buffer.from("<p>Too slow.</p>")];
    this.ended = true;
    const answers = [...this.answers];
    this.answers.clear();
    for (const one of answers) this.give(one);
    this.request.destroy();
  }

  lost() {
    if (this.ended) return;
    this.broken = true;
    clearTimeout(this.timer);
    for (const one of this.answers) one.broken();
  }

  // Nobody is left to read it.
  leave(answer, always) {
    this.answers.delete(answer);
    const ghost = !always && this.box.switches(this.exchange.kind, this.exchange).ghost;
    if (ghost && !this.ended) this.box.strike("ghost");
    if (!this.answers.size && !ghost) this.request.destroy();
  }
}

// A connection whose requests say HTTP/1.0.
function older(socket, box) {
  const write = socket.write;
  socket.write = (chunk, ...more) => {
    const text = chunk.toString("latin1");
    socket.write = write;
    box.strike("http10");
    return write.call(socket, Buffer.from(text.replace(" HTTP/1.1\r\n", " HTTP/1.0\r\n"), "latin1"), ...more.filter(one => typeof one === "function"));
  };
  return socket;
}
