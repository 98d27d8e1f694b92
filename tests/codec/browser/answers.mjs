// What the page's modules make of .fdc files: the digest of their symbols, or why they refuse them.
import { readSafetensors } from "/page/bundle.mjs";
import { EntropyModel } from "/page/entropy_model.mjs";
import { FdcError } from "/page/errors.mjs";
import { Kernel } from "/page/kernel.mjs";
import { hexadecimal, parse } from "/page/parse.mjs";
import { decodeSymbols, knownAnswer } from "/page/symbols.mjs";

const models = new Map();
const text = await (await fetch("/page/kernel.wat")).text();
const bytes = async (path) => new Uint8Array(await (await fetch(path)).arrayBuffer());

async function modelOf(folder) {
  if (!models.has(folder)) {
    const { entropy } = await (await fetch(`${folder}/bundle.json`)).json();
    models.set(folder, new EntropyModel(entropy, readSafetensors(await bytes(`${folder}/entropy.safetensors`)), new Kernel(text)));
  }
  return models.get(folder);
}

async function digest(numbers) {
  const data = new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
  return hexadecimal(new Uint8Array(await crypto.subtle.digest("SHA-256", data)));
}

async function answer(folder, path) {
  const model = await modelOf(folder);
  if (path === null) return { known: await digest(knownAnswer(model)) };
  const file = parse(await bytes(path));
  const start = performance.now();
  const decoded = decodeSymbols(file, model);
  const seconds = (performance.now() - start) / 1000;
  const chunks = {};
  for (const [tag, contents] of file.chunks) chunks[tag] = await Promise.all(contents.map(digest));
  const { width, height, gray, orientation, skipped } = file;
  return { symbols: await digest(decoded), width, height, gray, orientation, chunks, skipped, seconds };
}

/** Answers [bundle's folder, file] pairs, paths on this server; with null for a file, the bundle's known answer. */
export async function answers(pairs) {
  const found = [];
  for (const [folder, path] of pairs) {
    try {
      found.push(await answer(folder, path));
    } catch (error) {
      if (!(error instanceof FdcError)) throw error;
      found.push({ error: error.message });
    }
  }
  return found;
}
