// underpass: a WebSocket that also works where WebSockets do not. Put this script on a page before any other:
//   <script src="/_underpass/client.js" data-transports="ws,sse,stream,poll" data-debug></script>
// and `new WebSocket(…)` to this origin is carried by whatever the network lets through. As a module: client.mjs.
//
// A Session is a conversation of numbered messages with the sidecar (docs/PROTOCOL.md). Attachments carry what comes down,
// one at a time: Ws, Sse, Stream, Poll. What goes up is posted, or goes over the Ws. The hub shares connections between
// the sessions of all tabs. The class WebSocket, at the end, is what pages see.
var underpass = ((global, address, data) => {
  "use strict";
  const base = new URL(".", address).href;
  if (global.underpass?.options?.base === base) return global.underpass;
  const Native = global.WebSocket;
  const options = {
    base,
    transports: (data.transports || "ws,sse,stream,poll").split(/[\s,]+/),
    // Or "raw": a plain WebSocket to the backend first, which cannot be resumed.
    ws: data.ws || "session",
    credentials: data.credentials || "same-origin",
    debug: "debug" in data,
  };

  const now = () => performance.now();
  const backoff = tries => clamp(250, 250 * 2 ** tries, 5000);
  const clamp = (low, value, high) => Math.min(Math.max(value, low), high);
  const word = length => Array.from(crypto.getRandomValues(new Uint8Array(length)), byte => (byte % 36).toString(36)).join("");
  const encoder = new TextEncoder(), decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const fromBase64 = text => Uint8Array.from(atob(text), char => char.charCodeAt(0));
  const toBase64 = bytes => {
    let text = "";
    for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
    return btoa(text);
  };
  // One task for each, in order; timers would be throttled.
  const tasks = [], ticket = new MessageChannel();
  ticket.port1.onmessage = () => tasks.shift()();
  // Except for the first of an event that is a task by itself already.
  let alone = false;
  const task = work => {
    if (alone && !tasks.length) alone = false, work();
    else tasks.push(work), ticket.port2.postMessage(0);
  };

  // A filter dislikes JSON.
  let form;

  // A request that is answered soon: {status, body, took}; status 0 when there was no answer, body null when it is not JSON.
  async function ask(url, { body, patience = 10000, control = new AbortController() } = {}) {
    const timer = setTimeout(() => control.abort(), patience), begun = now();
    const init = { cache: "no-store", credentials: options.credentials, signal: control.signal };
    if (body !== undefined) {
      init.method = "POST";
      const json = body && JSON.stringify(body);
      if (form) init.body = json && new URLSearchParams({ json });
      else if (json) init.body = json, init.headers = { "Content-Type": "application/json" };
    }
    let status = 0, json = null;
    try {
      const response = await fetch(url, init);
      status = response.status;
      json = await response.json();
    // No answer, or nobody's that we know.
    } catch {}
    clearTimeout(timer);
    if (body && !json?.error && /40[036]|415|501/.test(status)) form = !!init.headers;
    return { status, body: json && typeof json === "object" ? json : null, took: now() - begun };
  }

  // ---- Verdicts: transports that do not work on this network, for ten minutes, for all tabs. ----

  const verdicts = {
    key: "underpass:" + base,
    all: {},
    load() {
      // Without storage they hold for this page only.
      try { this.all = JSON.parse(localStorage.getItem(this.key)) || {}; } catch {}
      return this.all;
    },
    save() { try { localStorage.setItem(this.key, JSON.stringify(this.all)); } catch {} },
    against(name) { return this.load()[name] > Date.now(); },
    draw(name) { this.load()[name] = Date.now() + 600000; this.save(); },
    lift(name) { if (this.load()[name]) { delete this.all[name]; this.save(); } },
    clear() { this.all = {}; this.save(); },
  };

  // ---- Sessions ----

  const sessions = new Set(), roles = ["current", "trying", "late"];

  class Session {
    // Up: not accepted yet; the number of the first.
    queue = []; base = 1;
    // Down: the last number received; bytes not acknowledged.
    cursor = 0; unacked = 0;
    // Round trip; when the sidecar was last heard.
    rtt = 300; alive = now();
    current = null; trying = null; late = null;
    strikes = {}; failures = 0; missed = 0; waited = 0; turn = 0; busy = now(); limit = Infinity; wakes = [];

    // `page` is told: opened, message, drained, changed, closed.
    constructor(page, target, protocols) {
      Object.assign(this, { page, target, protocols });
      sessions.add(this);
      this.open();
    }

    async open() {
      const asked = { nonce: word(24), protocols: this.protocols };
      for (let tries = 0; ; tries++) {
        const { status, body, took } = await ask(base + "open" + this.target, { body: asked, patience: 15000 });
        this.rtt = took;
        if (body?.session) {
          if (this.suspect) verdicts.draw(this.suspect);
          this.facts = body.session;
          this.url = new URL(this.facts.url, base).href;
          break;
        }
        if (this.over) return;
        // What the sidecar or the backend refuses is refused; what did not get through is tried again.
        if (tries === 3 || (body?.error && status !== 503)) return this.fail();
        await this.pause(backoff(tries));
      }
      if (this.over) return void this.post("close", {});
      this.alive = now();
      this.limit = this.facts.max_batch;
      this.patience = this.facts.heartbeat * 1000 + 4000;
      this.page.opened(this.facts.protocol);
      this.pump();
      this.next();
    }

    address(what, query = "") { return `${this.url}/${what}?after=${this.cursor}${query}&n=${word(12)}`; }

    // A short request on this session. Errors that end it are seen to here.
    async post(what, body, query, patience) {
      const answer = await ask(this.address(what, query), { body, patience });
      const { next, sent, error } = answer.body || {};
      if (error ? error.code : next >= 0) this.alive = now();
      if (error?.code === "unknown_session" || error?.code === "bad_cursor") this.fail();
      // How it ended comes down.
      if (error?.code === "session_closed") this.mute = true;
      if (next >= 0) this.accepted(next);
      if (sent >= 0) this.rtt += (answer.took - this.rtt) / 4, this.compare(sent);
      return answer;
    }

    // How long a proof may take.
    get deadline() { return clamp(1500, 3 * this.rtt, 3000); }

    wake() { for (const done of this.wakes.splice(0)) done(); }
    pause(time) {
      return new Promise(done => { this.wakes.push(done); setTimeout(done, time); });
    }

    // -- choosing --

    // The best transport that may be used now.
    choose() {
      const known = options.transports.filter(name => this.facts.transports.includes(name));
      const usable = known.filter(name => !verdicts.against(name));
      const streams = usable.some(name => name === "sse" || name === "stream");
      if (!usable.includes("ws")) hub.want(this, streams);
      const free = usable.find(name => name === "ws" || name === "poll" || hub.grants(this));
      return free || (streams ? "poll" : known.at(-1) || "poll");
    }

    // Lets go of all attachments but one.
    drop(kept) {
      for (const role of roles) {
        if (this[role] !== kept) this[role]?.stop();
        this[role] = null;
      }
    }

    // Nothing carries the session: see whether the sidecar is there, attach the best transport.
    async next(why = "opened", time = 0, suspect) {
      const turn = ++this.turn;
      if (time) await this.pause(time);
      if (why !== "opened" && why !== "recycled") {
        for (; turn === this.turn && !this.over && !(await this.reach()); suspect = null) {
          await this.pause(backoff(this.failures++) * (1 + Math.random() / 4));
        }
      }
      this.failures = 0;
      if (suspect) verdicts.draw(suspect);
      if (this.choose() !== "ws") await hub.ready();
      if (turn !== this.turn || this.over || this.asleep) return;
      this.attach(this.choose(), why);
    }

    attach(name, cause) {
      const attachment = this.trying = new carriers[name](this, name, cause);
      attachment.start();
      if (name !== "poll") attachment.expect(name === "ws" ? clamp(1000, 3 * this.rtt, 2500) : this.deadline);
    }

    // The round trip was made: this attachment carries the session now.
    proved(attachment) {
      if (!attachment || attachment.good || attachment.dead) return;
      attachment.good = true;
      clearTimeout(attachment.timer);
      const { name, cause } = attachment;
      this.drop(attachment);
      this.current = attachment;
      verdicts.lift(name);
      if (name === "ws") hub.want(this, false);
      if (this.shown !== name) this.page.changed({ transport: name, from: this.shown || null, cause });
      this.shown = name;
      this.pump();
      this.acknowledge();
    }

    // An attachment is over. A verdict is drawn when it was the network's fault, and the sidecar can be reached otherwise.
    ended(attachment, why, time) {
      if (attachment.dead) return;
      attachment.stop();
      const { name, good, born } = attachment, young = now() - born < 10000;
      if (why === "superseded" && this.late) [this.trying, this.late] = [this.late, null], this.trying.expect(this.deadline);
      if (!young) this.strikes[name] = 0;
      const struck = why === "cut" && young && (this.strikes[name] = -~this.strikes[name]) > 2;
      const guilty = name !== "poll" && (["silent", "held", "altered"].includes(why) || struck || (!good && ["cut", "refused"].includes(why)));
      for (const role of roles) if (this[role] === attachment) this[role] = null;
      if (guilty && this.current) verdicts.draw(name);
      if (!this.current && !this.trying) this.next(`${name} ${why}`, time || (why === "superseded" ? 200 : 0), guilty && name);
    }

    // Whether the sidecar answers. What was written and did not arrive is taken at once. A browser does not know that a
    // connection it kept is dead: the next one may be better.
    async reach() {
      const { body } = await this.post("ack", null, "", 2 * this.deadline);
      return body?.sent > this.cursor || body?.error?.code === "session_closed" ? this.mop() : this.over || body?.next > 0;
    }

    // A poll that does not wait.
    async mop(attachment) {
      const n = word(12), cause = encodeURIComponent(attachment?.cause || "mop");
      const { body, took } = await ask(`${this.url}/poll?after=${this.cursor}&wait=0&cause=${cause}&n=${n}`);
      if (this.over || body?.n !== n) return this.over;
      this.rtt += (took - this.rtt) / 4;
      this.told(body, attachment);
      return true;
    }

    // -- down --

    heard(attachment) {
      this.alive = now();
      if (attachment) attachment.heard = this.alive;
    }

    take(attachment, number, data, size) {
      if (this.over) return;
      this.heard(attachment);
      if (number > this.cursor + 1) return void (attachment && this.ended(attachment, "altered"));
      if (number === this.cursor + 1) {
        this.cursor = number;
        this.busy = now();
        // As the sidecar counts it.
        this.unacked += size + 64;
        this.page.message(data);
      }
      this.proved(attachment);
      if (this.unacked >= this.facts.ack_bytes) this.acknowledge(); else this.acknowledgeSoon(attachment);
    }

    // The answer of a poll.
    told(answer, attachment) {
      this.heard(attachment);
      const code = answer.error?.code;
      if (code === "session_closed") return this.finish(answer.close);
      if (code === "unknown_session" || code === "bad_cursor") return this.fail();
      if (code) return void (attachment && code !== "stale_cursor" && this.ended(attachment, "refused", 1000));
      if (answer.lost) return this.fail();
      this.accepted(answer.next);
      this.proved(attachment);
      let number = answer.from;
      for (const message of answer.messages) {
        const data = message.base64 === undefined ? message : fromBase64(message.base64);
        this.take(attachment, ++number, data, data.length);
      }
      if (answer.close) this.finish(answer.close, true);
      else if (attachment && answer.superseded) this.ended(attachment, "superseded");
      else if (attachment && answer.reconnect) this.ended(attachment, "recycled", answer.reconnect.after_ms);
    }

    acknowledge() {
      clearTimeout(this.timer);
      this.timer = 0;
      this.unacked = 0;
      const { current } = this;
      if (current?.acknowledge) return current.acknowledge();
      // The next poll presents the cursor.
      if (!current || current.name === "poll") return;
      if (this.acking) return void (this.again = true);
      this.acking = true;
      this.post("ack", null).then(() => {
        this.acking = false;
        if (this.again) this.again = false, this.acknowledge();
      });
    }

    // Soon at first, to learn early whether a box holds things back; then less often.
    acknowledgeSoon(attachment) {
      if (this.timer || !attachment) return;
      this.timer = setTimeout(() => this.acknowledge(), Math.min(400 * 2 ** attachment.acks++, this.facts.heartbeat * 333));
    }

    // The sidecar has written all up to `sent`: what does not arrive in time is held back on the way.
    compare(sent, attachment = this.current) {
      if (!attachment?.good || attachment.name === "poll" || sent <= this.cursor) return;
      const late = this.deadline;
      setTimeout(() => {
        if (attachment === this.current && sent > this.cursor && now() - attachment.heard >= late) this.ended(attachment, "held");
      }, late + 50);
    }

    // -- up --

    send(item) {
      this.queue.push(item);
      this.busy = now();
      if (item.later) item.later.then(buffer => { item.bytes = new Uint8Array(buffer); this.pump(); }, () => this.fail());
      if (!this.pumping) this.pumping = true, queueMicrotask(() => { this.pumping = false; this.pump(); });
    }

    accepted(next) {
      const count = Math.min(next - this.base, this.queue.length);
      if (count > 0) {
        this.base += count;
        for (const item of this.queue.splice(0, count)) this.page.drained(item.size);
      }
      if (this.closing && !this.queue.length) this.sendClose();
    }

    pump() {
      if (this.over || this.mute || !this.facts || this.asleep) return;
      if (this.current?.pump) this.current.pump(); else if (!this.posting && this.queue.length) this.postQueue();
    }

    // One request at a time; what cannot be delivered is sent again with the same number.
    async postQueue() {
      this.posting = true;
      let size = 0, count = 0;
      for (const { text, bytes } of this.queue) {
        if (text === undefined && !bytes) break;
        size += text === undefined ? bytes.length * 1.34 + 14 : text.length + 3;
        if (count && size > this.limit) break;
        count++;
      }
      let wait = 0;
      if (count) {
        const messages = this.queue.slice(0, count).map(({ text, bytes }) => text ?? { base64: toBase64(bytes) });
        const { status, body: answer } = await this.post("send", { messages }, `&seq=${this.base}`);
        const code = answer?.error?.code;
        if (status === 413 && count > 1) this.limit = Math.min(this.limit, size) / 2;
        else if (status === 413) this.fail(1009);
        if (!answer || (code && code !== "too_large")) wait = backoff(this.missed++);
        else this.missed = 0;
      }
      if (wait) await this.pause(wait);
      this.posting = false;
      if (count) this.pump();
    }

    // -- ending --

    close(code, reason) {
      this.closing = { code, reason };
      setTimeout(() => this.fail(), 30000);
      if (!this.facts) return this.fail();
      if (!this.queue.length || this.mute) this.sendClose();
    }

    async sendClose() {
      if (this.closeSent) return;
      this.closeSent = true;
      const { code = 1000, reason } = this.closing;
      for (let tries = 0; !this.over && tries < 5; tries++) {
        const { body } = await this.post("close", { code, reason });
        // The backend's answer comes down behind its last messages; not for ever.
        if (body?.close) return void setTimeout(() => this.finish(body.close), 7000);
        await this.pause(backoff(tries + 1));
      }
      this.fail();
    }

    fail(code = 1006) { this.finish({ code, reason: "", clean: false }, false, true); }

    // `came` when it came down in its turn, so that it can be acknowledged.
    finish({ code, reason, clean }, came, failed) {
      if (this.over) return;
      this.over = true;
      this.turn++;
      this.wake();
      sessions.delete(this);
      this.drop();
      hub.want(this, false);
      clearTimeout(this.timer);
      if (came) this.cursor++, ask(this.address("ack"), { body: null });
      else if (failed && this.facts) ask(this.address("close"), { body: {} });
      // Asked to close without a code, the page expects to be told that there was none.
      if (this.closing && this.closing.code === undefined && code === 1000 && !reason) code = 1005;
      this.page.closed({ code, reason, clean }, failed);
    }

    // The page goes away for good.
    leave() {
      if (!this.url || this.over) return;
      const ready = this.queue.filter(item => item.text !== undefined);
      if (ready.length && ready.length === this.queue.length && !this.current?.pump) {
        const messages = JSON.stringify({ messages: ready.map(item => item.text) });
        navigator.sendBeacon(this.address("send", `&seq=${this.base}&as=json`), messages);
      }
      navigator.sendBeacon(`${this.url}/close`, JSON.stringify(this.closing?.code ? this.closing : { code: 1000 }));
    }

    // -- time --

    // The page is set aside (back/forward cache, freezing): hold nothing open.
    sleep() {
      this.asleep = true;
      this.turn++;
      this.drop();
      hub.want(this, false);
    }

    // Something happened that makes it worth looking: the page is shown again, the network is back.
    rouse(cause, always) {
      this.alive = now();
      this.missed = this.failures = 0;
      if (this.asleep) {
        this.asleep = false;
        this.pump();
        if (this.facts) this.next(cause);
      } else if (this.current && (always || now() - this.current.heard > this.patience)) this.ended(this.current, cause);
      else this.wake();
    }

    tick(time, slept) {
      if (!this.facts || this.asleep || this.over) return;
      if (slept) this.alive = time;
      if (time - this.alive > this.facts.grace * 1000 + 5000) return this.fail();
      const { current } = this;
      if (!current) return;
      // Polls are the hub's to watch.
      const silent = current.name !== "poll" && time - current.heard > this.patience;
      const unanswered = current.asked && time - current.asked > 2 * this.deadline && !slept;
      if (silent || unanswered) return this.ended(current, slept ? "asleep" : "silent");
      if (this.trying || this.late) return;
      // Better transports are tried again in a quiet moment.
      const best = this.choose(), rank = name => options.transports.indexOf(name);
      if (current.name !== best && hub.streams(current.name) && !hub.grants(this)) this.ended(current, "shared");
      else if (rank(best) >= rank(current.name)) this.waited = 0;
      else if (time - this.busy > 1000 || ++this.waited > 30) this.attach(best, "better");
    }
  }

  // ---- Attachments ----

  class Attachment {
    good = false; dead = false; acks = 0;
    constructor(session, name, cause) {
      Object.assign(this, { session, name, cause, born: now(), heard: now() });
      this.number = session.cursor;
    }
    address(query = "") { return this.session.address(this.name, `${query}&cause=${encodeURIComponent(this.cause)}`); }
    end(why, time) { this.session.ended(this, why, time); }
    // The proof must come within `time`.
    expect(time) {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.missing ? this.missing() : this.end("silent"), time);
    }
    stop() {
      this.dead = true;
      clearTimeout(this.timer);
      this.cut?.();
    }
    // One frame: what the stream and the ws carry.
    frame(kind, payload) {
      const { session } = this;
      if (this.dead) return;
      session.heard(this);
      const view = typeof payload === "string" ? null : new DataView(payload.buffer, payload.byteOffset, payload.length);
      const big = at => Number(view.getBigUint64(at));
      if (kind === 1) session.take(this, ++this.number, view ? decoder.decode(payload) : payload, payload.length);
      else if (kind === 2) session.take(this, ++this.number, payload.slice(), payload.length);
      else if (kind === 8) this.closed(this.number + 1, { code: view.getUint16(0), clean: !!view.getUint8(2), reason: decoder.decode(payload.subarray(3)) });
      else if (kind === 9) this.beat(big(0));
      else if (kind === 10) this.accepted?.(big(0));
      else if (kind === 11) this.begun(JSON.parse(decoder.decode(payload)));
      else if (kind === 12) session.fail();
      else if (kind === 13) this.end("superseded");
      else if (kind === 14) this.end("recycled", view.getUint32(0));
    }
    begun(facts) {
      this.number = facts.from;
      this.session.accepted(facts.next);
    }
    beat(sent) {
      if (sent > this.session.cursor) return this.end("altered");
      this.session.proved(this);
      this.session.acknowledge();
    }
    closed(number, close) {
      if (number === this.session.cursor + 1) this.session.finish(close, true); else this.end("altered");
    }
  }

  class Sse extends Attachment {
    start() {
      const source = new EventSource(this.address(), { withCredentials: options.credentials === "include" });
      const { session } = this;
      const on = (name, act) => source.addEventListener(name, event => {
        if (this.dead) return;
        session.heard(this);
        try { act(event.data, +event.lastEventId); } catch { this.end("altered"); }
      });
      on("session", text => this.begun(JSON.parse(text)));
      // Without a number of its own an event has the one before: it was spoilt on the way, and may have been anything.
      const item = (name, decode) => on(name, (text, number) => {
        if (!(number > this.number)) return this.end("altered");
        session.take(this, this.number = number, decode(text), text.length);
      });
      item("message", text => text);
      item("json", JSON.parse);
      item("binary", fromBase64);
      on("heartbeat", text => this.beat(+text));
      on("close", (text, number) => this.closed(number, JSON.parse(text)));
      on("superseded", () => this.end("superseded"));
      on("reconnect", text => this.end("recycled", JSON.parse(text).after_ms));
      on("lost", () => session.fail());
      source.onerror = () => this.end("cut");
      this.cut = () => source.close();
    }
  }

  class Stream extends Attachment {
    async start() {
      const control = new AbortController();
      this.cut = () => control.abort();
      try {
        const response = await fetch(this.address(), { cache: "no-store", credentials: options.credentials, signal: control.signal });
        if (!/octet-stream/.test(response.headers.get("Content-Type"))) return this.end("refused");
        const reader = response.body.getReader();
        for (let rest = new Uint8Array(0); ;) {
          const { value, done } = await reader.read();
          if (done) return this.end("cut");
          this.session.heard(this);
          const bytes = new Uint8Array(rest.length + value.length);
          bytes.set(rest);
          bytes.set(value, rest.length);
          let at = 0;
          for (const view = new DataView(bytes.buffer); bytes.length - at >= 5;) {
            const end = at + 5 + view.getUint32(at + 1);
            if (end > bytes.length) break;
            this.frame(bytes[at], bytes.subarray(at + 5, end));
            at = end;
          }
          rest = bytes.subarray(at);
        }
      } catch { this.end("cut"); }
    }
  }

  class Ws extends Attachment {
    start() {
      const { session } = this;
      const url = this.address().replace(/^http/, "ws");
      const socket = this.socket = new Native(url, "underpass.v1");
      socket.binaryType = "arraybuffer";
      socket.onopen = () => { if (session.late === this) this.expect(session.deadline); };
      socket.onmessage = ({ data }) => {
        const text = typeof data === "string";
        try {
          const kind = text ? 1 : new Uint8Array(data, 0, 1)[0];
          alone = kind < 3;
          this.frame(kind, text ? data.slice(1) : new Uint8Array(data, 1));
        } catch { this.end("altered"); }
        alone = false;
      };
      socket.onclose = () => this.end(this.good ? "cut" : "refused");
      this.cut = () => { socket.onclose = socket.onmessage = null; socket.close(); };
    }
    // Not there yet. A handshake that was swallowed may still come back: go on with the others meanwhile.
    missing() {
      const { session, socket } = this;
      if (socket.readyState || session.late === this) return this.end("silent");
      verdicts.draw("ws");
      if (session.trying !== this) return;
      session.trying = null;
      session.late = this;
      this.expect(15000);
      if (!session.current) session.next("ws silent");
    }
    begun(facts) {
      super.begun(facts);
      // The number of the next message on this socket.
      this.next = facts.next;
      this.acknowledge();
    }
    // The proof is the answer to our acknowledgement: it made the round trip.
    beat() { this.acknowledge(); }
    acknowledge() {
      if (this.asked) return void (this.again = true);
      this.asked = now();
      const bytes = new Uint8Array(9);
      bytes[0] = 10;
      new DataView(bytes.buffer).setBigUint64(1, BigInt(this.session.cursor));
      this.socket.send(bytes);
    }
    accepted(next) {
      const { session } = this, again = this.again;
      if (this.asked) session.rtt += (now() - this.asked - session.rtt) / 4;
      this.asked = this.again = 0;
      session.accepted(next);
      session.proved(this);
      if (again || this.next > session.base) this.acknowledge();
    }
    pump() {
      const { session, socket } = this;
      const first = this.next;
      // What was posted while this socket was tried is known to the sidecar by its number alone.
      for (; this.next < session.base; this.next++) socket.send("1");
      for (let item; (item = session.queue[this.next - session.base]); this.next++) {
        if (item.text !== undefined) socket.send("1" + item.text);
        else if (!item.bytes) break;
        else {
          const bytes = new Uint8Array(item.bytes.length + 1);
          bytes[0] = 2;
          bytes.set(item.bytes, 1);
          socket.send(bytes);
        }
      }
      if (this.next > first) this.acknowledge();
    }
  }

  class Poll extends Attachment {
    async start() {
      this.cut = () => hub.leave(this);
      if (!(await this.session.mop(this))) return this.end("refused");
      if (!this.dead) hub.join(this);
    }
  }

  const carriers = { ws: Ws, sse: Sse, stream: Stream, poll: Poll };

  // ---- The hub. A browser opens six HTTP/1.1 connections to a host, for all tabs together. The three oldest sessions of
  // all tabs may have a stream; the others share one poll, which the oldest tab that needs it holds for all. ----

  const hub = {
    // Sorts by age.
    id: Date.now().toString(36) + word(8),
    places: 3,
    // The others: {wants, polls, fresh}.
    tabs: new Map(),
    // Our sessions that have or would like a stream, oldest first.
    wants: new Set(),
    // Our polls, by token.
    polls: new Map(),
    // Polls that we hold for others: tab → {token: cursor}.
    carried: new Map(),
    wait: 25, failures: 0, ticks: 0, turn: 0,

    ready() {
      return this.settled ??= new Promise(done => {
        const entry = performance.getEntriesByName(address)[0];
        if (/^h[23]/.test(entry?.nextHopProtocol)) this.places = 50;
        if (!global.BroadcastChannel) return done();
        this.channel = new BroadcastChannel("underpass " + base);
        this.channel.onmessage = ({ data }) => this.hear(data);
        this.say({ roll: true });
        setTimeout(done, 60);
      });
    },
    streams: name => name === "sse" || name === "stream",
    say(what) { this.channel?.postMessage({ id: this.id, ...what }); },
    here() { this.say({ wants: this.wants.size, polls: this.polls.size }); },
    want(session, wanted) {
      if (this.wants.has(session) === wanted) return;
      this.wants[wanted ? "add" : "delete"](session);
      this.ready();
      this.here();
    },
    grants(session) {
      let before = [...this.wants].indexOf(session);
      for (const [id, tab] of this.tabs) if (id < this.id) before += tab.wants;
      return this.wants.has(session) && before < this.places;
    },
    hear({ id, to, roll, bye, wants, polls, carry, told }) {
      if (roll) this.here();
      else if (bye) this.tabs.delete(id), this.carried.delete(id);
      else if (to && to !== this.id) return;
      else if (carry) this.carried.set(id, carry);
      else if (told) return this.deliver(told);
      else this.tabs.set(id, { wants, polls, fresh: true });
      if (!roll) this.arrange(10);
    },
    join(poll) {
      this.polls.set(poll.session.facts.token, poll);
      this.wait = Math.min(this.wait, poll.session.facts.wait);
      this.here();
      this.arrange(10);
    },
    leave(poll) {
      const { token } = poll.session.facts;
      if (this.polls.get(token) !== poll) return;
      this.polls.delete(token);
      this.here();
      this.arrange(10);
    },
    leader() {
      return [this.id, ...[...this.tabs].filter(([, tab]) => tab.polls).map(([id]) => id)].sort()[0];
    },
    ours() {
      return Object.fromEntries([...this.polls].map(([token, poll]) => [token, poll.session.cursor]));
    },
    arrange(time) {
      clearTimeout(this.timer);
      const act = () => {
        const leader = this.leader();
        if (leader === this.id) return this.hold();
        this.control?.abort();
        this.control = null;
        this.held = "";
        if (this.polls.size) this.say({ to: leader, carry: this.ours() });
      };
      // Hidden, a short wait is a second, and all tabs would wait.
      if (time > 15 || (time && !global.document?.hidden)) this.timer = setTimeout(act, time); else act();
    },
    // Holds the poll, unless it is held for just these already.
    async hold() {
      const cursors = Object.assign({}, ...(this.polls.size ? this.carried.values() : []), this.ours());
      // A balancer may have spread them over sidecars, by the beginning of the token: these in turn. One takes 256; those
      // that were answered go to the end.
      const node = token => token.split("-")[0], nodes = [...new Set(Object.keys(cursors).map(node))];
      const turn = nodes[this.turn++ % nodes.length];
      const tokens = Object.keys(cursors).filter(token => node(token) === turn).slice(0, 250), held = JSON.stringify(cursors);
      if (this.control && held === this.held) return;
      this.control?.abort();
      if (!tokens.length) return void (this.control = null);
      const control = this.control = new AbortController(), n = word(12), [first, second] = tokens;
      this.held = held;
      const { body, took } = await ask(`${base}s/${first}/poll${second ? "s" : ""}?after=${cursors[first]}&wait=${nodes[1] ? 1 : this.wait}&n=${n}`, {
        body: second && { sessions: Object.fromEntries(tokens.map(token => [token, cursors[token]])) }, control, patience: this.wait * 1000 + 10000,
      });
      if (this.control !== control) return;
      this.control = null;
      if (body?.n !== n || (body.error && second)) {
        // A box that does not wait so long answers with an error page: ask for less. Otherwise it is the network.
        if (took > 1500) this.wait = clamp(1, took / 2000, this.wait), this.failures = 0;
        return this.arrange(backoff(this.failures++));
      }
      this.failures = 0;
      const answers = body.sessions || { [first]: body };
      let others = false;
      for (const [id, theirs] of this.carried) {
        const told = {};
        for (const token in theirs) if (answers[token]) told[token] = answers[token], delete theirs[token], others = true;
        this.say({ to: id, told });
      }
      this.deliver(answers);
      // The others present their cursors meanwhile.
      this.arrange(others ? 15 : 0);
    },
    deliver(answers) {
      for (const token in answers) {
        const poll = this.polls.get(token);
        if (!poll || poll.dead) continue;
        this.polls.delete(token);
        this.polls.set(token, poll);
        poll.session.told(answers[token], poll);
      }
      if (this.leader() !== this.id) this.arrange(0);
    },
    // Tabs that do not answer the roll are gone.
    tick() {
      if (++this.ticks % 5 || !this.channel || !(this.wants.size || this.polls.size)) return;
      for (const [id, tab] of this.tabs) {
        if (!tab.fresh) this.tabs.delete(id), this.carried.delete(id), this.arrange(10);
        tab.fresh = false;
      }
      this.say({ roll: true });
    },
  };

  // ---- What happens to the page ----

  let last = now();
  setInterval(() => {
    const time = now(), slept = time - last > 5000;
    last = time;
    hub.tick();
    for (const session of sessions) session.tick(time, slept);
  }, 1000);
  const all = act => { for (const session of [...sessions]) act(session); };
  const rest = () => { all(session => session.sleep()); hub.say({ bye: true }); };
  const network = () => { verdicts.clear(); all(session => session.rouse("network", true)); };
  const on = (target, type, act) => target?.addEventListener?.(type, act);
  on(global, "pagehide", event => { if (event.persisted) rest(); else hub.say({ bye: true }), all(session => session.leave()); });
  on(global, "pageshow", event => { if (event.persisted) all(session => session.rouse("resumed")); });
  on(global, "online", network);
  on(navigator.connection, "change", network);
  on(global.document, "freeze", rest);
  on(global.document, "resume", () => all(session => session.rouse("resumed")));
  on(global.document, "visibilitychange", () => { if (!document.hidden) all(session => session.rouse("shown")); });

  // ---- The class that pages see ----

  const states = { CONNECTING: 0, OPEN: 1, CLOSING: 2, CLOSED: 3 };
  const refuse = (name, message) => { throw new DOMException(message, name); };
  const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

  // The target of a URL that is ours to carry; null for all others, and for what the native one will refuse.
  function targetOf(url, protocols) {
    let parsed;
    try { parsed = new URL(url, global.document ? document.baseURI : address); } catch { return null; }
    const http = parsed.href.replace(/^ws/, "http");
    const { origin, pathname, search } = new URL(http);
    if (!/^http/.test(http) || http.includes("#") || origin !== new URL(base).origin || http.startsWith(base)) return null;
    if (!protocols.every(name => token.test(name)) || new Set(protocols).size < protocols.length) return null;
    return { target: pathname + search, url: http.replace(/^http/, "ws") };
  }

  class WebSocket extends EventTarget {
    #url; #state = 0; #protocol = ""; #extensions = ""; #type = "blob"; #buffered = 0; #session; #on = {};

    constructor(url, protocols) {
      if (!arguments.length) return new Native();
      url = String(url);
      const listed = protocols === undefined ? [] : protocols?.[Symbol.iterator] && typeof protocols === "object" ? Array.from(protocols, String) : [String(protocols)];
      const ours = targetOf(url, listed);
      if (!ours) return new Native(url, listed);
      super();
      this.#url = ours.url;
      const page = {
        opened: (protocol, extensions = "") => task(() => {
          if (this.#state !== 0) return;
          this.#state = 1;
          this.#protocol = protocol;
          this.#extensions = extensions;
          this.dispatchEvent(new Event("open"));
        }),
        message: data => task(() => {
          if (this.#state !== 1) return;
          if (typeof data !== "string") data = this.#type === "blob" ? new Blob([data]) : data.buffer;
          this.dispatchEvent(new MessageEvent("message", { data, origin: new URL(this.#url).origin }));
        }),
        drained: size => { this.#buffered -= size; },
        changed: detail => {
          if (options.debug) console.info(`underpass: ${this.#url} by ${detail.transport}, before ${detail.from}: ${detail.cause}`);
          task(() => this.dispatchEvent(new CustomEvent("underpass", { detail })));
        },
        closed: ({ code, reason, clean }, failed) => task(() => {
          this.#state = 3;
          if (failed) this.dispatchEvent(new Event("error"));
          this.dispatchEvent(new CloseEvent("close", { code, reason, wasClean: clean }));
        }),
      };
      const session = () => new Session(page, ours.target, listed);
      if (options.ws !== "raw" || verdicts.against("ws")) this.#session = session();
      else this.#session = new Raw(page, ours.url, listed, () => (this.#session = session()));
    }

    get url() { return this.#url; }
    get readyState() { return this.#state; }
    get bufferedAmount() { return this.#buffered; }
    get extensions() { return this.#extensions; }
    get protocol() { return this.#protocol; }
    get binaryType() { return this.#type; }
    set binaryType(type) { if (type === "blob" || type === "arraybuffer") this.#type = type; }
    static #handlers = ["open", "message", "error", "close"].map(type => Object.defineProperty(this.prototype, "on" + type, {
      get() { return this.#on[type]?.act || null; },
      set(act) { this.#handle(type, act); },
      configurable: true,
    }));

    // A handler keeps its place among the listeners until it is taken away.
    #handle(type, act) {
      act = typeof act === "function" || typeof act === "object" ? act : null;
      const known = this.#on[type];
      if (known && act) known.act = act;
      else if (known) this.removeEventListener(type, known), delete this.#on[type];
      else if (act) {
        const listener = this.#on[type] = event => { if (typeof listener.act === "function") listener.act.call(this, event); };
        listener.act = act;
        this.addEventListener(type, listener);
      }
    }

    send(data) {
      if (!arguments.length) throw new TypeError("1 argument required");
      let item;
      if (data instanceof Blob) item = { blob: data, later: data.arrayBuffer(), size: data.size };
      else if (data instanceof ArrayBuffer) item = { bytes: new Uint8Array(data.slice(0)) };
      else if (ArrayBuffer.isView(data)) item = { bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice() };
      else {
        const bytes = encoder.encode(data = String(data));
        // Lone surrogates are replaced, as in every USVString.
        item = { text: /[\ud800-\udfff]/.test(data) ? decoder.decode(bytes) : data, size: bytes.length };
      }
      if (this.#state === 0) refuse("InvalidStateError", "Still in CONNECTING state");
      item.size ??= item.bytes.length;
      this.#buffered += item.size;
      if (this.#state === 1) this.#session.send(item);
    }

    close(code, reason) {
      if (code !== undefined) {
        code = clamp(0, Math.round(+code) || 0, 65535);
        if (code !== 1000 && (code < 3000 || code > 4999)) refuse("InvalidAccessError", `${code} is neither 1000 nor 3000 to 4999`);
      }
      reason = reason === undefined ? "" : decoder.decode(encoder.encode(String(reason)));
      if (encoder.encode(reason).length > 123) refuse("SyntaxError", "The reason is over 123 bytes");
      if (this.#state > 1) return;
      // A reason cannot stand without a code.
      if (reason && code === undefined) code = 1000;
      this.#state = 2;
      this.#session.close(code, reason);
    }

    // Those of other origins are native ones.
    static [Symbol.hasInstance](object) {
      return Native[Symbol.hasInstance](object) || Function.prototype[Symbol.hasInstance].call(this, object);
    }
  }
  for (const [name, value] of Object.entries(states)) {
    for (const place of [WebSocket, WebSocket.prototype]) Object.defineProperty(place, name, { value, enumerable: true });
  }
  for (const name of Object.getOwnPropertyNames(WebSocket.prototype)) {
    if (name !== "constructor" && !(name in states)) Object.defineProperty(WebSocket.prototype, name, { enumerable: true });
  }
  Object.defineProperty(WebSocket.prototype, Symbol.toStringTag, { value: "WebSocket", configurable: true });
  Object.defineProperty(WebSocket, "length", { value: 1 });

  // A plain WebSocket to the backend. Until something came back on it, what was sent is kept for a session.
  class Raw {
    constructor(page, url, protocols, session) {
      const socket = this.socket = new Native(url, protocols);
      socket.binaryType = "arraybuffer";
      this.kept = [];
      this.page = page;
      let open = false;
      const instead = () => {
        clearTimeout(timer);
        socket.onclose = socket.onmessage = socket.onopen = null;
        socket.close();
        const heir = session();
        heir.suspect = "ws";
        if (open) heir.page = { ...page, opened() {} };
        for (const item of this.kept) heir.send(item);
      };
      const timer = setTimeout(instead, 2500);
      socket.onopen = () => {
        open = true;
        clearTimeout(timer);
        page.opened(socket.protocol, socket.extensions);
        page.changed({ transport: "raw", from: null, cause: "opened" });
      };
      socket.onmessage = ({ data }) => {
        this.kept = null;
        page.message(typeof data === "string" ? data : new Uint8Array(data));
      };
      socket.onclose = ({ code, reason, wasClean }) => {
        if (this.kept && !wasClean && !this.closing) return instead();
        clearTimeout(timer);
        page.closed({ code, reason, clean: wasClean }, !wasClean);
      };
    }
    send(item) {
      this.kept?.push(item);
      if (this.kept?.length > 1000) this.kept = null;
      this.socket.send(item.text ?? item.bytes ?? item.blob);
      queueMicrotask(() => this.page.drained(item.size));
    }
    close(code, reason) {
      this.closing = true;
      if (code === undefined) this.socket.close(); else this.socket.close(code, reason);
    }
  }

  const install = () => { global.WebSocket = WebSocket; };
  if (typeof underpassAddress === "undefined") install();
  return { WebSocket, install, options };
})(
  globalThis,
  typeof underpassAddress === "undefined" ? document.currentScript.src : underpassAddress,
  typeof underpassAddress === "undefined" ? document.currentScript.dataset : {},
);
