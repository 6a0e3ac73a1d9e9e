// Runs the cases: node run.mjs <address of the sidecar> <chromium or firefox> [part of a case's name]
import { Box } from "../middlebox/box.mjs";
import { cases } from "./cases.mjs";
import { run } from "./suite.mjs";

const [site, which, part = ""] = process.argv.slice(2);

await run(cases, which, part, { abreast: 3, patience: 120000, silence: 180000 }, async context => {
  const box = await Box.start(site), pages = [];
  const opened = async url => { const page = await context.page(url); pages.push(page); return page; };
  const world = {
    box, which,
    // A test page; `attributes` are the script tag's.
    page: (attributes = {}) => opened(`${box.url}/page?${new URLSearchParams({ "data-debug": "", ...attributes })}`),
    // A page of the backend, by way of the sidecar.
    legacy: () => opened(`${box.url}/legacy`),
  };
  return {
    world, context, pages,
    said: () => box.requests.slice(-25).map(line => `box: ${line}`),
    end() { box.cut(); box.server.close(); },
  };
});
