// Runs cases in one browser, some at a time, and tells of each. Enters: the cases by name, and what makes a stage for one: it has
// `world` (what the case gets), `context`, `pages`, `said()` (lines for the reader of a failure) and `end()`. Leaves: the
// process' exit. Must not touch: what the cases do.
export async function run(cases, which, part, { abreast, patience, silence }, begin) {
  const { Browser } = await import(which === "firefox" ? "./firefox.mjs" : "./browser.mjs");
  // A browser that died answers nothing.
  const silent = setTimeout(() => { console.log("FAILED nothing more was heard of the browser"); process.exit(1); }, silence);
  const browser = await Browser.start();
  const failures = [];

  async function one([name, act]) {
    const begun = Date.now(), stage = await begin(await browser.context());
    const tired = new Promise((_, fail) => setTimeout(fail, patience, new Error("took too long")).unref());
    let failure;
    await Promise.race([act(stage.world), tired]).catch(error => { failure = error; });
    console.log(`${failure ? "FAILED" : "ok    "} ${name} (${((Date.now() - begun) / 1000).toFixed(1)} s)`);
    if (failure) {
      failures.push(name);
      console.log(failure.stack);
      for (const [number, page] of stage.pages.entries()) for (const line of page.console.slice(-12)) console.log(`  page ${number}: ${line}`);
      for (const line of stage.said()) console.log(`  ${line}`);
    }
    await Promise.race([stage.context.close().catch(() => {}), new Promise(done => setTimeout(done, 10000))]);
    silent.refresh();
    stage.end();
  }

  const queue = Object.entries(cases).filter(([name]) => name.includes(part));
  console.log(`${queue.length} cases`);
  const worker = async () => { for (let next; (next = queue.shift());) await one(next); };
  await Promise.all(Array.from({ length: abreast }, worker));
  await browser.stop();
  process.exit(failures.length ? 1 : 0);
}
