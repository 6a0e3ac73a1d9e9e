// Runs the cases: node run.mjs <address of the sidecar> [part of a case's name]
import { Box } from "./box.mjs";
import { Browser } from "./browser.mjs";
import { cases } from "./cases.mjs";

const [site, part = ""] = process.argv.slice(2);
const browser = await Browser.start();
const failures = [];

async function run([name, act]) {
  const begun = Date.now(), box = await Box.start(site), context = await browser.context(), pages = [];
  const world = {
    box,
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
  await context.close().catch(() => {});
  box.cut();
  box.server.close();
}

const queue = Object.entries(cases).filter(([name]) => name.includes(part));
console.log(`${queue.length} cases`);
const worker = async () => { for (let next; (next = queue.shift());) await run(next); };
await Promise.all(Array.from({ length: 3 }, worker));
await browser.stop();
process.exit(failures.length ? 1 : 0);
