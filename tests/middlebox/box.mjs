// A box between browser and sidecar that breaks what it is asked to. It serves the test page itself.
import http from "node:http";
import net from "node:net";

export class Box {
  // ws: pass, kill (403), swallow (no answer), mute (nothing comes down behind the 101), young (cut after 150 ms)
  // sse, stream: pass, hold (until the end), late (each write when the next one comes), mute (from now on)
  // poll: pass, portal (a page instead)      send: pass, twice, lost (the answer is)
  modes = {};
  sockets = new Set();
  held = 0; most = 0; requests = [];

  static async start(site) {
    const box = new Box();
    const [host, port] = site.split(":");
    Object.assign(box, { host, port });
    box.server = http.createServer((request, response) => box.serve(request, response));
    box.server.keepAliveTimeout = 30000;
    box.server.on("upgrade", (request, socket, head) => box.upgrade(request, socket, head));
    box.server.on("connection", socket => {
      if (box.modes.offline) return socket.destroy();
      box.sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => box.sockets.delete(socket));
    });
    await new Promise(done => box.server.listen(0, "127.0.0.1", done));
    box.url = `http://127.0.0.1:${box.server.address().port}`;
    return box;
  }

  // Cuts all connections now.
  cut() { for (const socket of this.sockets) socket.destroy(); }

  serve(request, response) {
    const path = request.url;
    if (path.startsWith("/page")) return this.page(request, response);
    if (path === "/favicon.ico") return response.writeHead(204).end();
    this.requests.push(`${request.method} ${path}`);
    const bodies = [];
    request.on("data", chunk => bodies.push(chunk));
    request.on("end", () => {
      const body = Buffer.concat(bodies);
      if (this.modes.poll === "portal" && /poll/.test(path)) return response.writeHead(200, { "Content-Type": "text/html" }).end("<p>Log in!</p>");
      const twice = this.modes.send === "twice" && /\/send/.test(path);
      if (twice) this.pass(request, body, null, path);
      setTimeout(() => this.pass(request, body, response, path), twice ? 5 : 0);
    });
    const holds = /\/(sse|stream|poll)\b/.test(path);
    if (holds) {
      this.most = Math.max(this.most, ++this.held);
      response.on("close", () => this.held--);
    }
  }

  pass(request, body, response, path) {
    const { host, port } = this;
    const onward = http.request({ host, port, path, method: request.method, headers: { ...request.headers, connection: "close" } }, answer => {
      if (!response) return answer.resume();
      if (this.modes.send === "lost" && /\/send/.test(path) && Math.random() < 0.3) return answer.resume(), response.destroy();
      const type = answer.headers["content-type"] || "";
      const mode = /event-stream/.test(type) ? this.modes.sse : /octet-stream/.test(type) ? this.modes.stream : "pass";
      const headers = { ...answer.headers };
      delete headers.connection;
      delete headers["transfer-encoding"];
      const muted = () => (/event-stream/.test(type) && this.modes.sse === "mute") || (/octet-stream/.test(type) && this.modes.stream === "mute");
      const chunks = [];
      if (mode !== "hold") response.writeHead(answer.statusCode, headers), response.flushHeaders();
      answer.on("data", chunk => {
        if (muted()) return;
        if (mode === "hold") chunks.push(chunk);
        else if (mode === "late") { if (chunks.length) response.write(chunks.shift()); chunks.push(chunk); }
        else response.write(chunk);
      });
      answer.on("end", () => {
        if (mode === "hold") response.writeHead(answer.statusCode, headers);
        response.end(Buffer.concat(chunks));
      });
      answer.on("error", () => response.destroy());
    });
    onward.on("error", () => response?.destroy());
    response?.on("close", () => onward.destroy());
    onward.end(body);
  }

  upgrade(request, socket, head) {
    const mode = /\/log/.test(request.url) ? "pass" : this.modes.ws;
    socket.on("error", () => {});
    if (mode === "swallow") return;
    if (mode === "kill") return socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    const onward = net.connect(this.port, this.host, () => {
      const lines = [`${request.method} ${request.url} HTTP/1.1`];
      for (let at = 0; at < request.rawHeaders.length; at += 2) lines.push(`${request.rawHeaders[at]}: ${request.rawHeaders[at + 1]}`);
      onward.write(lines.join("\r\n") + "\r\n\r\n");
      onward.write(head);
      socket.pipe(onward);
      let answered = false;
      onward.on("data", chunk => {
        const end = chunk.indexOf("\r\n\r\n");
        if (mode !== "mute") socket.write(chunk);
        else if (!answered) socket.write(chunk.subarray(0, end + 4)), (answered = true);
      });
      onward.on("end", () => socket.end());
      if (mode === "young") setTimeout(() => { socket.destroy(); onward.destroy(); }, 150);
    });
    onward.on("error", () => socket.destroy());
    onward.on("close", () => socket.destroy());
    socket.on("close", () => onward.destroy());
  }

  // /page?data-transports=sse: the attributes of the script tag
  page(request, response) {
    const { searchParams } = new URL(request.url, this.url);
    const attributes = [...searchParams].map(([name, value]) => `${name}="${value}"`).join(" ");
    response.writeHead(200, { "Content-Type": "text/html" });
    response.end(`<!doctype html><title>test</title><script>window.Native = WebSocket</script>
      <script src="/_underpass/client.js" ${attributes}></script><script>(${inPage})()</script>`);
  }
}

// What test pages have at hand.
export function inPage() {
  window.wait = ms => new Promise(done => setTimeout(done, ms));
  window.until = async (what, test, patience = 12000) => {
    for (const end = Date.now() + patience; Date.now() < end; await wait(10)) {
      const value = await test();
      if (value) return value;
    }
    throw new Error("waited in vain for " + what);
  };
  // A socket with a record of all that happened to it.
  window.open_ = (path, protocols, Class = WebSocket) => {
    const socket = new Class(path, protocols);
    socket.binaryType = "arraybuffer";
    socket.moves = [];
    socket.got = [];
    socket.addEventListener("underpass", ({ detail }) => socket.moves.push(detail));
    socket.addEventListener("message", ({ data }) => socket.got.push(data));
    socket.addEventListener("close", ({ code, reason, wasClean }) => { socket.ended = { code, reason, wasClean }; });
    return socket;
  };
  window.opened = socket => until("open", () => socket.readyState === 1 || (socket.ended && (() => { throw new Error("closed: " + JSON.stringify(socket.ended)); })()));
  window.on = (socket, transport) => until("transport " + transport + ", it moved " + JSON.stringify(socket.moves), () => socket.moves.at(-1)?.transport === transport);
  // The backend's own record of a path.
  window.log = async part => {
    const socket = new Native(location.origin.replace("http", "ws") + "/log");
    const lines = await new Promise(done => {
      socket.onopen = () => socket.send(part);
      socket.onmessage = ({ data }) => done(data);
    });
    socket.close();
    return lines ? lines.split("\n") : [];
  };
}
