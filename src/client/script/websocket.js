// @ts-check
// The class that pages see: a stand-in for the browser's `WebSocket`, the same in all that a page can notice
// (tests/outside/client/conformance.mjs holds them against each other).
//
// Enters: what a page calls. Leaves: its events; what is sent and closed, to a session. Must not touch: how it is carried.

import { openSession } from "./conversation.js";
import { decoder } from "./core/codec.js";
import { clamp } from "./core/waiting.js";
import { Raw, isCutAgain } from "./raw.js";

/** @typedef {import("./core/types.js").Item} Item */
/** @typedef {import("./core/types.js").Page} Page */
/** @typedef {import("./conversation.js").Conversation} Conversation */
/** @typedef {((event: any) => void) | { handleEvent?: unknown } | null} Handler */
/** @typedef {((event: Event) => void) & { act: Handler }} Listener */

const CONNECTING = 0;
const OPEN = 1;
const CLOSING = 2;
const CLOSED = 3;
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

const encoder = new TextEncoder();
// A page may override these for its own calls; a native one would not notice.
const { addEventListener, dispatchEvent, removeEventListener } = EventTarget.prototype;

/**
 * @param {string} name
 * @param {string} message
 * @returns {never}
 */
function refuse(name, message) {
  throw new DOMException(message, name);
}

/**
 * @param {unknown} protocols
 * @returns {string[]}
 */
function listed(protocols) {
  if (protocols === undefined) return [];
  const isList = typeof protocols === "object" && protocols && Symbol.iterator in protocols;
  return isList ? Array.from(/** @type {Iterable<unknown>} */ (protocols), String) : [String(protocols)];
}

/**
 * The target of a URL that is ours to carry; null for all others, and for what the native one will refuse.
 *
 * @param {string} url
 * @param {string[]} protocols
 * @param {string} base
 */
function targetOf(url, protocols, base) {
  let parsed;
  try {
    parsed = new URL(url, globalThis.document ? document.baseURI : globalThis.location?.href);
  } catch {
    return null;
  }
  const http = parsed.href.replace(/^ws/, "http");
  const { origin } = new URL(http);
  if (!/^http/.test(http) || http.includes("#")) return null;
  if (origin !== new URL(base).origin || http.startsWith(base)) return null;
  if (!protocols.every(name => TOKEN.test(name)) || new Set(protocols).size < protocols.length) return null;
  return { target: http, url: http.replace(/^http/, "ws") };
}

/**
 * @param {unknown} data
 * @returns {Item}
 */
function itemOf(data) {
  if (data instanceof Blob) return { blob: data, size: data.size };
  let bytes;
  if (data instanceof ArrayBuffer) {
    bytes = new Uint8Array(data.slice(0));
  } else if (ArrayBuffer.isView(data)) {
    bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice();
  } else {
    let text = String(data);
    const encoded = encoder.encode(text);
    // Lone surrogates are replaced, as in every USVString.
    if (/[\ud800-\udfff]/.test(text)) text = decoder.decode(encoded);
    return { text, size: encoded.length };
  }
  return { bytes, size: bytes.length };
}

/**
 * The code of a close as a number that is allowed.
 *
 * @param {any} given
 */
function closeCode(given) {
  const code = clamp(0, Math.round(+given) || 0, 65535);
  if (code !== 1000 && (code < 3000 || code > 4999)) {
    refuse("InvalidAccessError", `${code} is not allowed`);
  }
  return code;
}

/** @param {unknown} given */
function closeReason(given) {
  const bytes = encoder.encode(given === undefined ? "" : String(given));
  if (bytes.length > 123) refuse("SyntaxError", "Reason over 123 bytes");
  return decoder.decode(bytes);
}

/**
 * Makes the class.
 *
 * @param {import("./runner.js").Runner} runner
 */
