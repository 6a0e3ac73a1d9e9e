// The client's core under seeded random days, as tests/simulation.rs has them for the sidecar's.
//
//   node tests/outside/client/simulation/main.mjs            so many seeds
//   node tests/outside/client/simulation/main.mjs 20000      that many
//   node tests/outside/client/simulation/main.mjs --seed 17  just that one, with its last steps
//   node tests/outside/client/simulation/main.mjs --scene x  the scenes whose names have an x in them
//
// Enters: seeds. Leaves: a verdict; on failure the seed. Must not touch: a real clock, a network.
import { availableParallelism } from "node:os";
import { Worker, isMainThread, parentPort, workerData } from "node:worker_threads";
import { Run } from "./run.mjs";
import { play } from "./scenes.mjs";

const SEEDS = 5000;

// What must have happened in so many seeds at least so often, or the simulation proves nothing.
const MUST_HAPPEN = {
  "another network": 8000, "answer lost": 3000, "backend closes": 4000, "cause better": 800, "cause poll superseded": 10,
  "cause sse altered": 80, "cause sse cut": 500, "cause sse held": 30, "cause sse shared": 100, "cause sse silent": 400,
  "cause ws cut": 300, "cause ws refused": 2500, "cause ws silent": 900, "closed": 10000, "cut": 8000, "failed": 1000,
  "frozen": 800, "heard by a backend": 200000, "heard by a page": 200000, "nonce reused": 20, "a stream that was kept": 2000, "offline": 2000, "page closes": 6000,
  "request lost": 2500, "sent twice": 1500, "set aside": 600, "somebody else answered": 2500, "spoilt": 300,
  "sse attached": 8000, "stream attached": 2500, "swallowed on the way": 25000, "tab gone": 150, "to poll": 4000,
  "to sse": 5000, "to stream": 1200, "to ws": 6000, "ws attached": 12000,
};

function one(seed) {
  const run = new Run(seed, true);
  try {
    run.go();
  } catch (error) {
    console.log(run.trace.join("\n"));
    console.log(`seed ${seed} fails: ${error.stack}`);
    process.exit(1);
  }
  console.log(`seed ${seed} is right: ${JSON.stringify(run.coverage, null, 1)}`);
}

// Every so manyth seed. Gives what was covered, or the first seed that fails.
function stripe({ from, step, seeds }) {
  const total = {};
  for (let seed = from; seed <= seeds; seed += step) {
    try {
      add(total, new Run(seed, false).go());
    } catch (error) {
      return { seed, failure: error.stack };
    }
  }
  return { total };
}

function add(total, coverage) {
  for (const [what, times] of Object.entries(coverage)) total[what] = (total[what] || 0) + times;
}

function scenes(part) {
  for (const wrong of play(part)) {
    console.log(wrong);
    process.exitCode = 1;
  }
}

async function many(seeds) {
  const step = availableParallelism();
  const results = await Promise.all(Array.from({ length: step }, (_, at) => new Promise((done, fail) => {
    const worker = new Worker(new URL(import.meta.url), { workerData: { from: at + 1, step, seeds } });
    worker.once("message", done).once("error", fail);
  })));
  const failed = results.filter(({ failure }) => failure).sort((a, b) => a.seed - b.seed)[0];
  if (failed) {
    console.log(`seed ${failed.seed} fails (its last steps with --seed ${failed.seed}): ${failed.failure}`);
    process.exit(1);
  }
  const total = {};
  for (const result of results) add(total, result.total);
  console.log(total);
  if (seeds < SEEDS) return;
  for (const [what, least] of Object.entries(MUST_HAPPEN)) {
    if ((total[what] || 0) >= least) continue;
    console.log(`"${what}" happened ${total[what] || 0} times in ${seeds} seeds; ${least} are needed`);
    process.exitCode = 1;
  }
}

if (isMainThread) {
  const [first, second] = process.argv.slice(2);
  if (first === "--seed") one(Number(second));
  else if (first === "--scene") scenes(second);
  else {
    scenes("");
    await many(Number(first) || SEEDS);
  }
} else {
  parentPort.postMessage(stripe(workerData));
}
