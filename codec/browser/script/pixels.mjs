// From symbols to pixels (FORMAT.md section 5): dequantization, DDIM with the U-Net, the decoder, in tiles.
import { check } from "./errors.mjs";
import { CHANNELS, rint } from "./grids.mjs";
import { offsetOf } from "./symbols.mjs";

const REDUCTION = 8;
const round32 = Math.fround;

/** What section 5 takes from a bundle: its steps, schedule and the networks' reach. */
export class PixelModel {
  /**
   * `files` has the bundle's own JSON documents: bundle, scheduler, unet, vae. The two networks are functions of a Float32Array
   * (4, rows, columns) and its sides, and for the U-Net a timestep, that promise a Float32Array.
   */
  constructor({ bundle, scheduler, unet, vae }, networks) {
    this.steps = bundle.steps;
    this.hasDither = bundle.entropy.dither ?? false;
    this.logSnr = logSnrTable(scheduler);
    this.predictsVelocity = (scheduler.prediction_type ?? "epsilon") === "v_prediction";
    this.networks = networks;
    // with a margin of a network's reach, tiles equal the whole: these are smaller than elsewhere, to need less memory
    this.unetTiles = { side: 256, margin: unetReach(unet), multiple: 4 };
    this.decoderTiles = { side: 128, margin: decoderReach(vae), multiple: 1 };
  }

  /** abar at a real timestep. */
  alphaBar(t) {
    const position = Math.min(999, Math.max(0, t));
    const below = Math.min(998, Math.floor(position));
    const low = this.logSnr[below];
    return 1 / (1 + Math.exp(-(low + (this.logSnr[below + 1] - low) * (position - below))));
  }

  /** The file's pixels as stored: width x height x 3 levels. `progress(part, share)` is called now and then. */
  async decode(file, symbols, progress = () => {}) {
    const height = Math.ceil(file.height / REDUCTION);
    const width = Math.ceil(file.width / REDUCTION);
    let latent = this.dequantized(file, symbols, height, width);
    const start = performance.now();
    if (file.timestepCode > 0) latent = await this.denoised(latent, height, width, file.timestepCode / 8, progress);
    const middle = performance.now();
    const levels = await this.levels(latent, height, width, file, progress);
    return { levels, seconds: { denoise: (middle - start) / 1000, decoder: (performance.now() - middle) / 1000 } };
  }

  dequantized(file, symbols, height, width) {
    const latent = new Float32Array(symbols.length);
    const area = height * width;
    for (let c = 0; c < CHANNELS; c += 1) {
      const rate = round32(2 ** ((file.alphaCodes[c] - 128) / 32));
      for (let place = 0; place < area; place += 1) {
        const j = this.hasDither ? offsetOf(c, Math.floor(place / width), place % width) : 0;
        latent[c * area + place] = round32(symbols[c * area + place] - j / 32) / rate;
      }
    }
    return latent;
  }

  async denoised(latent, height, width, t, progress) {
    const { steps } = this;
    const root = round32(Math.sqrt(round32(this.alphaBar(t))));
    let x = latent.map((value) => root * value);
    for (let i = 0; i < steps; i += 1) {
      const now = round32(t * round32((steps - i) / steps));
      const signal = round32(Math.sqrt(this.alphaBar(now)));
      const noise = round32(Math.sqrt(1 - this.alphaBar(now)));
      const predicted = await this.predict(x, height, width, now, (share) => progress("noise", (i + share) / steps));
      const eps = this.predictsVelocity
        ? predicted.map((value, place) => round32(signal * value) + round32(noise * x[place]))
        : predicted;
      const clean = x.map((value, place) => round32(value - round32(noise * eps[place])) / signal);
      if (i + 1 === steps) return clean;
      const next = this.alphaBar(round32(t * round32((steps - i - 1) / steps)));
      const [nextSignal, nextNoise] = [round32(Math.sqrt(next)), round32(Math.sqrt(1 - next))];
      x = clean.map((value, place) => round32(nextSignal * value) + round32(nextNoise * eps[place]));
    }
    return latent;
  }

  /** The U-Net's output on a whole latent. */
  async predict(x, height, width, t, progress) {
    const out = new Float32Array(x.length);
    const { multiple } = this.unetTiles;
    await eachTile(height, width, this.unetTiles, progress, async ([top, bottom], [left, right], kept) => {
      const [rows, columns] = [bottom - top, right - left];
      const [high, wide] = [rows, columns].map((length) => Math.ceil(length / multiple) * multiple);
      const tile = cropped(x, height, width, top, left, rows, columns, high, wide);
      copy(await this.networks.unet(tile, high, wide, t), high, wide, top, left, kept, out, height, width, CHANNELS);
    });
    return out;
  }

