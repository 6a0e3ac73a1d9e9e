// Uses an application in Chromium: node drive.mjs <application> <address> <proxy or ""> <start of the pictures' names>.
// Says a line where the test has something to do or to check, and goes on when it is answered.
import { createInterface } from "node:readline";
import { Browser } from "../client/browser.mjs";
import { User } from "./hands.mjs";

const [application, address, proxy, shots] = process.argv.slice(2);
const { use } = await import(`./${application}.mjs`);
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const browser = await Browser.start(proxy);
let user;

// Gives what the test answers.
async function say(line) {
  console.log(line);
  return (await answers.next()).value;
}

try {
  user = await User.at(await browser.context(), shots);
  await use(user, address, say);
  const carried = user.accepted.filter(url => url);
  if (carried.length) throw new Error("WebSockets were open: " + carried);
  // That the client is on the page, and the page knows nothing of it.
  const tags = await user.page.run(() => Array.from(document.scripts).filter(({ src }) => src.startsWith(location.origin + "/_underpass/client.js?v=")).length);
  if (tags !== 1) throw new Error("the script is not on the page");
  await say("done");
} catch (error) {
  console.log("failed: " + error.message.replaceAll("\n", " | "));
  for (const line of user?.page.console.slice(-20) ?? []) console.error(line);
  await user?.shot("failed").catch(() => {});
  process.exitCode = 1;
}
await browser.stop();
process.exit();
