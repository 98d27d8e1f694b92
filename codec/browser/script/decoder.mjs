// A whole decoder: a bundle's files by name, and ONNX Runtime for its two networks.
import { EntropyModel } from "./entropy_model.mjs";
import { check } from "./errors.mjs";
import { Kernel } from "./kernel.mjs";
import { hexadecimal, parse } from "./parse.mjs";
import { PixelModel } from "./pixels.mjs";
import { encodePng, upright } from "./png.mjs";
import { readSafetensors } from "./bundle.mjs";
import { decodeSymbols, knownAnswer } from "./symbols.mjs";

const json = (bytes) => JSON.parse(new TextDecoder().decode(bytes));

/** Decodes files of the bundles that `read` knows. */
export class Decoder {
  /** `read(name)` promises bytes: kernel.wat, and BUNDLE/FILE by a bundle's id; `openRuntime()` promises ONNX Runtime. */
  constructor(read, openRuntime, hasGpu) {
    this.providers = hasGpu ? ["webgpu", "wasm"] : ["wasm"];
    this.read = read;
    this.openRuntime = openRuntime;
    this.bundles = new Map();
  }

  /** The pictures of a file as PNG and what there is to say about it; throws FdcError. */
  async decode(bytes, progress = () => {}) {
    const start = performance.now();
    const since = (moment) => (performance.now() - moment) / 1000;
    const file = parse(bytes);
    const { entropy, documents } = await this.open(file.bundleId);
    const opened = since(start);
    const symbolsStart = performance.now();
    const symbols = decodeSymbols(file, entropy, (share) => progress("symbols", share));
    const symbolsSeconds = since(symbolsStart);
    const digest = hexadecimal(new Uint8Array(await crypto.subtle.digest("SHA-256", symbols.buffer)));
    progress("networks", 0);
    const networksStart = performance.now();
    const model = new PixelModel(documents, await this.networks(file.bundleId));
    const networksSeconds = since(networksStart);
    const { levels, seconds } = await model.decode(file, symbols, progress);
    const picture = upright(file, levels);
    const png = await encodePng(picture, file.chunks.get("ICCP")?.[0]);
    const { width, height } = picture;
    const { bundleId, timestepCode, skipped } = file;
    const times = { bundle: opened, symbols: symbolsSeconds, networks: networksSeconds, ...seconds, whole: since(start) };
    return { png, width, height, digest, bundleId, timestep: timestepCode / 8, skipped, seconds: times, device: this.device };
  }

  /** Throws FdcError if the entropy model of a bundle, which is open, does not compute its known answer here. */
  async selfTest(id) {
    const bundle = this.bundles.get(id);
    if (bundle.isTested) return;
    const numbers = knownAnswer(bundle.entropy);
    const digest = hexadecimal(new Uint8Array(await crypto.subtle.digest("SHA-256", numbers.buffer)));
    const isExact = digest === bundle.documents.bundle.known_answer;
    check(isExact, "this browser does not compute the entropy model exactly; do not trust what it decodes");
    bundle.isTested = true;
  }

  async open(id) {
    if (!this.bundles.has(id)) {
      const names = { bundle: "bundle.json", scheduler: "scheduler.json", unet: "unet.json", vae: "vae.json" };
      const documents = {};
      for (const [part, name] of Object.entries(names)) documents[part] = json(await this.read(`${id}/${name}`));
      check([1, 2].includes(documents.bundle.format), `the bundle's format ${documents.bundle.format} is not known to this page`);
      const text = new TextDecoder().decode(await this.read("kernel.wat"));
      const tensors = readSafetensors(await this.read(`${id}/entropy.safetensors`));
      const entropy = new EntropyModel(documents.bundle.entropy, tensors, new Kernel(text));
      this.bundles.set(id, { documents, entropy, networks: null, isTested: false });
    }
    return this.bundles.get(id);
  }

  /** The two networks of a bundle, ready to run. */
  async networks(id) {
    const bundle = this.bundles.get(id);
    if (bundle.networks === null) {
      const runtime = await (this.runtime ??= this.openRuntime());
      this.device = this.providers[0] === "webgpu" ? "WebGPU" : `${runtime.env.wasm.numThreads} threads`;
      const session = async (name) => runtime.InferenceSession.create(await this.read(`${id}/${name}`), { executionProviders: this.providers });
      const [unet, decoder] = [await session("unet.onnx"), await session("decoder.onnx")];
      const tensor = (data, shape) => new runtime.Tensor("float32", data, shape);
      bundle.networks = {
        async unet(sample, rows, columns, t) {
          const inputs = { sample: tensor(sample, [1, 4, rows, columns]), timestep: tensor(Float32Array.of(t), [1, 1]) };
          return (await unet.run(inputs)).prediction.data;
        },
        async decoder(latent, rows, columns) {
          return (await decoder.run({ latent: tensor(latent, [1, 4, rows, columns]) })).pixels.data;
        },
      };
    }
    return bundle.networks;
  }
}
