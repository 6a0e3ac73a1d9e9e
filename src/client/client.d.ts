/** The types of underpass' browser client: `import { WebSocket } from "…/_underpass/client.mjs"`, or `from "underpass-client"`. */

/** The way in which a socket's messages travel; `raw` is a plain WebSocket to the backend. */
export type Transport = "ws" | "sse" | "stream" | "poll" | "raw";

/** What `underpass` events tell: a socket came to be carried by another transport, and why. */
export interface TransportChange {
  transport: Transport;
  from: Transport | null;
  cause: string;
}

export interface UnderpassWebSocketEventMap extends WebSocketEventMap {
  underpass: CustomEvent<TransportChange>;
}

/** A drop-in for the browser's `WebSocket`. For URLs of other origins than the sidecar's it gives native ones. */
export class WebSocket extends globalThis.WebSocket {
  constructor(url: string | URL, protocols?: string | string[]);
  addEventListener<K extends keyof UnderpassWebSocketEventMap>(
    type: K,
    listener: (this: WebSocket, event: UnderpassWebSocketEventMap[K]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

/** The script's settings; they hold for sockets made from then on. */
export interface Options {
  /** The sidecar's address with its prefix and a slash behind it; of another origin with `credentials` "include", as a rule. */
  base: string;
  /** Which transports may be used, best first. */
  transports: Exclude<Transport, "raw">[];
  /** `session` (the default) survives cuts and changes of transport; `raw` tries a plain WebSocket first. */
  ws: "session" | "raw";
  /** Of its requests, as of `fetch`; `include` for a sidecar of another origin. */
  credentials: "omit" | "same-origin" | "include";
  /** One console line for each change of transport. */
  debug: boolean;
}

export const options: Options;

/** Replaces the page's `WebSocket`. The script does so by itself, the module does not. */
export function install(): void;

export default WebSocket;
