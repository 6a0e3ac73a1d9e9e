// Runs the rows: node run.mjs <sidecar> <another> [part of a row's name]. A line of JSON for each row; "over" when there are
// no more. The boxes stand until standard input ends. UNDERPASS_SEED=7 draws other chances and other orders.
import { Browser } from "../client/browser.mjs";
import { Box } from "./box.mjs";
import { rows } from "./rows.mjs";
import { MESSAGES, converse } from "./talk.mjs";
import { absence, absences, crowd, crowds, plain, stay, tours, wander } from "./tours.mjs";

const ABREAST = 8, PATIENCE = 100000;
const [site, other, part = ""] = process.argv.slice(2);
const seed = +(process.env.UNDERPASS_SEED || 0);
const browser = await Browser.start();
const boxes = [];

async function run({ number, act, row }) {
  const box = await Box.start([site, other], number + 1 + seed), context = await browser.context(), pages = [];
  boxes.push(box);
  const page = async () => {
    const page = await context.page(`${box.url}/page?data-debug`);
    pages.push(page);
    return page;
  };
  const patience = new Promise((_, fail) => setTimeout(fail, PATIENCE, new Error("took too long")).unref());
  const begun = Date.now();
  try {
    const seen = await Promise.race([act(row, number, { box, page }), patience]);
    tell({ number, name: row.name, ends: row.ends, never: row.never === true ? names(row) : row.never || [], last: row.last ? "any" : row.ends,
      messages: row.messages || MESSAGES, ws: row.modes?.ws !== "kill", switches: names(row), struck: box.struck, took: Date.now() - begun, seen });
  } catch (error) {
    const said = pages.flatMap(page => page.console.slice(-12));
    tell({ number, name: row.name, failed: error.message, said, asked: box.requests.slice(-25), struck: box.struck });
    await context.close().catch(() => {});
  }
}

function tell(what) { console.log(JSON.stringify(what)); }

// The switches of a row. That WebSockets are refused is no news.
function names({ modes = {} }) {
  const all = Object.entries(modes).filter(([kind, mode]) => mode !== "pass" && !(kind === "ws" && mode === "kill"));
  return [...new Set(all.flatMap(([, mode]) => typeof mode === "string" ? [mode] : Object.keys(mode)))];
}

const acts = [[wander, tours], [crowd, crowds], [absence, absences], [stay, plain], [converse, rows]];
const queue = acts.flatMap(([act, rows]) => rows.map(row => ({ row, act })))
  .map((one, number) => ({ ...one, number })).filter(({ row }) => row.name.includes(part));
const worker = async () => { for (let next; (next = queue.shift());) await run(next); };
await Promise.all(Array.from({ length: ABREAST }, worker));
console.log("over");
process.stdin.resume();
await new Promise(done => process.stdin.on("end", done));
for (const box of boxes) box.stop();
await browser.stop();
process.exit(0);