  async levels(latent, height, width, file, progress) {
    const levels = new Uint8ClampedArray(file.width * file.height * 3);
    const report = (share) => progress("pixels", share);
    await eachTile(height, width, this.decoderTiles, report, async ([top, bottom], [left, right], kept) => {
      const [rows, columns] = [bottom - top, right - left];
      const tile = cropped(latent, height, width, top, left, rows, columns, rows, columns);
      const pixels = await this.networks.decoder(tile, rows, columns);
      const stride = columns * REDUCTION;
      const plane = rows * REDUCTION * stride;
      const lastRow = Math.min(file.height, kept.bottom * REDUCTION);
      const lastColumn = Math.min(file.width, kept.right * REDUCTION);
      for (let v = kept.top * REDUCTION; v < lastRow; v += 1) {
        for (let h = kept.left * REDUCTION; h < lastColumn; h += 1) {
          const from = (v - top * REDUCTION) * stride + h - left * REDUCTION;
          const to = 3 * (v * file.width + h);
          let sum = 0;
          for (let c = 0; c < 3; c += 1) {
            const scaled = round32(round32(pixels[c * plane + from] + 1) * 127.5);
            levels[to + c] = rint(Math.min(255, Math.max(0, scaled)));
            sum += levels[to + c];
          }
          if (file.gray) levels.fill(rint(sum / 3), to, to + 3);
        }
      }
    });
    return levels;
  }
}

/** log(abar / (1 - abar)) at the integer timesteps. */
function logSnrTable({ beta_start: first = 0.0001, beta_end: last = 0.02, beta_schedule: kind, ...others }) {
  const power = { linear: 1, scaled_linear: 2 }[kind];
  check(power && !others.trained_betas && !others.rescale_betas_zero_snr, "the bundle's noise schedule is not known to this page");
  const [from, to] = [first ** (1 / power), last ** (1 / power)];
  const table = new Float64Array(1000);
  let product = 1;
  for (let i = 0; i < 1000; i += 1) {
    product *= 1 - (from + ((to - from) * i) / 999) ** power;
    const alphaBar = Math.max(2 ** -24, product);
    table[i] = Math.log(alphaBar / (1 - alphaBar));
  }
  return table;
}

/** Latents at which a latent can still act on the U-Net's prediction, tiles that start at multiples of 4 included. */
function unetReach({ blocks }) {
  const convolutions = 2 * blocks;
  // both ways at full and half resolution, once at a quarter; two strides; the alignment of tiles
  return 2 * (1 + convolutions) + 2 * 2 * convolutions + 4 * convolutions + 3 + 3;
}

function decoderReach({ decoder_blocks: [half, quarter, eighth] }) {
  const pixels = 8 * (1 + 2 * eighth) + 4 * 2 * quarter + 2 * (2 * half + 1);
  return Math.ceil(pixels / REDUCTION);
}

const roundedUp = (length, multiple) => Math.ceil(length / multiple) * multiple;

/** The fewest tiles along a side, of nearly equal length, and of each the part that its output is kept for. */
export function cut(length, { side, margin, multiple }) {
  if (length <= side) return [{ span: [0, length], kept: [0, length] }];
  const overlap = roundedUp(2 * margin, multiple);
  const count = Math.ceil((length - overlap) / (side - overlap));
  const even = Math.ceil((length + (count - 1) * overlap) / count);
  const own = Math.min(side, roundedUp(even, multiple));
  const last = roundedUp(length, multiple) - own;
  const starts = Array.from({ length: count }, (_, i) => Math.floor(Math.floor((i * last) / (count - 1)) / multiple) * multiple);
  const tiles = starts.map((start) => [start, Math.min(start + own, length)]);
  const seams = [0, ...tiles.slice(1).map(([start], i) => Math.floor((start + tiles[i][1]) / 2)), length];
  return tiles.map((span, i) => ({ span, kept: [seams[i], seams[i + 1]] }));
}

async function eachTile(height, width, tiling, progress, run) {
  const columns = cut(width, tiling);
  const rows = cut(height, tiling);
  let done = 0;
  for (const row of rows) {
    for (const column of columns) {
      const kept = { top: row.kept[0], bottom: row.kept[1], left: column.kept[0], right: column.kept[1] };
      await run(row.span, column.span, kept);
      done += 1;
      progress(done / (rows.length * columns.length));
    }
  }
}

/** A tile of rows x columns, its last row and column repeated up to high x wide. */
function cropped(x, height, width, top, left, rows, columns, high, wide) {
  const tile = new Float32Array(CHANNELS * high * wide);
  for (let c = 0; c < CHANNELS; c += 1) {
    for (let v = 0; v < high; v += 1) {
      const from = (c * height + top + Math.min(v, rows - 1)) * width + left;
      const to = (c * high + v) * wide;
      for (let h = 0; h < wide; h += 1) tile[to + h] = x[from + Math.min(h, columns - 1)];
    }
  }
  return tile;
}

/** Copies what is kept of a tile's output. */
function copy(tile, high, wide, top, left, kept, out, height, width, channels) {
  for (let c = 0; c < channels; c += 1) {
    for (let v = kept.top; v < kept.bottom; v += 1) {
      const from = (c * high + v - top) * wide - left;
      out.set(tile.subarray(from + kept.left, from + kept.right), (c * height + v) * width + kept.left);
    }
  }
}
