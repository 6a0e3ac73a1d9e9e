// Streamlit: a slider, a text and buttons change what the page says; the words of an answer keep coming across a cut.

import { statSync } from "node:fs";
import { fileURLToPath } from "node:url";

export async function use(user, address, say) {
  await user.page.go(address);
  await says(user, "Its square is 100.");
  const session = (await text(user)).match(/session (\S+)/)[1];
  await user.find("[data-testid='stSlider']");
  await user.find("[data-testid='stFileUploader'] button");
  await user.shot("1-before");

  // The middle of a hundred, and three more.
  await user.click("[data-testid='stSlider'] [role='group'] > div");
  await says(user, "Its square is 2500.");
  for (let n = 0; n < 3; n++) await user.press("ArrowRight");
  await says(user, "Its square is 2809.");
  await user.click("[data-testid='stTextInput'] input");
  await user.type("Grüße");
  await user.press("Enter");
  await says(user, "Grüße backwards is eßürG.");
  await button(user, "Once more");
  await says(user, "Pressed 1 times.");

  await button(user, "Talk");
  await says(user, "w25 ");
  await say("cut");
  await says(user, "That was all.");
  await says(user, Array.from({ length: 40 }, (_, n) => `w${n * n}`).join(" "));
  await user.shot("2-cut");
  await button(user, "Once more");
  // The session that knew of the first.
  await says(user, "Pressed 2 times.");
  await says(user, `session ${session}`);
  // A file goes up by HTTP, and what became of it comes down the session.
  await user.chooses("[data-testid='stFileUploader'] input", fileURLToPath(import.meta.url));
  await says(user, `${statSync(fileURLToPath(import.meta.url)).size} bytes.`);
  await user.shot("3-after");
  await say("settled");
  // Another visit: the first one's session is let go at once.
  await user.page.go(address);
  await says(user, "Its square is 100.");
  await say("came back");
}

const text = user => user.page.run(() => document.querySelector("[data-testid='stMain'], .stApp")?.innerText ?? "");

function says(user, part) {
  return user.reads(`"${part}"`, () => document.querySelector("[data-testid='stMain'], .stApp")?.innerText ?? "", text => text.includes(part));
}

const button = (user, name) => user.click("[data-testid='stButton'] button", name);
