import { Panes } from "./panes.js";

const element = (name) => document.getElementById(name);
const panes = new Panes(["left", "original", "right"].map(element));
const pick = { left: element("method-left"), right: element("method-right") };
const LABELS = {
  bpp: ["bpp", 3], psnr_db: ["PSNR", 2], ms_ssim: ["MS-SSIM", 4], lpips: ["LPIPS", 4], lpips_alex: ["LPIPS", 4],
  lpips_vgg: ["LPIPS vgg", 4], dists: ["DISTS", 4],
};
let gallery;
let number = 0;
let image;

async function get(address) {
  const reply = await fetch(address);
  if (!reply.ok) throw new Error((await reply.json()).detail);
  return reply.json();
}

const address = (of, method) => `pictures/${of}/${method}.png?edition=${gallery.edition}`;

function figures(side) {
  const known = image.figures[pick[side].value];
  if (known === null) return "no reconstruction";
  return Object.entries(known).map(([name, value]) => `${LABELS[name][0]} ${value.toFixed(LABELS[name][1])}`).join("   ");
}

async function show(wanted) {
  number = (wanted + gallery.images) % gallery.images;
  const shown = number;
  image = await get(`api/images/${shown}`);
  element("image").value = image.name;
  element("place").textContent = `${shown + 1} of ${gallery.images}`;
  history.replaceState(null, "", `?image=${shown}&left=${pick.left.value}&right=${pick.right.value}`);
  for (const side of ["left", "right"]) element(`figures-${side}`).textContent = figures(side);
  element("message").textContent = "";
  try {
    await panes.show([address(shown, pick.left.value), address(shown, "original"), address(shown, pick.right.value)]);
  } catch {
    if (shown === number) await explain(shown);
    return;
  }
  if (shown !== number || gallery.images < 2) return;
  for (const method of [pick.left.value, "original", pick.right.value]) {
    new Image().src = address((shown + 1) % gallery.images, method);
  }
}

// Say what is missing, and show the rest.
async function explain(shown) {
  const reasons = new Set();
  for (const [side, method] of [["left", pick.left.value], ["original", "original"], ["right", pick.right.value]]) {
    const reply = await fetch(address(shown, method));
    if (shown !== number) return;
    if (reply.ok) element(side).classList.remove("waiting");
    else reasons.add((await reply.json()).detail);
  }
  element("message").textContent = [...reasons].join(". ") || "A picture cannot be shown.";
}

async function search() {
  const found = await get(`api/images?find=${encodeURIComponent(element("image").value)}`);
  element("images").replaceChildren(...found.map(({ name }) => new Option(name, name)));
  return found;
}

element("image").addEventListener("input", search);
element("image").addEventListener("change", async () => {
  if (!element("image").value.trim()) return void (element("image").value = image.name);
  const [first] = await search();
  if (first) show(first.number);
  else element("message").textContent = "No picture has that in its name.";
});
element("before").addEventListener("click", () => show(number - 1));
element("after").addEventListener("click", () => show(number + 1));
for (const select of Object.values(pick)) select.addEventListener("change", () => show(number));
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "n") show(number + 1);
  else if (event.key === "p") show(number - 1);
  else if (!panes.key(event.key)) return;
  event.preventDefault();
});

gallery = await get("api/gallery");
const asked = new URLSearchParams(location.search);
for (const [side, select] of Object.entries(pick)) {
  select.append(...gallery.methods.map((method, place) => new Option(method, place)));
  const place = Number(asked.get(side) ?? (side === "right" ? 1 : 0));
  select.value = place < gallery.methods.length ? place : 0;
}
await show(Number(asked.get("image") ?? 0) || 0);
