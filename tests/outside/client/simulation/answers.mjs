// The sidecar's requests: which session, what is asked of it, the answer as JSON (docs/PROTOCOL.md, sections 3 to 8).
//
// Enters: an address and a body. Leaves: {status, body}, at once or later. Must not touch: the network.
import assert from "node:assert/strict";
import { LIMITS, SidecarSession } from "./sidecar.mjs";
import { Backend } from "./backend.mjs";

// One long poll, of one session.
class PollReader {
  name = "poll";
  read = 0;
  constructor(news) {
    this.wake = news;
  }
  superseded() {
    this.wasSuperseded = true;
    this.wake();
  }
}

export class Sidecar {
  sessions = new Map();
  #nonces = new Map();

  constructor(run) {
    this.run = run;
    this.clock = run.clock;
    this.chance = run.chance;
  }

  expire() {
    for (const session of this.sessions.values()) session.expire();
  }

  // Answers a request, at once or later.
  handle(url, body, respond) {
    const { pathname, search, searchParams } = new URL(url);
    const n = searchParams.get("n");
    const answer = (status, json) => respond({ status, body: n ? { ...json, n } : json });
    const refuse = ({ code, status, ...more }) => {
      // A client that counts right never hears these.
      if (["bad_cursor", "gap", "unknown_session"].includes(code)) throw new Error(`${code} for ${url}`);
      answer(status, { error: { code, status, message: "" }, ...more });
    };
    if (searchParams.get("underpass") === "open") {
      assert.equal(search.replace(/[?&]underpass=open$/, ""), this.run.front.query, "the backend gets another query");
      return this.#open(pathname, body, answer, refuse);
    }
    const [token, verb] = this.run.front.named(pathname);
    if (verb === "polls") return this.#pollSeveral(body.sessions, searchParams.get("wait"), answer);
    const error = this.run.weather.errors[verb];
    if (error) return answer(error.status, { error });
    const session = this.find(token);
    if (!session) return refuse({ code: "unknown_session", status: 404 });
    const after = Number(searchParams.get("after"));
    if (verb === "close") return answer(200, { close: session.close({ code: body?.code ?? 1000, reason: body?.reason ?? "", clean: true }) });
    if (session.isOver) return refuse({ code: "session_closed", status: 410, close: session.closing });
    if (verb === "poll") return this.#poll(session, after, Number(searchParams.get("wait")), json => (json.code ? refuse(json) : answer(200, json)));
    const fault = session.acknowledge(after) ?? (verb === "send" ? this.#send(session, Number(searchParams.get("seq")), body.messages) : null);
    if (fault) return refuse(fault);
    answer(200, session.standing);
  }

  find(token) {
    const session = this.sessions.get(token);
    const forgotten = session?.isOver && this.clock.now > session.endedAt + 10 * 60000;
    return forgotten ? undefined : session;
  }

  #open(path, { nonce }, answer, refuse) {
    const { chance, clock, run } = this;
    const target = path.split("/").at(-1);
    const known = this.#nonces.get(nonce);
    if (known?.session && chance.oneIn(8)) {
      // It is asked again with other cookies.
      run.cover("nonce reused");
      run.reopened.add(target);
      return refuse({ code: "nonce_reused", status: 409 });
    }
    if (known?.session) return answer(200, { session: known.session.facts });
    if (known) return known.twins.push(answer);
    const refusal = this.run.refusals.get(target)?.shift();
    if (refusal) return refuse(refusal);
    const opening = { session: null, twins: [answer] };
    this.#nonces.set(nonce, opening);
    clock.after(chance.pick([1, 20, 300]), () => {
      const token = `n${chance.pick([1, 1, 2])}-${target}x${this.sessions.size}-secret`;
      const backend = new Backend(this.run, token);
      opening.session = new SidecarSession(clock, token, backend, run.front.toSession(path, token), run.protocol);
      this.sessions.set(token, opening.session);
      this.run.opened(target, opening.session);
      for (const twin of opening.twins) twin(200, { session: opening.session.facts });
    });
  }

  #send(session, first, messages) {
    const { chance, run } = this;
    const taken = messages.map(message => (typeof message === "string" ? message : { bytes: message.base64 }));
    if (JSON.stringify(messages).length > 2 * LIMITS.max_batch && messages.length > 1) return { code: "too_large", status: 413 };
    if (run.isBusy && chance.oneIn(4)) {
      const part = taken.slice(0, chance.between(0, taken.length - 1));
      return session.push(first, part) ?? { code: "busy", status: 503, next: session.next };
    }
    if (first < session.next) run.cover("sent twice");
    return session.push(first, taken);
  }

  // `tell` is given the JSON of 5.3, or an error.
  #poll(session, after, wait, tell) {
    let told = false;
    const reader = new PollReader(() => {
      const { items, close } = session.pull(reader, LIMITS.max_batch);
      if (items.length || close || reader.wasSuperseded) finish(items, close);
    });
    const finish = (items, close) => {
      if (told) return;
      told = true;
      session.detach(reader);
      const messages = items.map(({ data }) => (typeof data === "string" ? data : { base64: Buffer.from(data).toString("base64") }));
      tell({ from: after, after: reader.read, messages, next: session.next, ...(close && { close }), ...(reader.wasSuperseded && { superseded: true }) });
    };
    const error = session.attach(reader, after);
    if (error) return tell(error);
    this.clock.after(wait * 1000, () => finish([], null));
    reader.wake();
    return () => finish([], null);
  }

  // The first that has something to tell brings all answers that are there.
  #pollSeveral(asked, wait, answer) {
    const answers = {};
    const ends = [];
    let gathering = true;
    let told = false;
    const finish = () => {
      if (told || gathering) return;
      told = true;
      for (const end of ends) end?.();
      answer(200, { sessions: answers });
    };
    for (const [token, after] of Object.entries(asked)) {
      const session = this.find(token);
      const tell = json => {
        if (told) return;
        answers[token] = json.code ? { error: { code: json.code, status: json.status }, ...(json.close && { close: json.close }) } : json;
        // What comes at the same time comes together.
        this.clock.after(0, finish);
      };
      if (!session) tell({ code: "unknown_session", status: 404 });
      else ends.push(this.#poll(session, after, Number(wait) + 1000, tell));
    }
    gathering = false;
    this.clock.after(Number(wait) * 1000, () => {
      for (const end of ends) end?.();
      finish();
    });
    if (Object.keys(answers).length) finish();
  }
}