export function makeWebSocket(runner) {
  const { Native, core, options, tasks } = runner;
  /** Those that are carried by us; the others are native ones with this class's prototype. @type {WeakSet<object>} */
  const carried = new WeakSet();

  class WebSocket extends EventTarget {
    #url = "";
    #state = /** @type {0 | 1 | 2 | 3} */ (CONNECTING);
    #protocol = "";
    #extensions = "";
    /** @type {BinaryType} */
    #binaryType = "blob";
    #buffered = 0;
    #conversation = /** @type {Conversation} */ (/** @type {unknown} */ (null));
    /** What was set as `onmessage` and its kin. @type {Record<string, Listener>} */
    #listeners = {};

    /**
     * @param {string | URL} url
     * @param {string | string[]} [protocols]
     */
    constructor(url, protocols) {
      // @ts-expect-error: the native one knows best how to refuse this.
      if (!arguments.length) return new Native();
      const address = String(url);
      const names = listed(protocols);
      const ours = targetOf(address, names, options.base);
      // @ts-expect-error: it stands in for one of ours.
      if (!ours) return Reflect.construct(Native, [address, names], new.target);
      super();
      carried.add(this);
      this.#url = ours.url;
      const page = this.#page();
      /**
       * @param {Page} told
       * @param {string} [suspect]
       */
      const carry = (told, suspect) => {
        this.#conversation = openSession(runner, told, ours.target, names, suspect);
        return this.#conversation;
      };
      if (options.ws !== "raw" || ["ws", "raw"].some(core.verdicts.against)) carry(page);
      else if (isCutAgain()) carry(page, "raw");
      else this.#conversation = new Raw(new Native(ours.url, names), page, told => carry(told, "ws"));
    }

    /**
     * What a session tells: each is an event of the page's, in a task of its own.
     *
     * @returns {Page}
     */
    #page() {
      return {
        opened: (protocol, extensions = "") => tasks.add(() => {
          if (this.#state !== CONNECTING) return;
          this.#state = OPEN;
          this.#protocol = protocol;
          this.#extensions = extensions;
          dispatchEvent.call(this, new Event("open"));
        }),
        message: data => tasks.add(() => {
          if (this.#state !== OPEN) return;
          const shown = typeof data === "string" ? data : this.#binaryType === "blob" ? new Blob([data]) : data.buffer;
          dispatchEvent.call(this, new MessageEvent("message", { data: shown, origin: new URL(this.#url).origin }));
        }),
        drained: size => {
          this.#buffered -= size;
        },
        changed: detail => {
          const { cause, from, transport } = detail;
          if (options.debug) console.info(`underpass: ${this.#url} by ${transport}, before ${from}: ${cause}`);
          tasks.add(() => dispatchEvent.call(this, new CustomEvent("underpass", { detail })));
        },
        closed: ({ code, reason, clean }, failed) => tasks.add(() => {
          this.#state = CLOSED;
          if (failed) dispatchEvent.call(this, new Event("error"));
          dispatchEvent.call(this, new CloseEvent("close", { code, reason, wasClean: clean }));
        }),
      };
    }

    get url() {
      return this.#url;
    }

    get readyState() {
      return this.#state;
    }

    get bufferedAmount() {
      return this.#buffered;
    }

    get extensions() {
      return this.#extensions;
    }

    get protocol() {
      return this.#protocol;
    }

    get binaryType() {
      return this.#binaryType;
    }

    set binaryType(type) {
      if (type === "blob" || type === "arraybuffer") this.#binaryType = type;
    }

    get onopen() {
      return this.#handler("open");
    }

    set onopen(act) {
      this.#handle("open", act);
    }

    get onmessage() {
      return this.#handler("message");
    }

    set onmessage(act) {
      this.#handle("message", act);
    }

    get onerror() {
      return this.#handler("error");
    }

    set onerror(act) {
      this.#handle("error", act);
    }

    get onclose() {
      return this.#handler("close");
    }

    set onclose(act) {
      this.#handle("close", act);
    }

    /**
     * @param {string} type
     * @returns {any}
     */
    #handler(type) {
      return this.#listeners[type]?.act || null;
    }

    // A handler keeps its place among the listeners until it is taken away.
    /**
     * @param {string} type
     * @param {unknown} given
     */
    #handle(type, given) {
      const act = typeof given === "function" || typeof given === "object" ? /** @type {Handler} */ (given) : null;
      const known = this.#listeners[type];
      if (known && act) {
        known.act = act;
      } else if (known) {
        removeEventListener.call(this, type, known);
        delete this.#listeners[type];
      } else if (act) {
        /** @type {Listener} */
        const listener = Object.assign(/** @param {Event} event */ event => {
          if (typeof listener.act === "function") listener.act.call(this, event);
        }, { act });
        this.#listeners[type] = listener;
        addEventListener.call(this, type, listener);
      }
    }

    /** @param {string | Blob | BufferSource} data */
    send(data) {
      if (!arguments.length) throw new TypeError("1 argument required");
      const item = itemOf(data);
      if (this.#state === CONNECTING) refuse("InvalidStateError", "Still connecting");
      this.#buffered += item.size;
      if (this.#state === OPEN) this.#conversation.send(item);
    }

    /**
     * @param {number} [code]
     * @param {string} [reason]
     */
    close(code, reason) {
      const given = code === undefined ? undefined : closeCode(code);
      const text = closeReason(reason);
      if (this.#state > OPEN) return;
      this.#state = CLOSING;
      // A reason cannot stand without a code.
      this.#conversation.close(text && given === undefined ? 1000 : given, text);
    }

    // Those that were made before the script came are native ones.
    /** @param {unknown} object */
    static [Symbol.hasInstance](object) {
      const isNative = this === WebSocket && object instanceof Native;
      return isNative || Function.prototype[Symbol.hasInstance].call(this, object);
    }
  }

  likeNative(WebSocket, Native, carried);
  return WebSocket;
}

/**
 * Gives the class the properties of the native one, each with its name, its length and what may be done to it. They serve
 * native ones as well, since these have the class's prototype: what a page does to that holds for all.
 *
 * @param {Function & { prototype: object }} ours
 * @param {Function & { prototype: object }} native
 * @param {WeakSet<object>} carried
 */
function likeNative(ours, native, carried) {
  const { defineProperty, getOwnPropertyDescriptor } = Object;
  for (const [place, model] of [[ours, native], [ours.prototype, native.prototype]]) {
    for (const name of Reflect.ownKeys(model)) {
      const known = /** @type {Record<string, any>} */ (getOwnPropertyDescriptor(place, name) || {});
      const property = /** @type {Record<string, any>} */ (getOwnPropertyDescriptor(model, name));
      for (const part of ["get", "set", "value"]) {
        const act = property[part];
        if (typeof act === "function" && name !== "constructor") property[part] = both(known[part], act, carried);
      }
      if (!/^(constructor|prototype)$/.test(String(name))) defineProperty(place, name, property);
    }
  }
}

/**
 * A method that does the one thing for those that are carried and the other for native ones.
 *
 * @param {Function} ours
 * @param {Function} native
 * @param {WeakSet<object>} carried
 */
function both(ours, native, carried) {
  const { act } = {
    /** @param {unknown[]} values */
    act(...values) {
      return Reflect.apply(carried.has(/** @type {any} */ (this)) ? ours : native, this, values);
    },
  };
  for (const name of ["name", "length"]) Object.defineProperty(act, name, { value: native[/** @type {"name"} */ (name)] });
  return act;
}
