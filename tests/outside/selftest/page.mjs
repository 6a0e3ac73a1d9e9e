// Opens the self-test's page in headless Chromium, behind a box or a proxy perhaps, and prints what it says in the end.
// Arguments: the page's origin, the proxy or "", what tests/outside/middlebox breaks as JSON or "", seconds.
import { Browser } from "../client/browser.mjs";
import { Box } from "../middlebox/box.mjs";

const [site, proxy, modes, seconds] = process.argv.slice(2);
const box = modes ? await Box.start(new URL(site).host) : null;
if (box) box.modes = JSON.parse(modes);
const browser = await Browser.start(proxy || undefined);
const page = await (await browser.context()).page(`${box?.url ?? site}/_underpass/selftest?seconds=${seconds}`);
const { result, exceptionDetails } = await page.call("Runtime.evaluate", {
  awaitPromise: true, returnByValue: true, expression: `(async () => {
    const text = id => document.getElementById(id).textContent;
    for (const end = Date.now() + 120000; !text("time").startsWith("Done") && Date.now() < end;) await new Promise(done => setTimeout(done, 100));
    const rows = [...document.querySelectorAll("tbody tr")].map(row => [row.id, [...row.cells].slice(1).map(cell => cell.textContent)]);
    const notes = [...document.querySelectorAll("#notes li")].map(note => note.textContent);
    return { verdict: text("verdict"), mood: document.getElementById("verdict").dataset.mood, rows: Object.fromEntries(rows), notes,
      time: text("time"), report: document.getElementById("report").value };
  })()`,
});
await page.call("Emulation.setDeviceMetricsOverride", { width: 340, height: 700, deviceScaleFactor: 1, mobile: true });
const narrow = await page.call("Runtime.evaluate", { returnByValue: true, expression: "document.documentElement.scrollWidth - innerWidth" });
console.log(JSON.stringify({ ...result?.value, wider: narrow.result.value, failed: exceptionDetails?.text, thrown: page.console }));
await browser.stop();
box?.cut();
process.exit(0);
