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
  const source = document.getElementById("worker"); // one classic script: Chromium refuses modules from a page without origin
  const made = source
    ? new Worker(URL.createObjectURL(new Blob([source.textContent], { type: "text/javascript" })))
    : new Worker("worker.mjs", { type: "module" });
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
  ask({ bytes });
}

function ask(message) {
  const webgpu = "webgpu" in document.body.dataset;
  worker.postMessage({ assets: worker.hasAssets ? null : assets, number, webgpu, ...message });
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

function receive({ part, share, result, error, isExact }) {
  if (part) {
    report(PARTS[part], share);
    return;
  }
  if (isExact) {
    found("facts").textContent += "\nthis browser computes the entropy model's known answer";
    document.body.dataset.exact = "yes";
    return;
  }
  isBusy = false;
  document.body.dataset.state = error ? "failed" : "shown";
  if (error) {
    found("error").textContent = current ? `${current.name}: ${error}` : error;
    return;
  }
  const { png, width, height, digest, seconds, device } = result;
  URL.revokeObjectURL(found("picture").src);
  found("picture").src = URL.createObjectURL(new Blob([png], { type: "image/png" }));
  found("save").href = found("picture").src;
  found("save").download = `${current.name.replace(/\.fdc$/i, "")}.png`;
  const rate = (8 * current.bytes) / (width * height);
  found("size").textContent = `${width} × ${height}, ${current.bytes.toLocaleString("en-US")} bytes, ${rate.toFixed(3)} bits per pixel`;
  const times = Object.entries(seconds).map(([of, value]) => `${of} ${value.toFixed(2)} s`);
  found("facts").textContent = `symbols ${digest}\nbundle ${result.bundleId}\ntime ${times.join(", ")}; ${device}`;
  window.decoded = { digest, seconds, device, width, height };
}

async function take(file) {
  if (!file) return;
  document.body.classList.remove("pair"); // the original is that of another file
  decode(await file.arrayBuffer(), file.name);
}

found("choose").addEventListener("change", (event) => take(event.target.files[0]));
found("stop").addEventListener("click", stop);
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files[0]);
});

/** A file that `fdc view` was given, from the page itself or from its server. */
async function given(name) {
  if (!assets) return (await fetch(name)).arrayBuffer();
  const packed = await fetch(`data:application/gzip;base64,${assets[name]}`);
  return new Response(packed.body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function showGiven() {
  const { file, original, bundle } = document.body.dataset;
  if (original) {
    found("original").src = URL.createObjectURL(new Blob([await given("original")]));
    found("original-name").textContent = original;
    document.body.classList.add("pair");
  }
  if (file) {
    decode(await given("given.fdc"), file);
  } else if (bundle) {
    // loads before the first file comes
    worker = newWorker();
    ask({ bundle });
  }
}
showGiven();
