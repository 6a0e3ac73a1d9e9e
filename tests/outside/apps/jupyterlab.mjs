// JupyterLab: a notebook whose cells run, a terminal that answers; and both again across a cut.

const NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden)", TERMINAL = ".jp-Terminal:not(.lm-mod-hidden)";

export async function use(user, address, say) {
  await user.page.go(address + "/lab");
  await user.sees("the launcher", () => document.querySelector(".jp-Launcher") && document.readyState === "complete");
  await user.shot("1-launcher");

  await user.click(".jp-LauncherCard[data-category='Notebook']");
  await idle(user);
  await cell(user, "print('-'.join(['six', 'times', 'seven', 'is', str(6 * 7)]))");
  await output(user, text => text.trim() === "six-times-seven-is-42");
  // One message of four million bytes, which must be allowed to the sidecar.
  await cell(user, "from IPython.display import HTML; HTML('<b hidden>' + 'wide ' * 800_000 + '</b>a wide one')");
  await user.sees("a wide output", () => [...document.querySelectorAll(".jp-OutputArea b[hidden]")].some(({ textContent }) => textContent === "wide ".repeat(800_000)));
  await idle(user);
  await user.shot("2-cells");
  await cell(user, "import time\nfor n in range(60):\n    print('square', n * n)\n    time.sleep(0.1)");
  await output(user, text => text.includes("square 25\n"));
  await say("cut");
  const squares = Array.from({ length: 60 }, (_, n) => `square ${n * n}\n`).join("");
  await output(user, text => text === squares);
  await idle(user);
  await user.shot("3-cut");

  await user.click("[data-command='launcher:create'], .jp-FileBrowser-toolbar [title^='New Launcher'], [data-jp-item-name='new-launcher']");
  await user.click(".jp-LauncherCard[data-category='Other'][title*='terminal']");
  await line(user, text => /[$#] *$/.test(text.trimEnd()));
  await user.click(`${TERMINAL} .xterm-screen`);
  await user.type("echo $((40+2))-works");
  await user.press("Enter");
  await line(user, text => text.split("\n").includes("42-works"));
  await user.type("for n in $(seq 30); do echo row $((n*n)); sleep 0.1; done");
  await user.press("Enter");
  await line(user, text => text.includes("row 25\n"));
  await say("cut");
  const rows = Array.from({ length: 30 }, (_, n) => `row ${(n + 1) ** 2}\n`).join("");
  await line(user, text => text.includes(rows));
  await user.shot("4-terminal");
  await say("settled");
}

// The kernel is there and has nothing to do, and JupyterLab says so in its last line.
function idle(user) {
  return user.reads("an idle kernel", () => document.querySelector("#jp-main-statusbar")?.innerText ?? "", text => text.includes("(ipykernel) | Idle"));
}

// Types into the last cell and runs it; a new one comes below it.
async function cell(user, code) {
  await user.click(`${NOTEBOOK} .jp-Cell:last-of-type .cm-content`);
  await user.page.call("Input.insertText", { text: code });
  await user.press("Enter", { shift: true });
}

// Until the output of the last cell that has one is so.
function output(user, test) {
  return user.reads(`an output: ${test}`, `() => [...document.querySelectorAll("${NOTEBOOK} .jp-OutputArea")].filter(area => area.textContent).at(-1)?.innerText ?? ""`, test);
}

// Until the terminal's rows are so, as its text for screen readers has them.
function line(user, test) {
  return user.reads(`in the terminal: ${test}`, `() => [...document.querySelectorAll("${TERMINAL} .xterm-accessibility-tree > div")].map(row => row.textContent.replaceAll('\\u00a0', ' ').trimEnd()).join("\\n")`, test);
}
