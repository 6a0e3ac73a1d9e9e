"use strict";
// The conversation: five messages with the server's own clock, one a second, then only responses (see talk.rs).
const base = location.pathname.replace(/\/selftest$/, "");
const parameters = new URLSearchParams(location.search);
const TICKS = 5, ECHOES = 5, BURST = 8;
const TIMEOUT = 4000;          // without a response for longer than this, the page says so
const PROMPT = 750;            // a message that took no longer was not delayed
const now = () => performance.now();
const sleep = ms => new Promise(done => setTimeout(done, ms));
const element = id => document.getElementById(id);
const unique = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), byte => (byte % 36).toString(36)).join("");
const median = list => [...list].sort((a, b) => a - b)[list.length >> 1];
const span = ms => ms < 1 ? "< 1 ms" : ms < 950 ? `${Math.round(ms)} ms` : ms < 9950 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`;

let run = null;                // the current run, or the last one

// ---- What was measured of one transport, and how it is shown. ----

class Row {
  constructor(kind, name) {
    Object.assign(this, { kind, name, begun: null, asked: now(), openedIn: null, why: null, delays: [], rtts: [], burst: null });
    Object.assign(this, { heardAt: null, attachedAt: null, cuts: [], mute: null, bursts: 0, echoes: new Map(), done: false });
  }
  get streams() { return this.kind !== "post"; }
  opened() { this.openedIn ??= now() - this.asked; this.attachedAt = this.heardAt = now(); }
  heard() { this.heardAt = now(); }
  refused(why) { if (this.openedIn === null) this.why ??= why; else this.cut(why); }
  cut(why = "") { this.cuts.push({ age: now() - this.attachedAt, silence: now() - this.heardAt, why }); }
  deliver(text) {
    this.heard();
    if (text.startsWith('{"tick"')) this.delays.push(Math.max(0, now() - this.begun - JSON.parse(text).at));
    else if (text.startsWith("burst")) this.bursts++;
    else this.echoes.get(text)?.();
  }
  // The time until the text came back; null when it did not come back in time.
  async echo(send, limit) {
    const [text, begun] = [`echo-${unique()}`, now()];
    const back = new Promise(done => this.echoes.set(text, () => done(now() - begun)));
    const took = await Promise.race([Promise.resolve(send(text)).then(() => back), sleep(limit).then(() => null)]);
    this.echoes.delete(text);
    return took;
  }

  // [mood, text] for each column.
  opens() {
    if (this.openedIn !== null) return ["good", `yes, ${span(this.openedIn)}`];
    if (this.why) return ["bad", `no: ${this.why}`];
    const waited = now() - this.asked;
    return this.done ? ["bad", `no answer in ${span(run.lasted())}`] : waited > TIMEOUT ? ["warn", `no answer for ${span(waited)}`] : ["", "…"];
  }
  flows() {
    if (!this.streams || this.why) return ["", "–"];
    if (this.delays.length >= 3) {
      const usual = median(this.delays);
      return usual < PROMPT ? ["good", "yes, at once"] : ["bad", `held for ${span(usual)}`];
    }
    const waited = this.begun === null ? 0 : now() - this.begun;
    return this.begun !== null && (this.done || waited > TIMEOUT) ? ["bad", `held, nothing for ${span(Math.min(waited, run.lasted()))}`] : ["", "…"];
  }
  breaks() {
    if (!this.streams || this.openedIn === null) return ["", "–"];
    const [first] = this.cuts;
    if (first) {
      const silence = first.silence > 2000 ? `, the last ${span(first.silence)} silent` : "";
      return ["bad", `after ${span(first.age)}${silence}${first.why ? ` (${first.why})` : ""}${this.cuts.length > 1 ? `; ${this.cuts.length} times` : ""}`];
    }
    if (this.mute !== null) return ["bad", `went dead without a word within ${span(this.mute)}`];
    return [this.done ? "good" : "", `${this.done ? "no" : "not yet"}, in ${span(run.lasted())}`];
  }
  trips() { return this.rtts.length ? ["", `${span(median(this.rtts))}, at most ${span(Math.max(...this.rtts))}`] : ["", "–"]; }
  bulk() { return ["", this.burst === null ? "–" : span(this.burst)]; }
  cells() { return [this.opens(), this.flows(), this.breaks(), this.trips(), this.bulk()]; }
  get works() { return this.openedIn !== null && (!this.streams || (this.delays.length >= 3 && median(this.delays) < PROMPT)); }
}

// ---- Requests, and what the network changed in them. ----

async function request(path, init = {}) {
  const begun = now();
  const response = await fetch(`${base}/${path}`, { cache: "no-store", signal: run.stop.signal, ...init });
  run.look(response);
  let body = null;
  try { body = response.status === 204 ? {} : await response.json(); } catch { /* not ours */ }
  return { status: response.status, ours: body !== null, body, took: now() - begun };
}

// Why a response is not the expected one.
const blame = ({ status, ours, body }) => ours && body.error ? `${status} ${body.error?.code ?? ""}`.trim() : `${status}, not this server's answer`;
const failure = error => error.name === "AbortError" ? "stopped" : error.name === "TypeError" ? "the connection failed" : String(error.message || error);

