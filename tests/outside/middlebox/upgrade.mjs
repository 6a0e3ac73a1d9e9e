// A WebSocket through a box. Switches, beside those of requests (kill, swallow, headers, rename, addresses, alternate):
//
//   strip          sent on as the plain GET that is left   connection: text  the header Connection, the rest as it was
//   mute           nothing comes down behind the 101       drop: "up", "down", "both"  of the frames
//   young: ms      cut after that, 150 when not said       cut: {after: ms, how}  the same: fin, rst, silent
//   idle: ms       cut when nothing passed for so long     delay: ms   each way
//   answer: {}     headers of the 101                      ghost       the sidecar's side is kept when the client has left
import net from "node:net";
import { changed, refusal } from "./request.mjs";

export class Tunnel {
  moved = Date.now(); begun = Date.now();

  constructor(exchange, head) {
    const { box, socket, request } = exchange;
    Object.assign(this, { exchange, box, socket, client: socket });
    socket.on("error", () => {});
    const switches = this.switches;
    if (switches.swallow) return void box.strike("swallow");
    const refused = refusal({ ...exchange, body: "" }, switches);
    if (refused) {
      const { status, text } = refused;
      return void socket.end(`HTTP/1.1 ${status} No\r\nContent-Type: text/html\r\nContent-Length: ${text.length}\r\nConnection: close\r\n\r\n${text}`);
    }
    box.live.add(this);
    const onward = this.onward = net.connect(box.from(request.url, switches), () => {
      onward.setNoDelay(true);
      onward.write(this.asked(switches));
      if (head.length) onward.write(head);
    });
    socket.setNoDelay?.(true);
    onward.on("data", chunk => this.down(chunk));
    socket.on("data", chunk => this.up(chunk));
    onward.on("error", () => socket.destroy());
    onward.on("end", () => this.later(() => socket.end()));
    onward.on("close", () => { if (!this.frozen) this.later(() => socket.destroy()); });
    socket.on("end", () => this.left());
    socket.on("close", () => this.left());
    this.watch();
  }

  get switches() { return this.box.switches(this.exchange.kind, this.exchange); }

  asked(switches) {
    const { request } = this.exchange, lines = [`${request.method} ${request.url} HTTP/1.1`];
    const dropped = new Set(Object.keys(changed(request.headers, { ...switches, answer: undefined }, this.box)));
    const write = (name, value) => lines.push(`${name}: ${value}`);
    for (let at = 0; at < request.rawHeaders.length; at += 2) {
      const [name, value] = request.rawHeaders.slice(at, at + 2), low = name.toLowerCase();
      if (switches.strip && (low === "upgrade" || low === "connection")) continue;
      if (switches.connection && low === "connection") write(name, switches.connection), this.box.strike("connection");
      else if (dropped.has(low)) write(name, value);
      else if (switches.rename?.[low]) write(switches.rename[low], value);
    }
    if (switches.strip) write("Connection", "close"), this.box.strike("strip");
    return lines.join("\r\n") + "\r\n\r\n";
  }

  // Later than what was delayed before it.
  later(act) {
    const { delay } = this.switches;
    if (!delay) return act();
    this.box.strike("delay");
    setTimeout(act, delay);
  }

  down(chunk) {
    if (!this.answered) {
      this.first = Buffer.concat([this.first || Buffer.alloc(0), chunk]);
      const end = this.first.indexOf("\r\n\r\n");
      if (end < 0) return;
      this.answered = true;
      const head = this.told(this.first.subarray(0, end).toString("latin1")), rest = this.first.subarray(end + 4);
      this.later(() => this.socket.write(head));
      return void (rest.length && this.down(rest));
    }
    const { mute, drop } = this.switches;
    if (this.frozen || mute || drop === "down" || drop === "both") return this.box.strike(mute ? "mute" : "drop");
    this.moved = Date.now();
    this.later(() => this.socket.write(chunk));
  }

  // The answer's head, with its headers changed.
  told(head) {
    const { answer } = this.switches, [first, ...lines] = head.split("\r\n");
    const left = lines.filter(line => {
      const taken = answer?.[line.split(":")[0].toLowerCase()] === null;
      if (taken) this.box.strike("answer");
      return !taken;
    });
    return [first, ...left].join("\r\n") + "\r\n\r\n";
  }

  up(chunk) {
    const { drop } = this.switches;
    if (this.frozen || drop === "up" || drop === "both") return this.frozen || this.box.strike("drop");
    this.moved = Date.now();
    this.later(() => this.onward.write(chunk));
  }

  // Ends it when it is time.
  watch() {
    clearTimeout(this.timer);
    const { young, cut, idle } = this.switches, times = [];
    const ends = (name, time, how) => times.push({ name, time, how });
    if (young) ends("young", this.begun + (young === true ? 150 : young), "fin");
    if (cut) ends("cut", this.begun + cut.after, cut.how);
    if (idle) ends("idle", this.moved + idle, "fin");
    if (!times.length || this.frozen || this.over) return;
    const { name, time, how } = times.sort((a, b) => a.time - b.time)[0];
    if (time > Date.now()) return void (this.timer = setTimeout(() => this.watch(), time - Date.now()));
    this.box.strike(name);
    if (how === "silent") return this.freeze();
    if (how === "rst") this.socket.resetAndDestroy(), this.onward.resetAndDestroy();
    else this.socket.destroy(), this.onward.destroy();
  }

  changed() { this.watch(); }
  freeze() { this.frozen = true; }

  left() {
    this.over = true;
    clearTimeout(this.timer);
    const { ghost } = this.switches;
    if (ghost && !this.onward.destroyed) return this.box.strike("ghost"), void this.onward.resume();
    this.box.live.delete(this);
    this.onward.destroy();
  }
}
