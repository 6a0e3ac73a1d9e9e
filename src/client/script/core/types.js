// @ts-check
// The words of the client's core, as types. No code.
//
// Enters: nothing. Leaves: typedefs, for the other files' comments. Must not touch: anything that runs.

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./attachment.js").Attachment} Attachment */

/** What carries a session down. @typedef {"ws" | "sse" | "stream" | "poll"} Carrier */

/**
 * The settings of the page; they are read whenever they are needed.
 *
 * @typedef {object} Options
 * @property {string} base The sidecar's address with its prefix.
 * @property {Carrier[]} transports Which may be used, best first.
 * @property {"session" | "raw"} ws Whether a plain WebSocket to the backend, which cannot be resumed, is tried first.
 * @property {"omit" | "same-origin" | "include"} credentials Of requests, as of `fetch`.
 * @property {boolean} debug One console line for each change of transport.
 */

/**
 * What the sidecar says about a session (docs/PROTOCOL.md, section 4.1).
 *
 * @typedef {object} Facts
 * @property {string} id
 * @property {string} token
 * @property {string} url Relative to the address of the request that it answers.
 * @property {string} protocol
 * @property {number} max_message
 * @property {number} max_batch
 * @property {number} ack_bytes
 * @property {number} heartbeat
 * @property {number} wait
 * @property {number} grace
 * @property {Carrier[]} transports
 */

/** @typedef {{ code: number, reason: string, clean: boolean }} Close */

/**
 * A message up. One that is neither text nor bytes yet is a blob that is still being read.
 *
 * @typedef {object} Item
 * @property {string} [text]
 * @property {Uint8Array<ArrayBuffer>} [bytes]
 * @property {Blob} [blob]
 * @property {number} size Its bytes, as `bufferedAmount` counts them.
 */

/**
 * The JSON of a poll (docs/PROTOCOL.md, section 5.3), or of an error (section 8).
 *
 * @typedef {object} PollAnswer
 * @property {number} from
 * @property {(string | { base64: string })[]} messages
 * @property {number} next
 * @property {object} [lost]
 * @property {Close} [close]
 * @property {boolean} [superseded]
 * @property {{ after_ms: number }} [reconnect]
 * @property {{ code: string }} [error]
 */

/**
 * Any JSON of the sidecar's: each request has some of these.
 *
 * @typedef {Partial<PollAnswer> & {
 *   n?: string,
 *   sent?: number,
 *   session?: Facts,
 *   sessions?: Record<string, PollAnswer>,
 * }} Body
 */

/**
 * What a request says, as JSON; `null` for a POST without a body, `undefined` for a GET.
 *
 * @typedef {{ nonce: string, protocols: string[] }
 *   | { messages: (string | { base64: string } | undefined)[] }
 *   | { sessions: Record<string, number> }
 *   | { code?: number, reason?: string }
 *   | null
 *   | undefined} RequestBody
 */

/**
 * What came of a request.
 *
 * @typedef {object} Answer
 * @property {number} status 0 when there was no answer.
 * @property {Body | null} body `null` when it was no JSON.
 * @property {number} took Milliseconds.
 * @property {string} url Who answered, behind all redirections.
 */

/** What one tab says to the others. `id` is the tab that speaks.
 * @typedef {object} TabMessage
 * @property {string} [id]
 * @property {string} [to] Only for this tab.
 * @property {boolean} [roll] Who is there?
 * @property {boolean} [bye]
 * @property {number} [wants] Sessions that have or would like a stream.
 * @property {number} [polls] Sessions that poll.
 * @property {Record<string, number>} [carry] Poll for these too: token to cursor.
 * @property {Record<string, PollAnswer>} [told] What came for them.
 */

/** What a page hears when its socket is carried by another transport.
 * @typedef {{ transport: Carrier | "raw", from: Carrier | "raw" | null, cause: string }} Change
 */

/**
 * Who hears of a session. The core only passes it on.
 *
 * @typedef {object} Page
 * @property {(protocol: string, extensions?: string) => void} opened
 * @property {(data: string | Uint8Array<ArrayBuffer>) => void} message
 * @property {(size: number) => void} drained
 * @property {(change: Change) => void} changed
 * @property {(close: Close, failed: boolean) => void} closed Failed is what was never open.
 */

/**
 * What is to be done: a verb and its objects.
 *
 * `request` (its number, address, body and milliseconds of patience): POST, or GET when the body is undefined. Its answer is
 * an event; `cancel` says that nobody waits for it any more.
 * `attach` (with its address), `detach`, `transmit`: begin to read an attachment, let go of it, send on it.
 * `beacon`: a request of a page that goes away.
 * `gather`, `say`: find the other tabs, speak to them.
 * `tell`: let a page hear of an event.
 *
 * @typedef {["request", number, string, RequestBody, number]
 *   | ["cancel", number]
 *   | ["attach", Attachment, string]
 *   | ["detach", Attachment]
 *   | ["transmit", Attachment, string | Uint8Array<ArrayBuffer>]
 *   | ["beacon", string, RequestBody]
 *   | ["gather"]
 *   | ["say", TabMessage]
 *   | { [Event in keyof Page]: ["tell", Page, Event, ...Parameters<Page[Event]>] }[keyof Page]} Action
 */

/**
 * What the core may not have by itself.
 *
 * @typedef {object} Outside
 * @property {() => number} random From 0 to 1, as `Math.random`.
 * @property {(length: number) => string} word So many random letters and digits.
 * @property {() => number} date As `Date.now`.
 * @property {boolean} strict Whether this browser fails a WebSocket that is offered subprotocols and chooses none.
 * @property {() => Record<string, number>} load What `save` was given last, by this tab or another of this origin.
 * @property {(verdicts: Record<string, number>) => void} save
 */

export {};
