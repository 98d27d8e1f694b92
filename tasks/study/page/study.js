import { Panes } from "./panes.js";

const element = (name) => document.getElementById(name);
const panes = new Panes(["left", "original", "right"].map(element));
const buttons = { left: element("choose-left"), right: element("choose-right") };
let participant = "";
let comparison = null;
let shownAt = 0;

async function ask(address, content) {
  const reply = await fetch(address, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content),
  });
  const answer = await reply.json();
  if (!reply.ok) {
    const error = new Error(typeof answer.detail === "string" ? answer.detail : "This was not understood.");
    error.status = reply.status;
    throw error;
  }
  return answer;
}

function say(text, where = "message") {
  element(where).textContent = text;
}

function page(name) {
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== name;
}

async function show(state) {
  comparison = null;
  for (const button of Object.values(buttons)) button.disabled = true;
  say(`${state.done + 1} of ${state.total}`, "progress");
  if (state.comparison === null) {
    say(`All ${state.total} comparisons are stored.`, "stored");
    return page("end");
  }
  page("compare");
  const side = (name) => `comparisons/${state.comparison}/${name}.png`;
  try {
    if (!(await panes.show(["left", "original", "right"].map(side)))) return;
  } catch {
    return say("The pictures did not arrive. Load the page again to go on.");
  }
  say("");
  comparison = state.comparison;
  shownAt = performance.now();
  for (const button of Object.values(buttons)) button.disabled = false;
}

async function choose(choice) {
  if (comparison === null) return;
  const given = { participant, comparison, choice, seconds: (performance.now() - shownAt) / 1000 };
  comparison = null;
  for (const button of Object.values(buttons)) button.disabled = true;
  try {
    await show(await ask("api/answers", given));
  } catch (error) {
    if (error.status) return join(participant);
    say("Not stored: the server cannot be reached. Choose again.");
    comparison = given.comparison;
    for (const button of Object.values(buttons)) button.disabled = false;
  }
}

async function join(name) {
  try {
    const state = await ask("api/session", { participant: name });
    participant = name;
    sessionStorage.setItem("participant", name);
    await show(state);
  } catch (error) {
    sessionStorage.removeItem("participant");
    page("welcome");
    say(error.status === 403 ? "No participant has this name. Check the spelling." : error.message, "refused");
    element("name").focus();
  }
}

element("join").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = element("name").value.trim();
  if (name) join(name);
});
for (const [side, button] of Object.entries(buttons)) button.addEventListener("click", () => choose(side));
document.addEventListener("keydown", (event) => {
  if (element("compare").hidden || event.repeat && "12".includes(event.key)) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "1") choose("left");
  else if (event.key === "2") choose("right");
  else if (panes.key(event.key)) event.preventDefault();
});

const known = new URLSearchParams(location.search).get("participant") ?? sessionStorage.getItem("participant");
if (known) join(known);
else page("welcome");
