// The sidecar as docs/PROTOCOL.md has it, in the plainest terms: lists and numbers. One session; what the backend says and
// hears is in `backend.mjs`.
//
// Enters: requests, attachments, time. Leaves: answers; what attachments are to carry. Must not touch: the network, the
// client.

// Small bounds and short waits, so that all of them are met. Seconds and bytes, as the facts have them.
export const LIMITS = {
  max_message: 2000, max_batch: 500, ack_bytes: 700, heartbeat: 2, wait: 4, grace: 60, recycle: 25,
  buffer: 3000, held: 20, probe: 400, pause: 40000, closeWait: 5000, overhead: 64,
};

export class SidecarSession {
  // Down: all messages, what was written to anyone, what is acknowledged. The close has the number behind the last one.
  down = [];
  sent = 0;
  acked = 0;
  // Up: what the backend was given, and what is held behind a gap.
  up = [];
  held = new Map();
  // The close that counts, once one was asked for; since when it is told.
  closing = null;
  ended = false;
  settled = false;
  current = null;
  heard;
  progress;
  // Its end in words, for those who look into a failed run.
  fate = "";

  constructor(clock, token, backend, url, protocol = "a") {
    Object.assign(this, { clock, token, backend, url, protocol, heard: clock.now, progress: clock.now, endedAt: 0 });
  }

  get facts() {
    const { max_message, max_batch, ack_bytes, heartbeat, wait, grace, recycle } = LIMITS;
    return {
      id: this.token.split("-")[1], token: this.token, protocol: this.protocol, url: this.url, max_message, max_batch, ack_bytes,
      heartbeat, wait, grace, recycle, transports: ["ws", "sse", "stream", "poll"],
    };
  }

  get next() {
    return this.up.length + 1;
  }

  // The number of the last item down: the close counts, once it is told.
  get last() {
    return this.down.length + (this.ended ? 1 : 0);
  }

  get isFull() {
    return this.down.slice(this.acked).reduce((sum, { size }) => sum + size + LIMITS.overhead, 0) >= LIMITS.buffer;
  }

  // Whether all is forgotten, but that it has ended.
  get isOver() {
    return this.settled || (this.ended && this.clock.now > Math.max(this.endedAt, this.heard) + LIMITS.grace * 1000);
  }

  // === the backend's side ===

  backendSays(message) {
    if (this.ended) return;
    this.down.push(message);
    this.current?.wake();
  }

  end(close, fate) {
    if (this.ended) return;
    this.closing ??= close;
    this.fate ||= fate;
    this.ended = true;
    this.endedAt = this.clock.now;
    this.current?.wake();
  }

  // Time has passed.
  expire() {
    const { now } = this.clock;
    const polls = this.current?.name === "poll";
    if (this.ended) return;
    if (!polls && now > this.heard + LIMITS.grace * 1000) {
      this.backend.closed({ code: 1001, reason: "client gone", clean: true });
      this.end({ code: 1001, reason: "client gone", clean: true }, "client gone");
    } else if (this.isFull && now > this.progress + LIMITS.pause) {
      this.backend.closed({ code: 1013, reason: "client too slow", clean: true });
      this.end({ code: 1013, reason: "client too slow", clean: true }, "client too slow");
    }
  }

  // === the client's side ===

  acknowledge(cursor) {
    this.heard = this.clock.now;
    if (cursor > this.sent) return { code: "bad_cursor", status: 400, sent: this.sent };
    if (cursor > this.acked) {
      this.acked = cursor;
      this.progress = this.clock.now;
    }
    if (this.ended && this.acked > this.down.length) this.settled = true;
    return null;
  }

  // Takes messages up from number `first` on. Twins are dropped, what is ahead is held.
  push(first, messages) {
    if (this.closing) return { code: "session_closed", status: 410, close: this.closing };
    if (first + messages.length - 1 > this.next + LIMITS.held && first > this.next) {
      return { code: "gap", status: 409, next: this.next };
    }
    messages.forEach((message, at) => this.held.set(first + at, message));
    for (const number of this.held.keys()) if (number < this.next) this.held.delete(number);
    while (this.held.has(this.next)) {
      const message = this.held.get(this.next);
      this.held.delete(this.next);
      this.up.push(message);
      this.backend.hear(message);
    }
    return null;
  }

  close(close) {
    if (this.closing) return this.closing;
    this.closing = close;
    this.fate ||= "client closed";
    this.backend.closed(close);
    const over = () => this.end(close, "client closed");
    this.clock.after(this.backend.closeDelay, over);
    this.clock.after(LIMITS.closeWait, over);
    return close;
  }

  // Attaches a reader that was `after` there. Returns an error, or null.
  attach(reader, after) {
    this.heard = this.clock.now;
    if (this.isOver) return { code: "session_closed", status: 410, close: this.closing };
    if (after > this.sent) return { code: "bad_cursor", status: 400, sent: this.sent };
    if (after < this.acked) return { code: "stale_cursor", status: 409, after: this.acked };
    if (this.ended && after > this.down.length) {
      this.settled = true;
      return { code: "session_closed", status: 410, close: this.closing };
    }
    this.acknowledge(after);
    const old = this.current;
    this.current = reader;
    reader.read = after;
    old?.superseded();
    return null;
  }

  detach(reader) {
    if (this.current === reader) this.current = null;
  }

  // What this reader has not been written yet, up to so many bytes.
  pull(reader, budget) {
    const items = [];
    let size = 0;
    while (reader.read < this.down.length) {
      const message = this.down[reader.read];
      if (items.length && size + message.size > budget) break;
      size += message.size;
      items.push(message);
      reader.read++;
    }
    const close = this.ended && reader.read === this.down.length ? this.closing : null;
    if (close) reader.read++;
    this.sent = Math.max(this.sent, reader.read);
    return { items, close };
  }

  get standing() {
    return { next: this.next, attached: this.current?.name ?? null, sent: this.sent, unacked: this.sent - this.acked };
  }
}
