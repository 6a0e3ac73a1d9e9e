// An answer on its way to the browser. Switches:
//
//   hold           nothing before the end                  until: N      nothing before N bytes have come
//   block: N       whole blocks of N bytes only            late          each write when the next one comes
//   headless       the head with the first byte            mute: N       N bytes, then nothing; true: nothing from now on
//   delay: ms      all that much later                     rate: N       N bytes a second
//   cut: {after: ms, bytes: N, how, chance}   ends it early: fin, rst, silent, or clean (as if it were whole)
//   idle: ms       cut when nothing passed for so long     answer: {name: value, null: taken out}
//   errors         a page in place of what is not 200      inject: text  before the answer, {each: text}: before each write,
//                                                          {each: text, only: text}: before those with that
import { changed } from "./request.mjs";

export class Answer {
  kept = []; size = 0; given = 0; begun = Date.now(); moved = Date.now();

  constructor(exchange) {
    const { box, response } = exchange;
    Object.assign(this, { exchange, box, response });
    const { cut, lost } = this.switches;
    this.isCut = cut && (cut.chance === undefined || box.random() < cut.chance);
    this.isLost = lost && box.strikes("lost", lost === true ? 0.3 : lost);
    box.live.add(this);
    response.on("close", () => this.gone());
    response.on("error", () => {});
  }

  get switches() { return this.box.switches(this.exchange.kind, this.exchange); }

  head(status, headers) {
    if (this.over) return;
    const { answer, errors, answerTypes } = this.switches, whole = headers["content-type"] || "", type = whole.split(";")[0];
    this.exchange.type = whole;
    const page = (name, to) => {
      this.box.strike(name);
      this.page = Buffer.from("<!doctype html><p>Something went wrong.</p>");
      [status, headers] = [to, { "content-type": "text/html" }];
    };
    if (answerTypes?.includes(type)) page("answerTypes", 403);
    else if (errors && status !== 200) page("errors", status === 204 ? 200 : status);
    this.status = status;
    this.headers = changed(headers, { answer }, this.box);
    if (this.page) this.keep(this.page);
    this.pump();
  }

  data(chunk) {
    if (this.isLost || this.page || this.over) return;
    const { inject } = this.switches;
    const text = inject?.each ? chunk.includes(inject.only || "") && inject.each : !this.size && !this.given && inject;
    if (text) this.box.strike("inject"), delete this.headers["content-length"], (chunk = Buffer.concat([Buffer.from(text), chunk]));
    this.keep(chunk);
    this.pump();
  }

  keep(chunk) {
    this.kept.push({ chunk, at: Date.now() });
    this.size += chunk.length;
  }

  end() {
    this.ended = true;
    if (this.isLost) this.response.destroy();
    this.pump();
  }

  // The sidecar's side is gone.
  broken() { this.response.destroy(); }

  changed() { this.pump(); }
  freeze() { this.muted = true; }

  // How many of the bytes that are kept may go now.
  allowed({ hold, until, late, block, mute }) {
    let may = this.size;
    const less = (name, bytes) => { if (bytes < may) this.once(name), (may = Math.max(bytes, 0)); };
    if (!this.ended) {
      if (hold) less("hold", 0);
      if (this.given + this.size < until) less("until", 0);
      if (late && this.kept.length) less("late", may - this.kept.at(-1).chunk.length);
      if (block) less("block", Math.floor((this.given + may) / block) * block - this.given);
    }
    if (mute !== undefined && mute !== false) {
      const left = mute === true ? 0 : mute - this.given;
      if (may > left) this.muted = true, less("mute", left);
    }
    return may;
  }

  // The same, of what time allows; `again` is called when it may be more.
  due(may, { delay, rate }, again) {
    const time = Date.now();
    if (delay) {
      let ripe = 0;
      for (const { chunk, at } of this.kept) if (at + delay <= time) ripe += chunk.length;
      if (ripe < may) this.once("delay"), again(Math.max(1, this.kept.find(({ at }) => at + delay > time).at + delay - time)), (may = ripe);
    }
    if (rate) {
      const budget = Math.floor((time - this.begun) * rate / 1000) - this.given;
      if (budget < may) this.once("rate"), again(50), (may = Math.max(0, budget));
    }
    return may;
  }

  pump() {
    if (this.over || this.muted || this.isLost || this.status === undefined) return;
    const switches = this.switches;
    clearTimeout(this.timer);
    let soonest = Infinity;
    const again = time => { soonest = Math.min(soonest, time); };
    let may = this.due(this.allowed(switches), switches, again);
    const { cut, idle, delay, hold, until, headless } = switches;
    if (this.isCut && cut?.bytes <= this.given + may) may = cut.bytes - this.given;
    const empty = this.ended && !this.size;
    const waits = !may && !empty && (hold || until || headless || delay || switches.rate);
    if (waits && headless && this.status === 200) this.once("headless");
    if (!this.response.headersSent && !waits) this.open();
    if (may > 0) this.moved = Date.now(), this.write(may);
    if (this.isCut && cut?.bytes <= this.given) return this.sever("cut", cut.how);
    if (this.ended && !this.size && !this.muted) return this.over = true, void this.response.end();
    if (this.isCut && cut?.after) this.until(this.begun + cut.after, again) || this.sever("cut", cut.how);
    if (idle) this.until(this.moved + idle, again) || this.sever("idle", "fin");
    if (soonest < Infinity && !this.over) this.timer = setTimeout(() => this.pump(), soonest);
  }

  // Whether that time is still to come; if so it is looked at again then.
  until(time, again) {
    const left = time - Date.now();
    if (left > 0) again(left);
    return left > 0;
  }

  open() {
    // A length that will not be true.
    if (this.isCut || this.page) delete this.headers["content-length"];
    this.response.writeHead(this.status, this.headers);
    this.response.flushHeaders();
  }

  write(bytes) {
    while (bytes > 0) {
      const { chunk, at } = this.kept.shift(), part = chunk.subarray(0, bytes);
      if (part.length < chunk.length) this.kept.unshift({ chunk: chunk.subarray(bytes), at });
      this.response.write(part);
      this.given += part.length;
      this.size -= part.length;
      bytes -= part.length;
    }
  }

  sever(name, how = "fin") {
    this.box.strike(name);
    this.over = how !== "silent";
    this.muted = true;
    const { socket } = this.response;
    if (how === "clean") this.response.end();
    else if (how === "rst") socket?.resetAndDestroy();
    else if (how === "fin") socket?.destroySoon();
  }

  // Counted once an answer.
  once(name) {
    this.seen ??= new Set();
    if (!this.seen.has(name)) this.seen.add(name), this.box.strike(name);
  }

  gone() {
    this.over = true;
    clearTimeout(this.timer);
    this.box.live.delete(this);
    this.origin?.leave(this);
  }
}