class Session {
  constructor(facts) { Object.assign(this, facts, { cursor: 0, seq: 1 }); }
  address(what, query = "", name = this.token) { return `s/${name}/${what}?after=${this.cursor}${query}&n=${unique()}`; }
  // Repeated with the same number until there is a response, so the server takes it once only.
  async send(text) {
    const seq = this.seq++;
    for (let tries = 0; tries < 3 && run.lives; tries++) {
      try {
        const response = await post(this.address("send", `&seq=${seq}`), JSON.stringify({ messages: [text] }));
        if (response.status === 200) return;
      } catch { /* again */ }
      await sleep(300);
    }
  }
}

// Firewalls that refuse JSON often let forms pass.
async function post(path, json) {
  const row = run.row("post");
  const [form, sends] = ["application/x-www-form-urlencoded", path.includes("/send")];
  const bodies = [...(run.form && sends ? [] : [["application/json", json]]), ...(sends ? [[form, `messages=${encodeURIComponent(json)}`]] : [])];
  let response, last;
  for (const [type, body] of bodies) {
    try { response = await request(path, { method: "POST", headers: { "Content-Type": type }, body }); } catch (error) { last = error; }
    if (!run.lives) throw last ?? new Error("stopped");
    if (!response?.ours) continue;
    if (type === form && !run.form) { run.form = true; run.notes.add("POST: JSON is refused on the way, forms pass"); }
    break;
  }
  if (!response) { row.refused(failure(last)); throw last; }
  if (response.ours && response.status === 200) { row.opened(); row.rtts.push(response.took); }
  else if (!response.ours) row.refused(blame(response));
  return response;
}

async function openSession(row) {
  row.asked = now();
  let response;
  try { response = await post("selftest/talk?underpass=open", JSON.stringify({ nonce: unique() + unique() })); }
  catch (error) { row.refused(`its session: ${failure(error)}`); return null; }
  if (response.status !== 200 || !response.body?.session) { row.refused(`its session: ${blame(response)}`); return null; }
  row.begun = row.asked = now();
  const session = new Session(response.body.session);
  run.sessions.push(session);
  return session;
}

// ---- Transports, downwards. Each runs until the time is over and records in its row what happens. ----

const text = new TextDecoder();

// Decoders of a body: bytes in; out come {text}, {again} after a recycle, {over}.
function events() {
  let rest = "";
  const decoder = new TextDecoder();
  return function* (bytes, session) {
    rest += decoder.decode(bytes, { stream: true });
    for (let end; (end = rest.search(/\r?\n\r?\n/)) >= 0;) {
      const fields = { event: "message", data: [] };
      for (const line of rest.slice(0, end).split(/\r?\n/)) {
        const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line);
        if (name === "data") fields.data.push(value); else if (name) fields[name] = value;
      }
      rest = rest.slice(end).replace(/^\r?\n\r?\n/, "");
      if (fields.id) session.cursor = Number(fields.id);
      if (fields.event === "message" && fields.data.length) yield { text: fields.data.join("\n") };
      else if (fields.event === "reconnect") yield { again: true };
      else if (fields.event === "close" || fields.event === "superseded") yield { over: true };
    }
  };
}

function frames() {
  let rest = new Uint8Array(0);
  return function* (bytes, session) {
    const all = new Uint8Array(rest.length + bytes.length);
    all.set(rest); all.set(bytes, rest.length);
    let at = 0;
    while (all.length - at >= 5) {
      const length = new DataView(all.buffer, at).getUint32(1);
      if (length > 2 ** 21) throw new Error("what came is not what was sent");
      if (all.length - at - 5 < length) break;
      const found = frame(all[at], all.subarray(at + 5, at + 5 + length), session);
      at += 5 + length;
      if (found) yield found;
    }
    rest = all.slice(at);
  };
}

function frame(kind, payload, session) {
  if (kind === 11) { session.cursor = JSON.parse(text.decode(payload)).from; return null; }
  if (kind === 1) { session.cursor++; return { text: text.decode(payload) }; }
  return kind === 14 ? { again: true } : kind === 8 || kind === 13 ? { over: true } : null;
}

