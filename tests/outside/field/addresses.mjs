// What browsers and fronts decide by the address: a session is opened at the WebSocket's own.
import { execFile } from "node:child_process";
import { HTML, PAGE, asked, expect, talk } from "./stage.mjs";

const BASIC = "Basic " + Buffer.from("anna:sesam").toString("base64");

export const addresses = {
  // Notebook hubs, servlet containers, everything with a configured base path.
  async "cookies with a path come as they do on the native handshake"(stage) {
    const seen = [];
    const backend = await stage.backend({
      pages: { "/app/": (_, response) => response.writeHead(200, { ...HTML, "Set-Cookie": ["sid=right; Path=/app; HttpOnly", "theme=dark; Path=/", "other=x; Path=/elsewhere"] }).end(PAGE) },
      ws: { verifyClient: ({ req }, say) => { seen.push(req.headers.cookie); say(/sid=right/.test(req.headers.cookie), 401, "no session"); } },
    });
    const cookies = {};
    for (const [way, port] of Object.entries(await stage.ways(backend))) {
      const page = await stage.page(`http://localhost:${port}/app/`);
      const told = await page.run(talk, `ws://localhost:${port}/app/ws`);
      cookies[way] = seen.at(-1).split("; ").sort().join("; ");
      expect(told.got === "hi", way, { told, seen });
    }
    expect(cookies.blocked === cookies.native && cookies.passing === cookies.native, "the same cookies", cookies);
  },

  // Balancers set their stickiness so, frameworks renew sessions so.
  async "cookies of the 101 are kept, at the path where they belong"(stage) {
    const backend = await stage.backend({
      pages: { "/app/": PAGE, "/app/seen": (request, response) => response.end(request.headers.cookie || ""), "/seen": (request, response) => response.end(request.headers.cookie || "") },
      answer: ["Set-Cookie: node=7", "Set-Cookie: renewed=1; Path=/; HttpOnly"],
    });
    for (const [way, port] of Object.entries(await stage.ways(backend))) {
      const page = await stage.page(`http://localhost:${port}/app/`);
      await page.run(() => { document.cookie = "node=; Max-Age=0; path=/app"; });
      const told = await page.run(talk, `ws://localhost:${port}/app/ws`);
      const [here, above] = await page.run(async () => Promise.all(["/app/seen", "/seen"].map(async path => (await fetch(path)).text())));
      expect(told.got === "hi" && /node=7/.test(here) && /renewed=1/.test(here), way, { told, here });
      expect(!/node=7/.test(above) && /renewed=1/.test(above), `${way}, default path`, { above });
    }
  },

  async "credentials that the browser knows for a path go with the opening"(stage) {
    const handshakes = [];
    const backend = await stage.backend({
      pages: { "/app/": (request, response) => request.headers.authorization === BASIC
        ? response.writeHead(200, HTML).end(PAGE)
        : response.writeHead(401, { "WWW-Authenticate": 'Basic realm="app"' }).end() },
      ws: { verifyClient: ({ req }, say) => { handshakes.push(req.headers.authorization); say(true); } },
    });
    const told = {};
    for (const [way, port] of Object.entries(await stage.ways(backend))) {
      const page = await stage.page(`http://anna:sesam@localhost:${port}/app/`);
      const { got } = await page.run(talk, `ws://localhost:${port}/app/ws`);
      told[way] = [got, handshakes.at(-1)];
    }
    expect(told.blocked[0] === "hi" && told.blocked[1] === told.native[1], "the same credentials", told);
  },

  // Browsers send them when they are asked to; ours sends them at once, for nobody must be asked.
  async "credentials in the URL let in whom they let in natively"(stage) {
    const backend = await stage.backend({
      pages: { "/": PAGE },
      ws: { verifyClient: ({ req }, say) => say(req.headers.authorization === BASIC, 401, "who?", { "WWW-Authenticate": 'Basic realm="app"' }) },
    });
    const told = {};
    for (const [way, port] of Object.entries(await stage.ways(backend))) {
      const page = await stage.page(`http://localhost:${port}/`);
      const { got, url, code } = await page.run(talk, `ws://anna:sesam@localhost:${port}/x`);
      told[way] = JSON.stringify({ got, code, url: url?.replace(port, "PORT") });
    }
    expect(told.blocked === told.native && told.passing === told.native && /hi/.test(told.native), "the same", told);
  },

  // A browser asks nobody because of a WebSocket.
  async "a refused handshake asks nobody for a password"(stage) {
    const backend = await stage.backend({ pages: { "/": PAGE }, ws: { verifyClient: (_, say) => say(false, 401, "who?", { "WWW-Authenticate": 'Basic realm="app"' }) } });
    for (const [way, port] of Object.entries(await stage.ways(backend))) {
      const page = await stage.page(`http://localhost:${port}/`), begun = Date.now();
      const told = await page.run(talk, `ws://localhost:${port}/x`);
      expect(told.code === 1006 && told.events.join() === "error,close" && Date.now() - begun < 5000, way, { told, took: Date.now() - begun });
    }
  },

  async "a front's rule for a path holds"(stage) {
    const backend = await stage.backend({ pages: { "/admin/": "secret", "/": PAGE } });
    const up = await stage.sidecar(backend);
    const front = await stage.front(up, { meddle: ({ url }, response) => /^\/admin\//.test(url) && response.writeHead(403).end("no") });
    const page = await stage.page(`http://localhost:${front.port}/`);
    const told = await page.run(talk, `ws://localhost:${front.port}/admin/`);
    expect(told.code === 1006 && !told.got, "the front refuses", told);
    expect(!backend.seen.some(({ url, socket }) => /admin/.test(url || socket)), "the backend hears nothing of it", backend.seen);
  },

  // The application writes its addresses with the path that the front takes away.
  async "below a path that the front takes away, whatever the front says of it"(stage) {
    const own = `<!doctype html><title>x</title><script src="/app/_underpass/client.js"></script>`;
    const relative = `<!doctype html><title>x</title><script src="../_underpass/client.js"></script>`;
    const backend = await stage.backend({ pages: { "/": PAGE, "/deep/er/page": PAGE, "/own": own, "/deep/relative": relative } });
    for (const [trusting, fields] of [["", {}], ['trusted_proxies = ["127.0.0.1"]\n', { "X-Forwarded-Prefix": "/app" }]]) {
      const up = await stage.sidecar(backend, `inject = true\n${trusting}`);
      for (const upgrades of [true, false]) {
        const front = await stage.front(up, { strip: "/app", upgrades, fields });
        for (const path of upgrades ? ["/deep/er/page", "/own"] : ["/", "/deep/er/page", "/deep/relative"]) {
          const page = await stage.page(`http://localhost:${front.port}/app${path}`);
          expect(await page.run(() => typeof underpass === "object"), "the script is there", { path, fields });
          const told = await page.run(talk, `ws://localhost:${front.port}/app/chat?room=1`);
          expect(told.got === "hi" && told.by.length, "it talks", { path, upgrades, told });
          expect(asked(backend).socket === "/chat?room=1", "the backend is asked as natively", asked(backend));
        }
      }
    }
  },

  async "below a path that the front adds"(stage) {
    const backend = await stage.backend({ pages: { "/base/": PAGE, "/base/a/b": PAGE } });
    const up = await stage.sidecar(backend, 'inject = true\nprefix = "/base/_underpass"\n');
    for (const upgrades of [true, false]) {
      const front = await stage.front(up, { add: "/base", upgrades });
      for (const path of ["/", "/a/b"]) {
        const page = await stage.page(`http://localhost:${front.port}${path}`);
        const told = await page.run(talk, `ws://localhost:${front.port}/chat`);
        expect(told.got === "hi" && told.by.length, "it talks", { path, upgrades, told });
        expect(asked(backend).socket === "/base/chat", "the backend is asked as natively", asked(backend));
      }
    }
  },

  async "the self-test works below a path that the front takes away"(stage) {
    const up = await stage.sidecar(await stage.backend(), "selftest = true\n");
    const front = await stage.front(up, { strip: "/app" });
    const page = await stage.page(`http://localhost:${front.port}/app/_underpass/selftest?seconds=8`);
    const cells = await page.run(async () => {
      const rows = ["sse", "stream", "poll", "post"], shown = row => document.getElementById(row).cells[1].textContent;
      for (let tries = 0; tries < 150 && !rows.every(row => /^yes/.test(shown(row))); tries++) await new Promise(done => setTimeout(done, 100));
      return rows.map(shown);
    });
    expect(cells.every(cell => /^yes/.test(cell)), "all open", cells);
  },

  async "the probe works below a path that the front takes away"(stage) {
    const up = await stage.sidecar(await stage.backend(), "selftest = true\n");
    const front = await stage.front(up, { strip: "/app" });
    const told = await new Promise(done => execFile(stage.program, ["probe", `http://127.0.0.1:${front.port}/app/_underpass`, "--seconds", "8"], (_, said) => done(said)));
    for (const name of ["sse", "stream", "poll", "POST"]) expect(new RegExp(`^${name} +yes`, "m").test(told), name, told);
  },
};
