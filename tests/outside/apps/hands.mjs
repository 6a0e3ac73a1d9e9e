// A user at a page: sees what is on it, clicks, types, takes pictures. On top of tests/outside/client/browser.mjs; whatever is
// done goes through the browser's own input, nothing through the page's scripts.
import { writeFileSync } from "node:fs";

// As long as anything may take.
const PATIENCE = 60000;

export class User {
  // WebSockets that the browser opened, and those among them that were accepted.
  sockets = new Map(); accepted = [];
  constructor(page, shots) { Object.assign(this, { page, shots }); }

  // With a page that is empty yet.
  static async at(context, shots) {
    const page = await context.page("about:blank"), user = new User(page, shots), hear = page.hear;
    page.hear = (method, params) => {
      if (method === "Network.webSocketCreated") user.sockets.set(params.requestId, params.url);
      if (method === "Network.webSocketHandshakeResponseReceived" && params.response.status === 101) user.accepted.push(user.sockets.get(params.requestId));
      hear.call(page, method, params);
    };
    const size = { width: 1200, height: 800, deviceScaleFactor: 1, mobile: false };
    await page.call("Emulation.setDeviceMetricsOverride", size);
    return user;
  }

  // Waits until a function of the page gives something.
  async sees(what, act, ...args) {
    for (const end = Date.now() + PATIENCE; Date.now() < end; await new Promise(done => setTimeout(done, 50))) {
      const value = await this.page.run(act, ...args);
      if (value) return value;
    }
    throw new Error("waited in vain for " + what);
  }

  // Waits until what a function of the page gives passes a test here.
  async reads(what, act, test) {
    let value;
    for (const end = Date.now() + PATIENCE; Date.now() < end; await new Promise(done => setTimeout(done, 50))) {
      if (test(value = await this.page.run(act))) return value;
    }
    throw new Error(`waited in vain for ${what}; there is ${JSON.stringify(value)}`);
  }

  // The middle of the first such element, with this text where one is given, that can be seen and that nothing covers.
  find(selector, text = "") {
    return this.sees(`${selector} ${text}`, (selector, text) => {
      for (const element of document.querySelectorAll(selector)) {
        if (text && element.innerText.trim() !== text) continue;
        element.scrollIntoView({ block: "nearest" });
        const { x, y, width, height } = element.getBoundingClientRect(), middle = { x: x + width / 2, y: y + height / 2 };
        const top = document.elementFromPoint(middle.x, middle.y);
        if (width && height && top && (element.contains(top) || top.contains(element))) return middle;
      }
    }, selector, text);
  }

  async click(selector, text) {
    const at = { ...await this.find(selector, text), button: "left", clickCount: 1 };
    await this.page.call("Input.dispatchMouseEvent", { ...at, type: "mouseMoved", button: "none" });
    await this.page.call("Input.dispatchMouseEvent", { ...at, type: "mousePressed" });
    await this.page.call("Input.dispatchMouseEvent", { ...at, type: "mouseReleased" });
  }

  // Key by key, to whatever has the focus.
  async type(text) {
    for (const key of text) {
      await this.page.call("Input.dispatchKeyEvent", { type: "keyDown", key, text: key });
      await this.page.call("Input.dispatchKeyEvent", { type: "keyUp", key });
    }
  }

  // A key that is no character, with the shift key or without.
  async press(key, { code = key, shift = false } = {}) {
    const codes = { Enter: 13, Tab: 9, ArrowRight: 39, Backspace: 8 };
    const event = { key, code, windowsVirtualKeyCode: codes[key], modifiers: shift ? 8 : 0 };
    await this.page.call("Input.dispatchKeyEvent", { ...event, type: "keyDown", text: key === "Enter" ? "\r" : undefined });
    await this.page.call("Input.dispatchKeyEvent", { ...event, type: "keyUp" });
  }

  // What choosing a file in the system's dialogue does.
  async chooses(selector, file) {
    await this.sees(selector, selector => document.querySelector(selector) !== null, selector);
    const { root } = await this.page.call("DOM.getDocument");
    const { nodeId } = await this.page.call("DOM.querySelector", { nodeId: root.nodeId, selector });
    await this.page.call("DOM.setFileInputFiles", { nodeId, files: [file] });
  }

  async shot(name) {
    const { data } = await this.page.call("Page.captureScreenshot", { format: "png" });
    writeFileSync(`${this.shots}-${name}.png`, Buffer.from(data, "base64"));
  }
}
