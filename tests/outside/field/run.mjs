// Runs the cases: node run.mjs <program> <chromium or firefox> [part of a case's name]
import { run } from "../client/suite.mjs";
import { addresses } from "./addresses.mjs";
import { answers } from "./answers.mjs";
import { scripts } from "./scripts.mjs";
import { Stage } from "./stage.mjs";

const [program, which, part = ""] = process.argv.slice(2);

await run({ ...addresses, ...answers, ...scripts }, which, part, { abreast: 2, patience: 150000, silence: 240000 }, context => {
  const stage = new Stage(program, which, context);
  return { world: stage, context, pages: stage.pages, said: () => stage.said.slice(-12).map(line => `sidecar: ${line}`), end: () => stage.end() };
});
