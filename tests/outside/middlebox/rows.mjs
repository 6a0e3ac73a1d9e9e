// The boxes of the table: what each does, and on which transport the client should end behind it. `modes` in the words of
// box.mjs; WebSockets are refused where nothing is said of `ws`. Each switch of a row must strike, save those of
// which `never` says that the protocol gives them nothing to strike at.

export const both = mode => ({ sse: mode, stream: mode });
const every = mode => ({ open: mode, sse: mode, stream: mode, poll: mode, send: mode, ack: mode, close: mode });
const open = ws => ({ ws });
const posts = mode => ({ open: mode, send: mode, ack: mode, close: mode });
const held = both("hold");
const ours = ["accept", "accept-encoding", "accept-language", "connection", "content-length", "content-type", "host", "origin", "user-agent"];

export const rows = [
  // --- WebSockets ---
  row("nothing at all", open("pass"), "ws"),
  row("refuses WebSockets with 403", open("kill"), "sse"),
  row("answers WebSockets with a page and 200", open({ kill: 200 }), "sse"),
  row("wants a password for WebSockets only", open({ kill: 407 }), "sse"),
  row("takes `Upgrade` out and sends the rest on", open("strip"), "sse"),
  row("writes `Connection: keep-alive` over `Upgrade`", open({ connection: "keep-alive" }), "sse"),
  row("writes `Connection: keep-alive, Upgrade`", open({ connection: "keep-alive, Upgrade" }), "ws"),
  row("takes `Sec-WebSocket-Extensions` out of the 101", open({ answer: { "sec-websocket-extensions": null } }), "ws", { never: true }),
  row("takes `Sec-WebSocket-Protocol` out of the request", open({ headers: { "sec-websocket-protocol": null } }), "sse"),
  row("takes `Sec-WebSocket-Protocol` out of the 101", open({ answer: { "sec-websocket-protocol": null } }), "sse"),
  row("swallows the handshake", open("swallow"), "sse"),
  row("passes the 101, no frame down", open({ drop: "down" }), "sse"),
  row("passes the 101, no frame up", open({ drop: "up" }), "sse"),
  row("passes the 101, no frame either way", open({ drop: "both" }), "sse"),
  row("kills each WebSocket after 150 ms", open({ young: 150 }), "sse", { last: true }),
  row("resets each WebSocket after 500 ms", open({ cut: { after: 500, how: "rst" } }), "sse", { last: true }),
  row("silences each WebSocket after 1.5 s", open({ cut: { after: 1500, how: "silent" } }), "sse", { last: true }),
  row("closes a WebSocket idle for 5 s", open({ idle: 5000 }), "ws", { never: true, silence: 6000 }),
  row("keeps the backend's side of a WebSocket whose client left", open("ghost"), "ws"),
  row("700 ms each way, WebSockets too", { any: { delay: 700 }, ws: "pass" }, "ws"),
  row("passes streams 20 s late, WebSockets at once", { ...both({ delay: 20000 }), ws: "pass" }, "ws", { never: true }),

  // --- answers held ---
  row("holds event streams to the end", { sse: "hold" }, "stream"),
  row("holds all streams to the end", held, "poll"),
  row("holds what is not asked for as an event stream", both({ hold: ({ request }) => !/event-stream/.test(request.headers.accept) }), "sse", { never: true }),
  row("holds event streams whose type has parameters", { sse: { hold: ({ type }) => type !== "text/event-stream" } }, "sse", { never: true }),
  row("holds the first 2 KiB of streams", both({ until: 2048 }), "poll"),
  row("holds the first 64 KiB of streams", both({ until: 65536 }), "poll"),
  row("passes streams in blocks of 4 KiB", both({ block: 4096 }), "poll"),
  row("gives each event when the next one comes", { sse: "late" }, "stream"),
  row("gives each write of any stream when the next one comes", both("late"), "poll"),
  row("holds the head until the first byte", every("headless"), "sse"),
  row("passes 800 bytes of each event stream, then nothing", { sse: { mute: 800 } }, "stream", { busy: true }),
  row("passes 800 bytes of each stream, then nothing", both({ mute: 800 }), "poll", { busy: true }),
  row("passes streams 20 s late", both({ delay: 20000 }), "poll"),
  row("700 ms later, all of it", { any: { delay: 700 } }, "sse"),
  row("24 kB a second and 300 ms", { any: { delay: 300, rate: 24000 } }, "sse"),

  // --- cuts ---
  row("ends each stream after 2 s", both({ cut: { after: 2000, how: "fin" } }), "poll", { last: true }),
  row("resets each stream after 2 s", both({ cut: { after: 2000, how: "rst" } }), "poll", { last: true }),
  row("silences each stream after 2 s", both({ cut: { after: 2000, how: "silent" } }), "poll", { last: true }),
  row("ends each event stream cleanly after 700 bytes", { sse: { cut: { bytes: 700, how: "clean" } } }, "stream", { busy: true }),
  row("resets three in ten polls within the body", { ...held, poll: { cut: { bytes: 40, how: "rst", chance: 0.3 } } }, "poll"),
  row("cuts three in ten polls short as if they were whole", { ...held, poll: { cut: { bytes: 40, how: "clean", chance: 0.3 } } }, "poll"),
  row("ends streams idle for 5 s", both({ idle: 5000 }), "sse", { never: true, silence: 6000 }),
  row("504 for polls after 3 s", { ...held, poll: { timeout: 3000 } }, "poll", { silence: 6000 }),

  // --- requests ---
  row("sends each GET twice", both("twice"), "sse"),
  row("sends each POST twice", posts("twice"), "sse"),
  row("sends everything twice, streams held", { ...every("twice"), ...held, poll: "twice" }, "poll"),
  row("drops three in ten answers", { ...posts({ lost: 0.3 }), poll: { lost: 0.3 }, ...held }, "poll"),
  row("one answer for the same GETs", { any: "coalesce" }, "sse", { never: true }),
  row("keeps the answers of GETs by URL", { any: "cache", ...held }, "poll", { never: ["cache"] }),
  row("403 for JSON and plain text that is sent", { any: { types: ["application/json", "text/plain"] } }, "sse"),
  row("403 for event streams", { sse: { answerTypes: ["text/event-stream"] } }, "stream"),
  row("403 for both kinds of stream", both({ answerTypes: ["text/event-stream", "application/octet-stream"] }), "poll"),
  row("405 for all but GET and POST", { any: { methods: ["GET", "POST"] } }, "sse", { never: true }),
  row("takes out `Last-Event-ID` and every header it does not know", { any: { only: ours } }, "sse"),
  row("renames `Cache-Control` and `Accept`", { any: { rename: { "cache-control": "x-cache-control", accept: "x-accept" } } }, "sse"),
  row("takes out `Cache-Control` and `X-Accel-Buffering`", { any: { answer: { "cache-control": null, "x-accel-buffering": null } } }, "sse"),
  row("414 beyond 500 bytes of URL", { any: { url: 500 } }, "sse", { never: true }),
  row("413 beyond 120 bytes", { send: { body: 120 } }, "sse"),
  row("writes error pages of its own", { any: "errors" }, "sse", { never: ["errors"] }),
  row("writes a script into text", { sse: { inject: { each: "<script></script>" } } }, "stream"),
  row("writes a script into streams and one in three polls", { ...both({ inject: { each: "<script></script>" } }), poll: { inject: ({ box }) => box.random() < 0.3 && "<script></script>" } }, "poll"),
  row("HTTP/1.0 to the sidecar", { any: "http10" }, "sse"),
  row("two sidecars, by the token's node", { any: "alternate" }, "sse"),
  row("two sidecars, WebSockets too", { any: "alternate", ws: "pass" }, "ws"),
  row("from other addresses in turn", { any: { addresses: ["127.0.0.2", "127.0.0.3", "127.0.0.4"] } }, "sse"),

  // --- changes of network ---
  row("forgets all connections half way, without a word", open("pass"), "ws", { between: "freeze" }),
  row("forgets all connections half way; no WebSockets", open("kill"), "sse", { between: "freeze" }),
  row("forgets all connections half way; holds streams", held, "poll", { between: "freeze" }),
  row("cannot be reached for 3 s half way", open("kill"), "sse", { between: 3000 }),

  // --- those who left ---
  row("reads on when the client of an event stream left", { any: "ghost" }, "sse"),
  row("holds streams and reads on when the client left", { ...both({ hold: true, ghost: true }), poll: "ghost" }, "poll"),
  row("a page to log in, one request in five", { sse: "hold", stream: "hold", poll: portal(), send: portal(), ack: portal(), close: portal() }, "poll"),
];

function portal() { return { portal: ({ box }) => box.random() < 0.2 }; }

// `last`: a socket opened later may still be where it has not been found out yet. `silence`: so long nothing is said, in
// milliseconds. `busy`: messages flow until it is where it should end. `between`: what
// else happens when the box changes: "freeze", or milliseconds for which nobody can be reached.
function row(name, modes, ends, more = {}) {
  return { name, modes: { ws: "kill", ...modes }, ends, ...more };
}
