// Headless Firefox over WebDriver BiDi, with the same methods as Chromium's in browser.mjs.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import WebSocket from "../real/node_modules/ws/wrapper.mjs";

// Beside what Firefox sets by itself when it is remotely controlled. Without the fork server all processes are children.
const quiet = {
  "browser.startup.page": 0, "network.captive-portal-service.enabled": false, "network.connectivity-service.enabled": false,
  "dom.ipc.forkserver.enable": false,
};
const direct = { "network.proxy.type": 0 };
const through = ({ hostname, port }) => ({
  "network.proxy.type": 1, "network.proxy.allow_hijacking_localhost": true, "network.proxy.no_proxies_on": "",
  "network.proxy.http": hostname, "network.proxy.http_port": +port, "network.proxy.ssl": hostname, "network.proxy.ssl_port": +port,
});

export class Browser {
  // Through a proxy, loopback too, or through none. One that opens TLS signs with an authority that nobody knows.
  static async start(proxy) {
    const browser = new Browser();
    browser.home = mkdtempSync(join(tmpdir(), "underpass-firefox-"));
    const prefs = Object.entries({ ...quiet, ...(proxy ? through(new URL(proxy)) : direct) });
    writeFileSync(join(browser.home, "user.js"), prefs.map(([name, value]) => `user_pref("${name}", ${JSON.stringify(value)});\n`).join(""));
    // It would go on when we are killed; this ends it with us.
    browser.process = spawn("setpriv", ["--pdeathsig", "KILL", "firefox-esr", "--headless", "--no-remote", "--profile", browser.home, "--remote-debugging-port", "0",
      "about:blank"], { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, HOME: browser.home, MOZ_CRASHREPORTER_DISABLE: "1" } });
    browser.waiting = new Map();
    browser.count = 0;
    browser.pages = new Map();
    const address = await new Promise((done, fail) => {
      let said = "";
      browser.process.stderr.on("data", chunk => {
        if (said.length > 100000) return;
        said += chunk;
        const address = /BiDi listening on (ws:\S+)\s/.exec(said);
        if (address) done(address[1]);
      });
      browser.process.once("exit", () => fail(new Error("Firefox ended: " + said)));
    });
    browser.socket = new WebSocket(address + "/session", { perMessageDeflate: false });
    browser.socket.on("message", data => browser.hear(JSON.parse(data)));
    await new Promise((done, fail) => browser.socket.once("open", done).once("error", fail));
    await browser.call("session.new", { capabilities: { alwaysMatch: { acceptInsecureCerts: true } } });
    await browser.call("session.subscribe", { events: ["log.entryAdded"] });
    return browser;
  }

  hear({ id, type, result, error, message, method, params }) {
    if (type === "event") return this.pages.get(params.source?.context)?.hear(method, params);
    const { done, fail } = this.waiting.get(id) ?? {};
    this.waiting.delete(id);
    if (type === "error") fail?.(new Error(`${error}: ${message}`)); else done?.(result);
  }

  call(method, params = {}) {
    const id = ++this.count;
    this.socket.send(JSON.stringify({ id, method, params }));
    return new Promise((done, fail) => this.waiting.set(id, { done, fail }));
  }

  // A set of pages with storage and connections of its own.
  async context() { return new Context(this, (await this.call("browser.createUserContext")).userContext); }

  async stop() {
    this.call("browser.close").catch(() => {});
    await Promise.race([new Promise(done => this.process.once("exit", done)), new Promise(done => setTimeout(done, 5000))]);
    this.process.kill("SIGKILL");
    rmSync(this.home, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }
}

class Context {
  constructor(browser, id) { Object.assign(this, { browser, id }); }
  // In a window of its own: tabs behind another are hidden, and their timers slow.
  async page(url) {
    const { context } = await this.browser.call("browsingContext.create", { type: "window", userContext: this.id });
    const page = new Page(this.browser, context);
    this.browser.pages.set(context, page);
    await page.go(url);
    return page;
  }
  close() { return this.browser.call("browser.removeUserContext", { userContext: this.id }); }
}

class Page {
  console = [];
  constructor(browser, id) { Object.assign(this, { browser, id }); }
  call(method, params) { return this.browser.call(method, { context: this.id, ...params }); }
  hear(method, { type, text }) {
    if (method === "log.entryAdded") this.console.push(type === "javascript" ? "thrown: " + text : text);
  }
  go(url) { return this.call("browsingContext.navigate", { url, wait: "complete" }); }
  async back() {
    const here = await this.run(() => location.href);
    await this.call("browsingContext.traverseHistory", { delta: -1 });
    while (await this.run(() => location.href) === here) await new Promise(done => setTimeout(done, 50));
  }
  offline(offline) {
    return this.browser.call("emulation.setNetworkConditions", { networkConditions: offline ? { type: "offline" } : null, contexts: [this.id] });
  }
  // Runs a function in the page and gives what it resolves to.
  async run(act, ...args) {
    const functionDeclaration = `async () => JSON.stringify(await (${act})(...${JSON.stringify(args)}))`;
    const { type, result, exceptionDetails } = await this.browser.call("script.callFunction", { functionDeclaration, awaitPromise: true, target: { context: this.id } });
    if (type === "exception") throw new Error(exceptionDetails.text);
    return result.value === undefined ? undefined : JSON.parse(result.value);
  }
  // Its process dies, as do all that hold pages: nothing in it can say goodbye.
  die() {
    const threads = `/proc/${this.browser.process.pid}/task`;
    for (const thread of readdirSync(threads)) {
      for (const child of read(`${threads}/${thread}/children`).split(" ").filter(Boolean)) {
        if (read(`/proc/${child}/cmdline`).endsWith("\0tab\0")) process.kill(+child, "SIGKILL");
      }
    }
  }
  close() { return this.call("browsingContext.close"); }
}

// What a thread or a process that just ended would have said: nothing.
function read(path) { try { return readFileSync(path, "utf8"); } catch { return ""; } }
