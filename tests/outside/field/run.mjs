// Runs the cases: node run.mjs <program> <chromium or firefox> [part of a case's name]
import { addresses } from "./addresses.mjs";
import { answers } from "./answers.mjs";
import { scripts } from "./scripts.mjs";
import { Stage } from "./stage.mjs";

const [program, which, part = ""] = process.argv.slice(2);
const { Browser } = await import(which === "firefox" ? "../client/firefox.mjs" : "../client/browser.mjs");
// A browser that died answers nothing.
const silence = setTimeout(() => { console.log("FAILED nothing more was heard of the browser"); process.exit(1); }, 240000);
const browser = await Browser.start();
const failures = [];

async function run([name, act]) {
  const begun = Date.now(), stage = new Stage(program, which, await browser.context());
  const patience = new Promise((_, fail) => setTimeout(fail, 150000, new Error("took too long")).unref());
  let failure;
  await Promise.race([act(stage), patience]).catch(error => { failure = error; });
  console.log(`${failure ? "FAILED" : "ok    "} ${name} (${((Date.now() - begun) / 1000).toFixed(1)} s)`);
  if (failure) {
    failures.push(name);
    console.log(failure.stack);
    for (const [number, page] of stage.pages.entries()) for (const line of page.console.slice(-12)) console.log(`  page ${number}: ${line}`);
    for (const line of stage.said.slice(-12)) console.log(`  sidecar: ${line}`);
  }
  silence.refresh();
  await stage.end();
}

const cases = Object.entries({ ...addresses, ...answers, ...scripts });
const queue = cases.filter(([name]) => name.includes(part));
console.log(`${queue.length} cases`);
const worker = async () => { for (let next; (next = queue.shift());) await run(next); };
await Promise.all(Array.from({ length: 2 }, worker));
await browser.stop();
process.exit(failures.length ? 1 : 0);
