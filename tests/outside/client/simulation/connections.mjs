// Connections that stay: event streams, frame streams, WebSockets. The sidecar writes into one end; what the network makes of
// it comes out at the tab's.
//
// Enters: an attachment of the core, the weather. Leaves: the core's events, as src/client/script/carriers.js gives them.
// Must not touch: requests.
import assert from "node:assert/strict";
import { readFrames, receiveFrame } from "../../../../src/client/script/core/codec.js";
import { LIMITS } from "./sidecar.mjs";
import { plain } from "./backend.mjs";

const encoder = new TextEncoder();

function frame(kind, payload, withLength) {
  const head = withLength ? 5 : 1;
  const bytes = new Uint8Array(head + payload.length);
  bytes[0] = kind;
  if (withLength) new DataView(bytes.buffer).setUint32(1, payload.length);
  bytes.set(payload, head);
  return bytes;
}

function number(value) {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value));
  return bytes;
}

const json = value => encoder.encode(JSON.stringify(value));

export class Connection {
  read = 0;
  // The tab sees nothing more of it; the sidecar has ended it.
  closed = false;
  done = false;
  #flowed = false;
  #held = [];
  #late = null;
  #lastDown = 0;
  #lastUp = 0;
  #wrote;

  constructor(run, tab, attachment, url) {
    Object.assign(this, { run, tab, attachment, name: attachment.name, clock: run.clock, chance: run.chance });
    const { pathname, searchParams } = new URL(url);
    const [name] = run.front.named(pathname);
    // No secret stands in the address of a WebSocket.
    assert.equal(name.endsWith("-secret"), this.name !== "ws", url);
    this.token = attachment.session.facts.token;
    assert.ok(this.token.startsWith(name), url);
    this.after = Number(searchParams.get("after"));
    this.mode = run.weather[this.name];
    this.frames = readFrames((kind, payload) => {
      if (attachment.hear()) receiveFrame(attachment, kind, payload);
    });
    this.#reach();
  }

