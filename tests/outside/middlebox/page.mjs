// The test page, and what it has at hand.

// /page?data-transports=sse: the attributes of the script tag
export function page(request, response, origin) {
  const { searchParams } = new URL(request.url, origin);
  const attributes = [...searchParams].map(([name, value]) => `${name}="${value}"`).join(" ");
  response.writeHead(200, { "Content-Type": "text/html" });
  response.end(`<!doctype html><title>test</title><script>window.Native = WebSocket</script>
    <script src="/_underpass/client.js" ${attributes}></script><script>(${inPage})()</script>`);
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
