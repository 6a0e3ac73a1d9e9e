// Runs the cases: node run.mjs <address of the sidecar> <chromium or firefox> [part of a case's name]
import { Box } from "../middlebox/box.mjs";
import { cases } from "./cases.mjs";

const [site, which, part = ""] = process.argv.slice(2);
const { Browser } = await import(which === "firefox" ? "./firefox.mjs" : "./browser.mjs");
// A browser that died answers nothing.
const silence = setTimeout(() => { console.log("FAILED nothing more was heard of the browser"); process.exit(1); }, 180000);
const browser = await Browser.start();
const failures = [];

async function run([name, act]) {
  const begun = Date.now(), box = await Box.start(site), context = await browser.context(), pages = [];
  const world = {
    box, which,
    // A test page; `attributes` are the script tag's.
    async page(attributes = {}) {
      const page = await context.page(`${box.url}/page?${new URLSearchParams({ "data-debug": "", ...attributes })}`);
      pages.push(page);
      return page;
    },
    // A page of the backend, by way of the sidecar.
    async legacy() {
      const page = await context.page(`${box.url}/legacy`);
      pages.push(page);
      return page;
    },
  };
  const patience = new Promise((_, fail) => setTimeout(fail, 120000, new Error("took too long")).unref());
  let failure;
  await Promise.race([act(world), patience]).catch(error => { failure = error; });
  console.log(`${failure ? "FAILED" : "ok    "} ${name} (${((Date.now() - begun) / 1000).toFixed(1)} s)`);
  if (failure) {
    failures.push(name);
    console.log(failure.stack);
    for (const [number, page] of pages.entries()) for (const line of page.console.slice(-12)) console.log(`  page ${number}: ${line}`);
    for (const line of box.requests.slice(-25)) console.log(`  box: ${line}`);
  }
  await Promise.race([context.close().catch(() => {}), new Promise(done => setTimeout(done, 10000))]);
  silence.refresh();
  box.cut();
  box.server.close();
}

const queue = Object.entries(cases).filter(([name]) => name.includes(part));
console.log(`${queue.length} cases`);
const worker = async () => { for (let next; (next = queue.shift());) await run(next); };
await Promise.all(Array.from({ length: 3 }, worker));
await browser.stop();
process.exit(failures.length ? 1 : 0);
