// A PNG of decoded pixels, which browsers show in the color space of its profile. (PNG, third edition.)
import { crc32 } from "./parse.mjs";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const UP = 2; // the filter: each byte minus the one above

/** Where the pixel (x, y) of the upright picture lies among stored ones, width x height, by EXIF orientation. */
const SOURCES = [
  (x, y) => [x, y],
  (x, y, width) => [width - 1 - x, y],
  (x, y, width, height) => [width - 1 - x, height - 1 - y],
  (x, y, width, height) => [x, height - 1 - y],
  (x, y) => [y, x],
  (x, y, width, height) => [y, height - 1 - x],
  (x, y, width, height) => [width - 1 - y, height - 1 - x],
  (x, y, width) => [width - 1 - y, x],
];

/** Upright samples of a file: channels interleaved, one or three of color, and one of alpha where it has a plane. */
export function upright(file, levels) {
  const alpha = file.chunks.get("ALPH")?.[0];
  const colors = file.gray ? 1 : 3;
  const channels = colors + (alpha ? 1 : 0);
  const isTurned = file.orientation > 4;
  const [width, height] = isTurned ? [file.height, file.width] : [file.width, file.height];
  const source = SOURCES[file.orientation - 1];
  const samples = new Uint8Array(width * height * channels);
  let to = 0;
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const [column, row] = source(x, y, file.width, file.height);
      const place = row * file.width + column;
      for (let c = 0; c < colors; c += 1) samples[to++] = levels[3 * place + c];
      if (alpha) samples[to++] = alpha[place];
    }
  }
  return { width, height, channels, samples };
}

/** The PNG of upright samples, with the ICC profile of the file if it is one for such pixels. */
export async function encodePng({ width, height, channels, samples }, icc) {
  const stride = width * channels;
  const rows = new Uint8Array(height * (stride + 1));
  for (let y = 0; y < height; y += 1) {
    const to = y * (stride + 1);
    const from = y * stride;
    rows[to] = UP;
    for (let i = 0; i < stride; i += 1) rows[to + 1 + i] = samples[from + i] - (y ? samples[from - stride + i] : 0);
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, [0, 4, 2, 6][channels - 1]], 8);
  const parts = [Uint8Array.from(SIGNATURE), chunk("IHDR", header)];
  if (icc && describes(icc, channels)) {
    const name = new TextEncoder().encode("ICC profile\0\0"); // its end, then the compression method
    parts.push(chunk("iCCP", joined([name, await deflated(icc)])));
  }
  parts.push(chunk("IDAT", await deflated(rows)), chunk("IEND", new Uint8Array(0)));
  return joined(parts);
}

/** Whether a profile's color model is that of the pixels. */
function describes(icc, channels) {
  const model = String.fromCharCode(...icc.subarray(16, 20));
  return model === (channels < 3 ? "GRAY" : "RGB ");
}

async function deflated(data) {
  const stream = new Blob([data]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function chunk(tag, content) {
  const body = joined([new TextEncoder().encode(tag), content]);
  const out = new Uint8Array(body.length + 8);
  const view = new DataView(out.buffer);
  view.setUint32(0, content.length);
  out.set(body, 4);
  view.setUint32(out.length - 4, crc32(body));
  return out;
}

function joined(parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let place = 0;
  for (const part of parts) {
    out.set(part, place);
    place += part.length;
  }
  return out;
}
