// A page with npm's `mqtt`: what is sent by its form arrives at the broker, what others send there arrives on the page.

export async function use(user, address, say) {
  await user.page.go(address + "/mqtt.html");
  await user.reads("the broker's greeting", () => document.querySelector("#state").textContent, state => state === "connected");
  await user.click("#topic");
  await user.type("up/text");
  await user.click("#message");
  await user.type("grüße from the page");
  await user.click("button", "Send");
  await say("sent");
  await user.click("#message");
  await clear(user, 30);
  await user.type("00 ff 80 0a 0d 41");
  await user.click("#binary");
  await user.click("button", "Send");
  await say("sent binary");
  // What others sent meanwhile.
  await heard(user, list => list[0] === "down/text: grüße, from outside");
  await heard(user, list => list[1] === "down/binary: 00 01 fe ff 0d 0a");
  await say("count");
  await heard(user, list => list.length > 12);
  await say("cut");
  const all = Array.from({ length: 100 }, (_, n) => `down/count: ${n}`);
  await heard(user, list => list.slice(2).join() === all.join());
  await user.reads("the same connection", () => document.querySelector("#state").textContent, state => state === "connected");
  await user.shot("1-after");
  await say("settled");
  await user.click("button", "Leave");
  await user.reads("the end", () => document.querySelector("#state").textContent, state => state === "left");
  await say("left");
}

function heard(user, test) {
  return user.reads(`messages: ${test}`, () => [...document.querySelectorAll("#heard li")].map(item => item.textContent), test);
}

async function clear(user, count) {
  await user.press("End");
  for (let n = 0; n < count; n++) await user.press("Backspace");
}
