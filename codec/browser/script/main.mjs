// The page: takes files, asks the worker, shows what it answers.

const PARTS = {
  symbols: "decoding the symbols", networks: "loading the networks", noise: "removing quantization error",
  pixels: "decoding the pixels",
};
const found = (id) => document.getElementById(id);
const embedded = document.getElementById("assets");
const assets = embedded ? JSON.parse(embedded.textContent) : null;
let worker = null;
let number = 0;
let isBusy = false;
let current = null; // name and size of the file that is shown or decoded

function newWorker() {
  const source = document.getElementById("worker");
  const address = source ? URL.createObjectURL(new Blob([source.textContent], { type: "text/javascript" })) : "worker.mjs";
  const made = new Worker(address, { type: "module" });
  made.onmessage = ({ data }) => {
    if (data.number === number) receive(data);
  };
  made.onerror = () => receive({ error: "the decoder does not start in this browser; it needs modules and WebAssembly SIMD" });
  return made;
}

/** Decodes a file's bytes; a file before that is not finished is given up. */
function decode(bytes, name) {
  if (isBusy) stop();
  worker ??= newWorker();
  isBusy = true;
  number += 1;
  document.body.dataset.state = "busy";
  found("error").textContent = "";
  found("facts").textContent = "";
  found("name").textContent = name;
  found("size").textContent = `${bytes.byteLength.toLocaleString("en-US")} bytes`;
  current = { name, bytes: bytes.byteLength };
  report("reading", 0);
  worker.postMessage({ assets: worker.hasAssets ? null : assets, bytes, number });
  worker.hasAssets = true;
}

function stop() {
  worker?.terminate();
  worker = null;
  isBusy = false;
  report("stopped", 0);
  document.body.dataset.state = "idle";
}

function report(text, share) {
  found("progress").value = share;
  found("part").textContent = text;
}

function receive({ part, share, result, error }) {
  if (part) {
    report(PARTS[part], share);
    return;
  }
  isBusy = false;
  document.body.dataset.state = error ? "failed" : "shown";
  if (error) {
    found("error").textContent = error;
    return;
  }
  const { png, width, height, digest, seconds, threads } = result;
  URL.revokeObjectURL(found("picture").src);
  found("picture").src = URL.createObjectURL(new Blob([png], { type: "image/png" }));
  found("save").href = found("picture").src;
  found("save").download = `${current.name.replace(/\.fdc$/i, "")}.png`;
  const rate = (8 * current.bytes) / (width * height);
  found("size").textContent = `${width} × ${height}, ${current.bytes.toLocaleString("en-US")} bytes, ${rate.toFixed(3)} bits per pixel`;
  const times = Object.entries(seconds).map(([of, value]) => `${of} ${value.toFixed(2)} s`);
  found("facts").textContent = `symbols ${digest}\nbundle ${result.bundleId}\ntime ${times.join(", ")}; ${threads} threads`;
  window.decoded = { digest, seconds, threads, width, height };
}

async function take(file) {
  if (file) decode(await file.arrayBuffer(), file.name);
}

found("choose").addEventListener("change", (event) => take(event.target.files[0]));
found("stop").addEventListener("click", stop);
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files[0]);
});

/** Shows the pictures that `fdc view` was given. */
async function showGiven() {
  const { file, original, originalName } = document.body.dataset;
  if (original) {
    found("original").src = original;
    found("original-name").textContent = originalName;
    document.body.classList.add("pair");
  }
  if (file) decode(await (await fetch("given.fdc")).arrayBuffer(), file);
}
showGiven();
