// @ts-check
// A plain WebSocket to the backend, for pages that want one where it works. Until something came back on it, what was sent
// is kept for the session that takes its place when it fails.
//
// Enters: what a page sends. Leaves: what it hears. Must not touch: the core.

/** @typedef {import("./core/types.js").Item} Item */
/** @typedef {import("./core/types.js").Page} Page */

/** Milliseconds in which the handshake must succeed, once it is its turn. */
const HANDSHAKE = 2500;
/** Milliseconds in which a WebSocket is young; in which so many cuts of young ones are the network's. */
const YOUNG = 60000;
const MEMORY = 300000;
const CUTS = 3;
/** Messages that are kept; with more of them there is no way back. */
const MOST_KEPT = 1000;

/** @typedef {import("./conversation.js").Conversation} Conversation */

/** Those whose handshake is under way: browsers have one at a time. @type {Set<Raw>} */
const connecting = new Set();
/** When young ones were cut. @type {number[]} */
let cuts = [];

/** Whether this network cuts them again and again: a session would survive that. */
export function isCutAgain() {
  cuts = cuts.filter(time => performance.now() - time < MEMORY);
  return cuts.length >= CUTS;
}

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
    let open = 0;
    let failed = false;
    const settle = () => {
      clearTimeout(timer);
      connecting.delete(this);
    };
    const giveWay = () => {
      settle();
      socket.onclose = null;
      socket.onmessage = null;
      socket.onopen = null;
      socket.close();
      const session = openSession(open ? { ...page, opened() {} } : page);
      for (const item of this.#kept || []) session.send(item);
    };
    connecting.add(this);
    const timer = setTimeout(giveWay, HANDSHAKE * connecting.size);
    socket.onopen = () => {
      open = performance.now();
      settle();
      page.opened(socket.protocol, socket.extensions);
      page.changed({ transport: "raw", from: null, cause: "opened" });
    };
    socket.onmessage = ({ data }) => {
      this.#kept = null;
      page.message(typeof data === "string" ? data : new Uint8Array(data));
    };
    socket.onerror = () => {
      failed = true;
    };
    socket.onclose = ({ code, reason, wasClean }) => {
      if (this.#kept && !wasClean && !this.#closing) return giveWay();
      settle();
      if (open && !wasClean && performance.now() - open < YOUNG) cuts.push(performance.now());
      page.closed({ code, reason, clean: wasClean }, failed);
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
