// The page's worker: decodes what it is sent, so that the page stays responsive.
import { Decoder } from "./decoder.mjs";
import { FdcError } from "./errors.mjs";

const RUNTIME = "ort.mjs";
const WASM = "ort.wasm";
let decoder = null;

/** Reads from the server that the page came from. */
async function fetched(name) {
  const answer = await fetch(new URL(name, self.location.href));
  if (!answer.ok) throw new FdcError((await answer.text()).trim() || `${name}: ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

/** Reads from what the page holds: gzip behind base64. */
function embedded(assets) {
  return async (name) => {
    if (!(name in assets)) {
      const [id] = name.split("/");
      throw new FdcError(`the file was written with bundle ${id}, which is not in this page`);
    }
    const packed = await fetch(`data:application/gzip;base64,${assets[name]}`);
    const stream = packed.body.pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
}

async function openRuntime(read, assets) {
  const address = assets
    ? URL.createObjectURL(new Blob([await read(RUNTIME)], { type: "text/javascript" }))
    : new URL(RUNTIME, self.location.href).href;
  const runtime = await import(address);
  // threads share memory, which browsers allow in isolated pages alone: those of `fdc view`
  runtime.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  runtime.env.wasm.wasmBinary = (await read(WASM)).buffer;
  return runtime;
}

/** Answers one message: the bytes of a file to decode, or the bundle that the first file is likely to need. */
async function answer({ assets, bytes, bundle, number, webgpu }) {
  const tell = (message, transferred = []) => self.postMessage({ number, ...message }, transferred);
  try {
    if (decoder === null) {
      const read = assets ? embedded(assets) : fetched;
      const hasGpu = webgpu && Boolean(await navigator.gpu?.requestAdapter());
      decoder = new Decoder(read, () => openRuntime(read, assets), hasGpu);
    }
    if (bundle) {
      await decoder.open(bundle);
      await decoder.networks(bundle);
      await decoder.selfTest(bundle);
      return;
    }
    const result = await decoder.decode(new Uint8Array(bytes), (part, share) => tell({ part, share }));
    tell({ result }, [result.png.buffer]);
    // afterwards, so that nobody waits for it
    await decoder.selfTest(result.bundleId);
    tell({ isExact: true });
  } catch (error) {
    if (!(error instanceof FdcError)) console.error(error);
    tell({ error: error instanceof FdcError ? error.message : `cannot decode this file here: ${error.message}` });
  }
}

let last = Promise.resolve();
self.onmessage = ({ data }) => {
  last = last.then(() => answer(data));
};
