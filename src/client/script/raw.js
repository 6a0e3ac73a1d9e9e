// @ts-check
// A plain WebSocket to the backend, for pages that want one where it works. Until something came back on it, what was sent
// is kept for the session that takes its place when it fails.
//
// Enters: what a page sends. Leaves: what it hears. Must not touch: the core.

/** @typedef {import("./core/types.js").Item} Item */
/** @typedef {import("./core/types.js").Page} Page */

/** Milliseconds in which the handshake must succeed. */
const HANDSHAKE = 2500;
/** Messages that are kept; with more of them there is no way back. */
const MOST_KEPT = 1000;

/** @typedef {import("./conversation.js").Conversation} Conversation */

/** @implements {Conversation} */
export class Raw {
  /** What a session would have to say again; nothing any more once the way back is shut. @type {Item[] | null} */
  #kept = [];
  #closing = false;

  /**
   * @param {WebSocket} socket
   * @param {Page} page
   * @param {(page: Page) => Conversation} openSession Called when it failed; what it gives takes this one's place.
   */
  constructor(socket, page, openSession) {
    this.socket = socket;
    this.page = page;
    socket.binaryType = "arraybuffer";
    let open = false;
    const giveWay = () => {
      clearTimeout(timer);
      socket.onclose = null;
      socket.onmessage = null;
      socket.onopen = null;
      socket.close();
      const session = openSession(open ? { ...page, opened() {} } : page);
      for (const item of this.#kept || []) session.send(item);
    };
    const timer = setTimeout(giveWay, HANDSHAKE);
    socket.onopen = () => {
      open = true;
      clearTimeout(timer);
      page.opened(socket.protocol, socket.extensions);
      page.changed({ transport: "raw", from: null, cause: "opened" });
    };
    socket.onmessage = ({ data }) => {
      this.#kept = null;
      page.message(typeof data === "string" ? data : new Uint8Array(data));
    };
    socket.onclose = ({ code, reason, wasClean }) => {
      if (this.#kept && !wasClean && !this.#closing) return giveWay();
      clearTimeout(timer);
      page.closed({ code, reason, clean: wasClean }, !wasClean);
    };
  }

  /** @param {Item} item */
  send(item) {
    this.#kept?.push(item);
    if (this.#kept && this.#kept.length > MOST_KEPT) this.#kept = null;
    this.socket.send(/** @type {string | Uint8Array<ArrayBuffer> | Blob} */ (item.text ?? item.bytes ?? item.blob));
    queueMicrotask(() => this.page.drained(item.size));
  }

  /**
   * @param {number} [code]
   * @param {string} [reason]
   */
  close(code, reason) {
    this.#closing = true;
    if (code === undefined) this.socket.close();
    else this.socket.close(code, reason);
  }
}
