// What a WebSocket does, written down as a table by functions that run in a page: once with the native class, once with
// ours. The tables must be the same.

// What needs no conversation: the shape of the class, what constructors and methods refuse.
export async function asked(Class, Native) {
  const table = {};
  const tell = (name, act) => {
    try {
      const value = act();
      table[name] = value instanceof Native || value instanceof Class ? `socket ${value.url} ${value.readyState}` : String(value);
      if (value instanceof Native || value instanceof Class) value.close();
    } catch (error) {
      table[name] = `${error.name} ${error instanceof DOMException} ${error instanceof TypeError}`;
    }
  };
  const here = location.origin.replace("http", "ws");
  const urls = [`${here}/echo`, "/echo", "echo?a=b c", location.origin + "/echo", `${here}/é`, `${here}/echo#part`, `${here}/echo#`, "http://", "ws://", "ftp://127.0.0.1/",
    "mailto:a@b", "javascript:0", "", " ", "ws://127.0.0.1:99999/", "ws:/echo", "WS://127.0.0.1:1/", "//" + location.host + "/echo", "ws://user:pass@" + location.host + "/echo", "?q", "blob:x"];
  for (const url of urls) tell(`url ${url}`, () => new Class(url));
  tell("no arguments", () => new Class());
  tell("called", () => Class("/echo"));
  tell("a URL object", () => new Class(new URL("/echo", location.href)));
  for (const protocols of ["", "a", "a b", "a,b", [], ["a", "b"], ["a", "a"], ["a", ""], ["\u00e9"], null, {}, 5, [["a"]], new Set(["x", "y"]), ["a/b"], "{}"]) {
    tell(`protocols ${protocols instanceof Set ? "set" : JSON.stringify(protocols)}`, () => new Class("/echo", protocols));
  }
  const idle = () => new Class("/echo");
  tell("send while connecting", () => { const s = idle(); try { s.send("x"); } finally { s.close(); } });
  tell("send nothing", () => { const s = idle(); try { s.send(); } finally { s.close(); } });
  for (const code of [0, 999, 1000, 1001, 1005, 2999, 3000, 4999, 5000, 65536 + 1000, -1, NaN, "1000", "x", null, 3000.4, Infinity, undefined]) {
    tell(`close ${code}`, () => idle().close(code));
  }
  tell("close with a long reason", () => idle().close(1000, "x".repeat(124)));
  tell("close with a reason of 123", () => idle().close(1000, "x".repeat(123)));
  tell("close with a long reason of few letters", () => idle().close(1000, "é".repeat(62)));
  tell("close with a bad code and a long reason", () => idle().close(1, "x".repeat(124)));
  for (const type of ["blob", "arraybuffer", "", "text", null]) tell(`binaryType ${type}`, () => { const s = idle(); s.binaryType = type; s.close(); return s.binaryType; });
  for (const value of [null, undefined, 5, "f", {}, () => {}]) {
    tell(`onmessage ${typeof value} ${value}`, () => { const s = idle(); s.onmessage = value; s.close(); return s.onmessage === value ? "kept" : s.onmessage; });
  }
  tell("first look", () => { const s = idle(); const { readyState, protocol, extensions, binaryType, bufferedAmount, onopen, onclose } = s; s.close(); return JSON.stringify({ readyState, protocol, extensions, binaryType, bufferedAmount, onopen, onclose }); });
  tell("constants", () => JSON.stringify(["CONNECTING", "OPEN", "CLOSING", "CLOSED"].map(name => [Class[name], Class.prototype[name], Object.getOwnPropertyDescriptor(Class, name), Object.getOwnPropertyDescriptor(Class.prototype, name)])));
  tell("name and length", () => `${Class.name} ${Class.length}`);
  tell("its tag", () => { const s = idle(); s.close(); return Object.prototype.toString.call(s); });
  tell("instanceof", () => { const s = idle(); s.close(); return [s instanceof Class, s instanceof EventTarget, s instanceof WebSocket, {} instanceof Class, null instanceof Class, new Native("ws://127.0.0.1:1/") instanceof WebSocket]; });
  tell("its keys", () => { const s = idle(), keys = []; s.close(); for (const key in s) keys.push(key); return keys.sort(); });
  tell("its own keys", () => { const s = idle(); s.close(); return Reflect.ownKeys(s); });
  tell("the class's own keys", () => Object.keys(Class).sort());
  for (const [place, object] of [["class", Class], ["prototype", Class.prototype]]) {
    for (const key of Object.getOwnPropertyNames(object).sort()) {
      tell(`property ${key} of the ${place}`, () => {
        const { get, set, value, ...may } = Object.getOwnPropertyDescriptor(object, key);
        const looks = [get, set, value].map(part => (typeof part === "function" ? `${part.name} ${part.length}` : typeof part));
        return `${looks} ${JSON.stringify(may)}`;
      });
    }
  }
  tell("symbols of the prototype", () => JSON.stringify(Object.getOwnPropertySymbols(Class.prototype).map(key => [String(key), Object.getOwnPropertyDescriptor(Class.prototype, key)])));
  const far = "ws://127.0.0.1:1/";
  for (const url of ["/echo", far]) {
    class Sub extends Class {
      get readyState() { return 7; }
      hello() { return "hi"; }
    }
    const closed = socket => (socket.close(), socket);
    tell(`a subclass, ${url}`, () => { const s = closed(new Sub(url)); return [s.readyState, s.hello(), s instanceof Sub, s instanceof Class, s.constructor === Sub, s.url]; });
    tell(`no instance of a subclass, ${url}`, () => closed(new Class(url)) instanceof Sub);
    tell(`its class, ${url}`, () => closed(new Class(url)).constructor === Class);
    tell(`made for another class, ${url}`, () => { function Other() {} Other.prototype = Object.create(Class.prototype); const s = closed(Reflect.construct(Class, [url], Other)); return [s instanceof Other, s.url]; });
    tell(`defined anew, ${url}`, () => Object.defineProperty(closed(new Class(url)), "readyState", { value: 9 }).readyState);
    tell(`set what is only read, ${url}`, () => { const s = closed(new Class(url)); s.url = "x"; return s.url === "x"; });
    tell(`set what is only read, strictly, ${url}`, () => { "use strict"; closed(new Class(url)).url = "x"; });
    tell(`through a proxy, ${url}`, () => new Proxy(closed(new Class(url)), {}).url);
    tell(`the prototype changed, ${url}`, () => {
      const { prototype } = Class, { send } = prototype, seen = [];
      const close = Object.getOwnPropertyDescriptor(prototype, "onclose");
      prototype.send = function (data) { seen.push(data); };
      Object.defineProperty(prototype, "onclose", { ...close, set(value) { seen.push("onclose"); close.set.call(this, value); } });
      try {
        const s = closed(new Class(url));
        s.send("x");
        s.onclose = null;
        return seen;
      } finally {
        prototype.send = send;
        Object.defineProperty(prototype, "onclose", close);
      }
    });
    tell(`methods of its own, ${url}`, () => {
      const seen = [];
      class Own extends Class {
        addEventListener(...values) { seen.push("add"); super.addEventListener(...values); }
        dispatchEvent(event) { seen.push("dispatch"); return super.dispatchEvent(event); }
      }
      closed(new Own(url)).onopen = () => {};
      return seen;
    });
  }
  for (const [name, act] of Object.entries({
    "url of the prototype": () => Class.prototype.url, "send of the prototype": () => Class.prototype.send("x"),
    "close of something else": () => Class.prototype.close.call({}), "a method as a constructor": () => new Class.prototype.close(),
  })) tell(name, act);
  tell("the order of listeners", () => {
    const s = idle(), order = [];
    s.addEventListener("x", () => order.push("x"));
    s.onclose = () => order.push("never");
    s.addEventListener("close", () => order.push("second"));
    s.onclose = () => order.push("first");
    s.dispatchEvent(new Event("close"));
    s.onclose = null;
    s.onclose = () => order.push("last");
    s.dispatchEvent(new Event("close"));
    s.close();
    return order;
  });
  return table;
}

