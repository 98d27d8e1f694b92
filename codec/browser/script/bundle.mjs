// The tensors of a safetensors file (FORMAT.md section 7).
import { check } from "./errors.mjs";

const TYPES = { I32: Int32Array, I16: Int16Array, F16: Uint16Array, F32: Float32Array };

/** Returns a map from name to { data, shape }; `bytes` is the whole file. */
export function readSafetensors(bytes) {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  check(length > 0 && 8 + length <= bytes.length, "the bundle's tensors are cut short");
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const tensors = new Map();
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [start, stop] = data_offsets;
    check(dtype in TYPES, `the bundle's tensor ${name} has the unknown type ${dtype}`);
    const copied = bytes.slice(8 + length + start, 8 + length + stop); // aligned, which the file need not be
    tensors.set(name, { data: new TYPES[dtype](copied.buffer), shape });
  }
  return tensors;
}
