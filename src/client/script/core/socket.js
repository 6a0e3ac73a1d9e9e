// @ts-check
// The `ws` attachment: a WebSocket to the sidecar, which carries messages and acknowledgements both ways
// (docs/PROTOCOL.md, section 5.4).
//
// Enters: what came on it, as events. Leaves: frames to send. Must not touch: the WebSocket itself.

import { Attachment } from "./attachment.js";
import { ackFrame, messageFrame } from "./codec.js";

/** How long a handshake that nobody waits for any more may still come back. */
const LATE = 15000;

export class SocketAttachment extends Attachment {
  duplex = true;
  asked = 0;
  #connected = false;
  /** There is more to acknowledge than what was asked. */
  #again = false;

  connected() {
    const { ladder, deadline } = this.session;
    this.#connected = true;
    if (ladder.late === this) this.expect(deadline);
  }

  // A handshake that was swallowed may still come back: go on with the others meanwhile.
  missing() {
    const { ladder } = this.session;
    if (this.#connected || ladder.late === this) return this.end("silent");
    if (ladder.trying !== this) return;
    ladder.trying = null;
    // One is enough.
    ladder.late?.stop();
    ladder.late = this;
    this.expect(LATE);
    ladder.fell("ws silent", 0, "ws");
  }

  /** @param {{ token: string, from: number, next: number }} facts */
  begun(facts) {
    super.begun(facts);
    if (this.dead) return;
    this.next = facts.next;
    this.acknowledge();
  }

  // The proof is the answer to our acknowledgement: it made the round trip.
  beat() {
    this.acknowledge();
  }

  acknowledge() {
    if (this.asked) {
      this.#again = true;
    } else {
      this.asked = this.core.now;
      this.#transmit(ackFrame(this.session.down.cursor));
    }
    return true;
  }

  /** @param {number} next */
  accepted(next) {
    const { session } = this;
    const again = this.#again;
    if (this.asked) session.measured(this.core.now - this.asked);
    this.asked = 0;
    this.#again = false;
    session.up.accepted(next);
    session.ladder.proved(this);
    if (again || this.next > session.up.first) this.acknowledge();
  }

  pump() {
    const { up } = this.session;
    // What was posted while this socket was tried is known to the sidecar by its number alone.
    for (; this.next < up.first; this.next++) this.#transmit(messageFrame(""));
    for (let item = up.at(this.next); item && up.ready(item); item = up.at(this.next)) {
      this.#transmit(messageFrame(item.text, item.bytes));
      this.next++;
    }
  }

  /** @param {string | Uint8Array<ArrayBuffer>} data */
  #transmit(data) {
    this.core.do("transmit", this, data);
  }
}
