// Headless Chromium over its debugging pipe: contexts, pages, and functions that run in pages. The same methods drive
// Firefox in firefox.mjs.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-default-apps", "--remote-debugging-pipe"];

export class Browser {
  // Through a proxy, loopback too, or through none. One that opens TLS signs with an authority that nobody knows.
  static async start(proxy) {
    const way = proxy ? [`--proxy-server=${proxy}`, "--proxy-bypass-list=<-loopback>", "--ignore-certificate-errors"] : ["--no-proxy-server"];
    const browser = new Browser();
    browser.home = mkdtempSync(join(tmpdir(), "underpass-chromium-"));
    browser.process = spawn("chromium", [...flags, ...way, `--user-data-dir=${browser.home}`, "about:blank"],
      { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    browser.waiting = new Map();
    browser.count = 0;
    browser.pages = new Map();
    let rest = Buffer.alloc(0);
    browser.process.stdio[4].on("data", chunk => {
      rest = Buffer.concat([rest, chunk]);
      for (let end; (end = rest.indexOf(0)) >= 0; rest = rest.subarray(end + 1)) browser.hear(JSON.parse(rest.subarray(0, end)));
    });
    return browser;
  }

  hear({ id, result, error, method, params, sessionId }) {
    if (id) {
      const { done, fail } = this.waiting.get(id);
      this.waiting.delete(id);
      if (error) fail(new Error(error.message)); else done(result);
    } else this.pages.get(sessionId)?.hear(method, params);
  }

  call(method, params = {}, sessionId) {
    const id = ++this.count;
    this.process.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + "\0");
    return new Promise((done, fail) => this.waiting.set(id, { done, fail }));
  }

  // A set of pages with storage and connections of its own.
  async context() { return new Context(this, (await this.call("Target.createBrowserContext")).browserContextId); }

  async stop() {
    this.process.stdio[3].write(JSON.stringify({ id: 1e9, method: "Browser.close" }) + "\0");
    this.waiting.set(1e9, { done() {}, fail() {} });
    await Promise.race([new Promise(done => this.process.once("exit", done)), new Promise(done => setTimeout(done, 3000))]);
    this.process.kill("SIGKILL");
    rmSync(this.home, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }
}

class Context {
  constructor(browser, id) { Object.assign(this, { browser, id }); }
  async page(url) {
    const { targetId } = await this.browser.call("Target.createTarget", { url: "about:blank", browserContextId: this.id });
    const { sessionId } = await this.browser.call("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page(this.browser, sessionId, targetId);
    this.browser.pages.set(sessionId, page);
    for (const domain of ["Page", "Runtime", "Network", "Log"]) await page.call(`${domain}.enable`);
    await page.go(url);
    return page;
  }
  close() { return this.browser.call("Target.disposeBrowserContext", { browserContextId: this.id }); }
}

class Page {
  console = []; waiters = [];
  // What the browser itself has written into the console.
  complaints = [];
  constructor(browser, sessionId, targetId) { Object.assign(this, { browser, sessionId, targetId }); }
  call(method, params) { return this.browser.call(method, params, this.sessionId); }
  hear(method, params) {
    if (method === "Runtime.consoleAPICalled") this.console.push(params.args.map(arg => arg.value ?? arg.description).join(" "));
    if (method === "Runtime.exceptionThrown") this.console.push("thrown: " + (params.exceptionDetails.exception?.description ?? params.exceptionDetails.text));
    if (method === "Log.entryAdded") this.complaints.push(params.entry.text);
    for (const waiter of this.waiters) if (waiter.method === method) waiter.done(params);
    this.waiters = this.waiters.filter(waiter => waiter.method !== method);
  }
  next(method) { return new Promise(done => this.waiters.push({ method, done })); }
  async go(url) {
    const loaded = this.next("Page.loadEventFired");
    await this.call("Page.navigate", { url });
    await loaded;
  }
  async back() {
    const { currentIndex, entries } = await this.call("Page.getNavigationHistory");
    const shown = this.next("Page.frameNavigated");
    await this.call("Page.navigateToHistoryEntry", { entryId: entries[currentIndex - 1].id });
    await shown;
  }
  offline(offline) {
    return this.call("Network.emulateNetworkConditions", { offline, latency: 0, downloadThroughput: -1, uploadThroughput: -1 });
  }
  // Runs a function in the page and gives what it resolves to.
  async run(act, ...args) {
    const expression = `(${act})(...${JSON.stringify(args)})`;
    const { result, exceptionDetails } = await this.call("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }
  // Its process dies: nothing in it can say goodbye.
  async die() {
    await this.call("Inspector.enable");
    const died = this.next("Inspector.targetCrashed");
    this.call("Page.crash").catch(() => {});
    await died;
  }
  close() { return this.browser.call("Target.closeTarget", { targetId: this.targetId }); }
}