async function streaming(row, session, reader) {
  let again = false;
  const response = await fetch(`${base}/${session.address(row.kind)}`, {
    cache: "no-store", signal: run.stop.signal, headers: row.kind === "sse" ? { Accept: "text/event-stream" } : {},
  });
  if (!response.ok) { row.refused(`answered ${response.status}`); return false; }
  run.look(response, row.kind === "sse" ? "text/event-stream" : "application/octet-stream");
  row.opened();
  const [body, read] = [response.body.getReader(), reader()];
  for (;;) {
    const { done, value } = await body.read();
    if (done) break;
    row.heard();
    for (const item of read(value, session)) {
      if (item.text !== undefined) row.deliver(item.text);
      again ||= item.again;
      if (item.over) return false;
    }
  }
  if (!again) row.cut();
  return true;
}

async function polling(row, session) {
  for (;;) {
    row.attachedAt = row.heardAt = now();
    const response = await request(session.address("poll", `&wait=${session.wait}`));
    if (response.status !== 200 || !response.ours) { row.refused(blame(response)); return true; }
    row.opened();
    session.cursor = response.body.after;
    response.body.messages.forEach(message => row.deliver(message));
    if (response.body.close || response.body.superseded) return false;
    if (!response.body.messages.length && response.took < 250) await sleep(1000);
  }
}

// One WebSocket, until it closes. `session` is null for one that is passed through.
const socketing = (row, session) => new Promise(done => {
  const at = location.origin.replace(/^http/, "ws") + `${base}/`;
  // A browser writes the address of a socket that failed into its console: it holds the session's name, not its token.
  const name = session && session.token.slice(0, session.token.indexOf("-") + 1) + session.id;
  const offered = session && ["underpass.v1", `underpass.token.${session.token}`];
  const socket = row.socket = session ? new WebSocket(at + session.address("ws", "", name), offered) : new WebSocket(`${at}selftest/talk`);
  let again = false, over = false;
  socket.binaryType = "arraybuffer";
  run.stop.signal.addEventListener("abort", () => socket.close());
  socket.onopen = () => { row.opened(); row.begun ??= now(); };
  socket.onmessage = ({ data }) => {
    row.heard();
    if (!session) return row.deliver(data);
    const item = typeof data === "string" ? frame(1, new TextEncoder().encode(data.slice(1)), session) : frame(new Uint8Array(data)[0], new Uint8Array(data, 1), session);
    if (item?.text !== undefined) row.deliver(item.text);
    again ||= item?.again; over ||= item?.over;
  };
  socket.onclose = ({ code }) => {
    if (run.lives && !again && !over) row.refused(row.openedIn === null ? `closed after ${span(now() - row.asked)} (code ${code})` : `code ${code}`);
    done(!!session && !over && row.openedIn !== null);
  };
});

// Attaches again after a recycle and after a cut; gives up after three cuts.
async function carry(row, once) {
  while (run.lives && row.cuts.length < 3 && !row.why) {
    let more;
    try { more = await once(); }
    catch (error) { if (run.lives) row.refused(failure(error)); more = true; }
    if (!more) break;
    await sleep(300);
  }
  row.over = true;
}

async function measure(row, send, ack) {
  const alive = () => run.lives && !row.over;
  while (alive() && (row.begun === null || (row.delays.length < TICKS && now() - row.begun < 1000 * TICKS + 1500))) await sleep(50);
  for (let misses = 0, round = 0; alive() && round < ECHOES && misses < 2; round++) {
    const took = await row.echo(send, TIMEOUT);
    if (took === null) misses++; else row.rtts.push(took);
  }
  if (alive() && row.rtts.length) {
    const begun = now();
    send("burst");
    while (alive() && row.bursts < BURST && now() - begun < 20000) await sleep(10);
    if (row.bursts >= BURST) row.burst = row.heardAt - begun;
  }
  // Silence, except for the acknowledgements that keep the session alive.
  for (let next = now() + 10000; alive() && !run.ending;) {
    await sleep(200);
    if (now() >= next) { next += 10000; await ack?.(); }
  }
  const quiet = now() - row.heardAt;
  if (alive() && row.rtts.length && (await row.echo(send, TIMEOUT)) === null) row.mute = quiet;
}

const ackOf = session => async () => { try { await post(session.address("ack"), ""); } catch { /* recorded in the row of POST */ } };

const withSession = once => async row => {
  const session = await openSession(row);
  if (!session) return;
  carry(row, () => once(row, session));
  await measure(row, sender(row) ?? (text => session.send(text)), ackOf(session));
};

// Sends over the WebSocket itself, for the transports that have one.
const sender = row => row.kind !== "ws" && row.kind !== "native" ? null : text => {
  if (row.socket?.readyState === WebSocket.OPEN) row.socket.send(row.kind === "ws" ? `1${text}` : text);
};

const transports = {
  native: async row => {
    carry(row, () => socketing(row, null));
    await measure(row, sender(row));
  },
  ws: withSession(socketing),
  sse: withSession((row, session) => streaming(row, session, events)),
  stream: withSession((row, session) => streaming(row, session, frames)),
  poll: withSession(polling),
};