  get #latency() {
    return this.chance.between(...this.run.weather.latency);
  }

  #reach() {
    const { run } = this;
    if (run.weather.offline || this.mode === "refuse") return this.clock.after(this.#latency, () => this.#fail());
    if (this.mode === "swallow") return;
    if (this.mode === "young") this.clock.after(this.chance.between(50, 2000), () => this.cut());
    this.clock.after(this.#latency, () => this.#arrive());
  }

  // The request is with the sidecar.
  #arrive() {
    const session = this.run.sidecar.find(this.token);
    const kept = session && this.mode === "stale";
    const error = session ? (kept ? null : session.attach(this, this.after)) : { code: "unknown_session" };
    if (error) return this.clock.after(this.#latency, () => this.#fail());
    this.session = session;
    if (this.mode === "stale") return this.#repeat();
    this.run.cover(`${this.name} attached`);
    if (this.name === "ws") this.#down(() => this.attachment.connected(), true);
    this.upNext = session.next;
    this.#write("facts", { ...session.facts, from: this.after, next: session.next });
    this.wake();
    this.clock.after(LIMITS.probe, () => this.#flowed || this.#beat());
    this.#keepBeating();
    if (this.name !== "ws") this.clock.after(LIMITS.recycle * 1000, () => this.#end("reconnect", { after_ms: 0 }));
  }

  // Somebody has kept what came the last time, or what came for another session.
  #repeat() {
    const { after, session } = this;
    this.run.cover("a stream that was kept");
    this.#write("facts", { ...session.facts, ...(after ? { from: after - 1 } : { token: "another's", from: 0 }), next: 1 });
    this.#write("heartbeat", Math.max(0, after - 1));
  }

  #keepBeating() {
    this.clock.after(this.#wrote + LIMITS.heartbeat * 1000 - this.clock.now, () => {
      if (this.done) return;
      if (this.clock.now >= this.#wrote + LIMITS.heartbeat * 1000) this.#beat();
      this.#keepBeating();
    });
  }

  #beat() {
    this.#write("heartbeat", this.session.sent);
  }

  // === the sidecar's end ===

  wake() {
    if (this.done) return;
    const { items, close } = this.session.pull(this, Infinity);
    const first = this.read - items.length - (close ? 1 : 0);
    items.forEach((item, at) => {
      this.#flowed = true;
      this.#write("message", item.data, first + at + 1);
    });
    if (close) this.#end("close", close, this.read);
  }

  superseded() {
    this.#end("superseded", { superseded: true });
  }

  #end(what, value, number) {
    if (this.done) return;
    this.#write(what, value, number);
    this.#finish();
    this.#down(() => this.#fail(), true);
  }

  #finish() {
    this.done = true;
    this.session?.detach(this);
  }

  // What goes up on a WebSocket.
  transmit(data) {
    if (this.closed) return;
    this.#lastUp = Math.max(this.#lastUp, this.clock.now + this.#latency);
    this.clock.after(this.#lastUp - this.clock.now, () => {
      // What has swallowed something once swallows all that follows.
      this.mute ||= this.run.weather.offline;
      if (!this.done && !this.mute) this.#receive(data);
    });
  }

  #receive(data) {
    const { session } = this;
    if (typeof data !== "string" && data[0] === 10) {
      const cursor = Number(new DataView(data.buffer).getBigUint64(1));
      if (session.acknowledge(cursor)) throw new Error(`${this.token}: acknowledged ${cursor}, ${session.sent} were sent`);
      return this.#write("accepted", session.next);
    }
    const message = typeof data === "string" ? data.slice(1) : plain(data.slice(1));
    session.heard = this.clock.now;
    session.push(this.upNext++, [message]);
  }

  // === the network ===

  cut() {
    if (this.closed) return;
    this.run.cover("cut");
    this.closed = true;
    this.clock.after(this.#latency, () => this.#fail());
    // The sidecar may learn of it much later.
    this.clock.after(this.chance.pick([1, 100, 30000]), () => this.#finish());
  }

  #write(what, value, number) {
    this.#wrote = this.clock.now;
    const act = () => this.#tell(what, value, number);
    const mode = this.run.weather[this.name];
    if (this.run.weather.offline || mode === "mute") {
      this.run.cover("swallowed on the way");
      this.deaf = true;
    } else if (mode === "hold") {
      this.#held.push(act);
    } else if (mode === "late") {
      if (this.#late) this.#down(this.#late);
      this.#late = act;
    } else {
      for (const late of [...this.#held.splice(0), this.#late, act]) if (late) this.#down(late);
      this.#late = null;
    }
  }

  // In order, with what latency there is.
  #down(act, always = false) {
    if (this.deaf && !always) return;
    this.#lastDown = Math.max(this.#lastDown, this.clock.now + this.#latency);
    this.clock.after(this.#lastDown - this.clock.now, () => {
      if (this.closed) return;
      this.run.heardOf(this.token);
      this.tab.tell(act);
    });
  }

  // === the tab's end ===

  detach() {
    this.closed = true;
    // The sidecar sees it, or not before it writes the next time.
    this.clock.after(this.chance.pick([1, 50, 5000]), () => this.done || this.#finish());
  }

  #fail() {
    this.closed = true;
    const { attachment, name } = this;
    this.tab.tell(() => attachment.end(name === "sse" || attachment.good ? "cut" : "refused"));
  }

  #tell(what, value, number) {
    const { attachment } = this;
    if (this.name !== "sse") return this.#tellFrame(what, value);
    if (!attachment.hear()) return;
    switch (what) {
      case "facts": return attachment.begun(value);
      case "message": return attachment.numbered(this.#spoilt(number), value, typeof value === "string" ? value.length : Math.ceil(value.length / 3) * 4);
      case "heartbeat": return attachment.beat(value);
      case "close": return attachment.closed(number, value);
      case "superseded": return attachment.end("superseded");
      case "reconnect": return attachment.end("recycled", value.after_ms);
    }
  }

  // Some box writes into the stream: the first line of what follows is lost, and with it the number.
  #spoilt(number) {
    if (this.mode !== "alter" || !this.chance.oneIn(5)) return number;
    this.run.cover("spoilt");
    return number - 1;
  }

  #tellFrame(what, value) {
    const isSocket = this.name === "ws";
    const text = typeof value === "string";
    if (isSocket && text) {
      if (this.attachment.hear()) this.attachment.unnumbered(value, value.length);
      return;
    }
    const made = {
      facts: () => [11, json(value)],
      message: () => (text ? [1, encoder.encode(value)] : [2, value]),
      heartbeat: () => [9, number(value)],
      accepted: () => [10, number(value)],
      close: () => [8, new Uint8Array([value.code >> 8, value.code & 255, value.clean ? 1 : 0, ...encoder.encode(value.reason)])],
      superseded: () => [13, new Uint8Array(0)],
      reconnect: () => [14, new Uint8Array([0, 0, value.after_ms >> 8, value.after_ms & 255])],
    }[what]();
    const bytes = frame(...made, !isSocket);
    if (isSocket) {
      if (this.attachment.hear()) receiveFrame(this.attachment, bytes[0], bytes.subarray(1));
      return;
    }
    // Pieces end where they like.
    const at = this.chance.between(0, bytes.length);
    this.frames(bytes.subarray(0, at));
    this.frames(bytes.subarray(at));
  }
}