// Conversations with the backend: what is told, in which order.
export async function conversed(Class) {
  const table = {};
  const record = (socket, log, extra = {}) => {
    for (const type of ["open", "message", "error", "close"]) {
      socket.addEventListener(type, event => {
        const about = { message: () => [typeof event.data === "string" ? event.data : Object.prototype.toString.call(event.data), event.origin, event.lastEventId, event.source, event.ports.length],
          close: () => [event.code, event.reason, event.wasClean] }[type]?.() ?? [];
        log.push([type, socket.readyState, Object.prototype.toString.call(event), event.bubbles, event.cancelable, event.target === socket, ...about]);
        extra[type]?.(socket, event);
      });
    }
    return new Promise(done => socket.addEventListener("close", () => setTimeout(done, 50)));
  };
  const talk = async (name, path, extra, protocols) => {
    const log = [], socket = new Class(path, protocols);
    await record(socket, log, extra);
    table[name] = log;
    table[name + ", afterwards"] = [socket.readyState, socket.protocol, socket.url, socket.bufferedAmount];
  };
  await Promise.all([
    talk("echo and close with code and reason", "/echo", { open: s => { s.send("a"); s.send("é"); }, message: (s, { data }) => data === "é" && s.close(3001, "done") }),
    talk("close without a code", "/echo", { open: s => s.close() }),
    talk("close with 1000", "/echo", { open: s => s.close(1000) }),
    (async () => {
      const log = [], socket = new Class("/echo");
      const over = record(socket, log);
      socket.close();
      log.push(["after close", socket.readyState]);
      await over;
      table["close while connecting"] = log;
    })(),
    talk("the backend closes", "/echo", { open: s => s.send("close 4001 because") }),
    talk("the backend closes without a code", "/echo", { open: s => s.send("close 1005") }),
    talk("the backend closes with 1000", "/echo", { open: s => s.send("close 1000 ok") }),
    talk("the backend vanishes", "/echo", { open: s => s.send("drop") }),
    talk("nobody is there", "/dead", {}),
    talk("a subprotocol", "/echo", { open: s => s.close(1000) }, ["a.b", "c"]),
    talk("a blob", "/echo", { open: s => s.send(new Uint8Array([1, 2])), message: s => s.close(1000) }),
    talk("an array buffer", "/echo", { open: s => { s.binaryType = "arraybuffer"; s.send(new Uint8Array([1, 2])); }, message: s => s.close(1000) }),
    talk("what is sent after close", "/echo", { open: s => { s.close(1000); s.send("12345"); s.send(new Blob(["678"])); s.send(new ArrayBuffer(2)); } }),
    talk("a handler that throws", "/echo", { open: s => { s.send("1"); s.send("2"); }, message: (s, { data }) => { if (data === "2") s.close(1000); else setTimeout(() => {}); } }),
    (async () => {
      // Microtasks and timers between messages: one task for each.
      const socket = new Class("/echo"), order = [];
      socket.onopen = () => socket.send("burst 4");
      await new Promise(done => {
        socket.onmessage = ({ data }) => {
          order.push(data);
          Promise.resolve().then(() => order.push("then " + data));
          if (data === "b4") setTimeout(done, 20);
        };
      });
      socket.close();
      table["one task for each message"] = order;
    })(),
    (async () => {
      const socket = new Class("/echo"), seen = [];
      await new Promise(done => { socket.onopen = done; });
      socket.send("é");
      seen.push(socket.bufferedAmount);
      const buffer = new Uint8Array([1, 2, 3]);
      socket.binaryType = "arraybuffer";
      socket.send(buffer);
      buffer.fill(9);
      seen.push(socket.bufferedAmount);
      const got = [];
      await new Promise(done => { socket.onmessage = ({ data }) => { got.push(typeof data === "string" ? data : [...new Uint8Array(data)]); if (got.length === 2) done(); }; });
      table["what is sent is what it was"] = [seen, got];
      socket.close();
    })(),
  ]);
  return table;
}
