// @ts-check
// Bytes and texts: base64, and the frames that a stream and a WebSocket carry (docs/PROTOCOL.md, section 5.2).
//
// Enters: bytes as they come. Leaves: frames, and what an attachment is to be told of each. Must not touch: where the
// bytes come from.

/** @typedef {import("./attachment.js").Attachment} Attachment */
/** @typedef {Uint8Array<ArrayBuffer>} Bytes */

const TEXT = 1;
const BINARY = 2;
const CLOSE = 8;
const HEARTBEAT = 9;
const ACK = 10;
const FACTS = 11;
const LOST = 12;
const SUPERSEDED = 13;
const RECONNECT = 14;

/** Kind and length. */
const HEAD = 5;

export const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** @param {string} text */
export function fromBase64(text) {
  return Uint8Array.from(atob(text), char => char.charCodeAt(0));
}

/** @param {Bytes} bytes */
export function toBase64(bytes) {
  // Functions take only so many arguments.
  const most = 8192;
  let text = "";
  for (let at = 0; at < bytes.length; at += most) {
    text += String.fromCharCode(...bytes.subarray(at, at + most));
  }
  return btoa(text);
}

/**
 * Reads the frames of a stream, whatever pieces it comes in. Returns what takes the pieces.
 *
 * @param {(kind: number, payload: Bytes) => void} receive
 */
export function readFrames(receive) {
  // What came of the next frame.
  let rest = new Uint8Array(0);
  return /** @param {Uint8Array} piece */ piece => {
    const bytes = new Uint8Array(rest.length + piece.length);
    bytes.set(rest);
    bytes.set(piece, rest.length);
    const view = new DataView(bytes.buffer);
    let at = 0;
    while (bytes.length - at >= HEAD) {
      const end = at + HEAD + view.getUint32(at + 1);
      if (end > bytes.length) break;
      receive(bytes[at], bytes.subarray(at + HEAD, end));
      at = end;
    }
    rest = bytes.subarray(at);
  };
}

/**
 * The WebSocket frame that acknowledges all messages down to `cursor`.
 *
 * @param {number} cursor
 */
export function ackFrame(cursor) {
  const bytes = new Uint8Array(9);
  bytes[0] = ACK;
  new DataView(bytes.buffer).setBigUint64(1, BigInt(cursor));
  return bytes;
}

/**
 * The WebSocket frame of a message.
 *
 * @param {string | undefined} text
 * @param {Bytes} [bytes]
 */
export function messageFrame(text, bytes) {
  if (!bytes) return TEXT + /** @type {string} */ (text);
  const frame = new Uint8Array(bytes.length + 1);
  frame[0] = BINARY;
  frame.set(bytes, 1);
  return frame;
}

/**
 * Tells an attachment what a frame says. Throws when the frame is malformed.
 *
 * @param {Attachment} attachment
 * @param {number} kind
 * @param {Bytes} payload
 */
export function receiveFrame(attachment, kind, payload) {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const number = () => Number(view.getBigUint64(0));
  switch (kind) {
    case TEXT: return attachment.unnumbered(decoder.decode(payload), payload.length);
    case BINARY: return attachment.unnumbered(payload.slice(), payload.length);
    case CLOSE: return attachment.closed(attachment.number + 1, {
      code: view.getUint16(0),
      reason: decoder.decode(payload.subarray(3)),
      clean: !!view.getUint8(2),
    });
    case HEARTBEAT: return attachment.beat(number());
    case ACK: return attachment.accepted(number());
    case FACTS: return attachment.begun(JSON.parse(decoder.decode(payload)));
    case LOST: return attachment.session.fail();
    case SUPERSEDED: return attachment.end("superseded");
    case RECONNECT: return attachment.end("recycled", view.getUint32(0));
  }
}
