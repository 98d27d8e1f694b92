// The entropy model: exact means and scales of symbols (FORMAT.md section 6).
//
// Numbers are whole multiples of their grid's unit. They are kept in units: Int32Array on S and O, Int16Array on all other
// grids. A quotient, a root and a product with 0.2 are float64; a power of two more or less does not change how they round.
import { check } from "./errors.mjs";
import { attendWindows, attendOne } from "./attention.mjs";
import { CHANNELS, grid, GRIDS, MAGIC, O, rint, S, snap } from "./grids.mjs";
import { Matrix } from "./kernel.mjs";
import { Parameters } from "./parameters.mjs";
import { readTables } from "./range_coder.mjs";

const INPUTS = { project: "N", merge: "M", expand: "N", contract: "H", inner: "N", outer: "H" };
const REACH = 16; // of the serial order

export class EntropyModel {
  /** `settings` is `entropy` of bundle.json, `tensors` what readSafetensors returns. */
  constructor(settings, tensors, kernel) {
    const name = settings.grids ?? "wide";
    check(name in GRIDS, `the bundle's grids ${name} are not known`);
    this.grids = Object.fromEntries(Object.entries(GRIDS[name]).map(([letter, bits]) => [letter, grid(bits)]));
    this.settings = settings;
    this.kernel = kernel;
    this.d = settings.dim;
    this.heads = settings.heads;
    this.size = this.d / this.heads;
    this.scale = 2 ** -rint(Math.log2(this.size) / 2 - 0.25);
    this.hasFinest = settings.finest_attention ?? true;
    this.tensor = (of) => {
      check(tensors.has(of), `the bundle lacks ${of}`);
      return tensors.get(of);
    };
    this.exponential = Float64Array.from(this.tensor("exponential").data);
    this.tables = readTables(this.tensor("counts").data);
    this.maps = new Map();
    for (const key of tensors.keys()) if (key.endsWith(".weight")) this.addMap(key.slice(0, -7));
    this.relative = {};
    for (const net of ["hyper_decoder", "context"]) {
      const { data, shape } = this.tensor(`${net}.relative`);
      this.relative[net] = { data, matrix: new Matrix(kernel, data, shape[0], shape[1], this.grids.Q.limit) };
    }
    this.cells = diamond(Math.floor(settings.positions / 2));
  }

  inputGrid(name) {
    if (name.endsWith("embed")) return this.grids[name.startsWith("hyper") ? "Z" : "K"];
    return this.grids[INPUTS[name.split(".").at(-1)] ?? "G"];
  }

  addMap(name) {
    const { data, shape: [outputs, inputs] } = this.tensor(`${name}.weight`);
    const fractions = this.tensor(`${name}.fraction`).data;
    const from = this.inputGrid(name);
    const bias = Float64Array.from(this.optional(`${name}.bias`) ?? new Float64Array(outputs));
    const units = Float64Array.from({ length: outputs }, (_, n) => 2 ** -(fractions[n % fractions.length] + from.fraction));
    const map = { bias, units, inputs, outputs, data };
    if (name === "parameter_net.inner") {
      // its columns by what they see, since the halves are computed apart
      const columns = (first, last) => this.matrix(part(data, inputs, first, last), outputs, last - first, from);
      map.hyper = columns(0, this.d);
      map.context = columns(this.d, 2 * this.d);
    } else {
      map.matrix = this.matrix(data, outputs, inputs, from);
    }
    this.maps.set(name, map);
  }

  optional(name) {
    try {
      return this.tensor(name).data;
    } catch {
      return null;
    }
  }

  matrix(data, outputs, inputs, from) {
    return new Matrix(this.kernel, data, outputs, inputs, from.limit);
  }

  /** Sets the four channels' alpha codes. */
  choose(codes) {
    this.codes = codes;
    this.alpha = codes.map((code) => this.tensor("alpha").data[code] / 4096);
    this.inverse = codes.map((code) => this.tensor("inverse").data[code] / 4096);
    this.rates = {};
    for (const net of ["hyper_decoder", "context"]) this.rates[net] = this.rate(`${net}.rate.table`);
  }

  /** A rate table's value, in units of S. */
  rate(name) {
    const { data, shape } = this.tensor(name);
    return Float64Array.from({ length: shape[1] }, (_, n) => {
      const sum = this.codes.reduce((total, code) => total + data[code * shape[1] + n], 0);
      return snap(sum / 4, S);
    });
  }

  /** Applies a linear map to rows of x and snaps to `to`; `added`, in units of `to`, is added before. */
  linear(name, x, count, to, out, added = null) {
    const { matrix, bias, units, outputs } = this.maps.get(name);
    const scale = units.map((unit) => unit * 2 ** to.fraction);
    const { limit } = to;
    matrix.apply(x, count, bias, (sums, rows, first) => {
      for (let row = 0; row < rows; row += 1) {
        const from = row * matrix.width;
        const at = (first + row) * outputs;
        for (let n = 0; n < outputs; n += 1) {
          let v = sums[from + n] * scale[n];
          if (added !== null) v += added[n];
          v = v > limit ? limit : v < -limit ? -limit : v;
          out[at + n] = v + MAGIC - MAGIC;
        }
      }
    });
    return out;
  }

  /** norm of rows of d numbers on S, on N. */
  norm(x, count) {
    const { d } = this;
    const { limit, fraction } = this.grids.N;
    const out = new Int16Array(count * d);
    const unit = 2 ** fraction;
    for (let start = 0; start < count * d; start += d) {
      let sum = 0;
      for (let i = 0; i < d; i += 1) sum += x[start + i];
      const m = snap(sum / d, S);
      let squares = 0;
      for (let i = 0; i < d; i += 1) squares += (x[start + i] - m) * (x[start + i] - m);
      // 2^-18 is one in squared units of S
      const root = Math.sqrt(squares / d + 1);
      for (let i = 0; i < d; i += 1) {
        let v = ((x[start + i] - m) / root) * unit;
        v = v > limit ? limit : v < -limit ? -limit : v;
        out[start + i] = v + MAGIC - MAGIC;
      }
    }
    return out;
  }

  leaky(x) {
    for (let i = 0; i < x.length; i += 1) if (x[i] < 0) x[i] = 0.2 * x[i] + MAGIC - MAGIC;
    return x;
  }

  /** x + y within S, in x. */
  add(x, y) {
    const { limit } = S;
    for (let i = 0; i < x.length; i += 1) {
      const v = x[i] + y[i];
      x[i] = v > limit ? limit : v < -limit ? -limit : v;
    }
    return x;
  }

  project(name, x, count) {
    return this.linear(`${name}.project`, this.norm(x, count), count, this.grids.Q, new Int16Array(3 * count * this.d));
  }

  /** Does what a block does after its attention, in x. */
  merge(name, x, a, count) {
    this.add(x, this.linear(`${name}.merge`, a, count, S, new Int32Array(x.length)));
    const hidden = this.maps.get(`${name}.expand`).outputs;
    const u = this.linear(`${name}.expand`, this.norm(x, count), count, this.grids.H, new Int16Array(count * hidden));
    return this.add(x, this.linear(`${name}.contract`, this.leaky(u), count, S, new Int32Array(x.length)));
  }

  /**
   * A block with windows on x, rows x columns x d. In the context transformer, `wanted` are the positions of the tile
   * whose result is of use, or null for all; the result has their rows alone.
   */
  block(net, index, x, rows, columns, size, wanted = null) {
    const name = `${net}.blocks.${index}`;
    const parts = this.project(name, x, rows * columns);
    const a = attendWindows(this, net, parts, rows, columns, size, index % 2 === 1, wanted);
    if (wanted === null) return this.merge(name, x, a, rows * columns);
    return this.merge(name, gathered(x, wanted, this.d), gathered(a, wanted, this.d), wanted.length);
  }

  /** m and s of the hyper-latent's channels. */
  prior() {
    const all = this.rate("prior.table").map((v) => snap(v * 2 ** (O.fraction - S.fraction), O));
    const half = all.length / 2;
    const [m, s] = [new Int32Array(half), new Int32Array(half)];
    for (let c = 0; c < half; c += 1) {
      m[c] = this.meanOf(all[c], 1);
      s[c] = this.levelOf(all[half + c], 128);
    }
    return { m, s };
  }

  meanOf(mean, alpha) {
    return snap(mean * 2 ** -O.fraction * alpha * 32, { limit: 2 ** 21 - 1 });
  }

  levelOf(e, code) {
    return Math.min(127, Math.max(0, rint(16 * e * 2 ** -O.fraction + this.tensor("level").data[code] / 64)));
  }

  /** norm(hyper) of a tile, rows x columns x d, from its hyper-latent, channels x ceil(rows / u) x ceil(columns / u). */
  hyperDecoder(z, rows, columns) {
    const { d, settings } = this;
    const { Z, G } = this.grids;
    let high = Math.ceil(rows / 2 ** settings.halvings);
    let wide = Math.ceil(columns / 2 ** settings.halvings);
    const channels = settings.hyper_channels;
    const count = high * wide;
    const inputs = new Int16Array(count * channels);
    for (let c = 0; c < channels; c += 1) {
      for (let at = 0; at < count; at += 1) inputs[at * channels + c] = snap(z[c * count + at] * 2 ** Z.fraction, Z);
    }
    let x = new Int32Array(count * d);
    this.linear("hyper_decoder.embed", inputs, count, S, x, this.rates.hyper_decoder);
    x = this.block("hyper_decoder", 0, x, high, wide, 16);
    for (let index = 0; index < settings.halvings; index += 1) {
      const shrunk = Int16Array.from(x, (v) => snap(v * 2 ** (G.fraction - S.fraction), G));
      x = this.grow(index, shrunk, high, wide);
      high *= 2;
      wide *= 2;
      if (index + 1 < settings.halvings || this.hasFinest) x = this.block("hyper_decoder", index + 1, x, high, wide, 16);
    }
    const kept = new Int32Array(rows * columns * d);
    for (let v = 0; v < rows; v += 1) kept.set(x.subarray(v * wide * d, (v * wide + columns) * d), v * columns * d);
    return this.norm(kept, rows * columns);
  }

  /** Doubles the resolution: a linear map of each 3 x 3 neighborhood gives 2 x 2 positions. */
  grow(index, x, high, wide) {
    const { d } = this;
    const out = new Int32Array(4 * high * wide * d);
    const near = new Int16Array(wide * 9 * d);
    const grown = new Int32Array(wide * 4 * d);
    for (let v = 0; v < high; v += 1) {
      near.fill(0);
      for (let h = 0; h < wide; h += 1) {
        for (let cell = 0; cell < 9; cell += 1) {
          const row = v + Math.floor(cell / 3) - 1;
          const column = h + (cell % 3) - 1;
          if (row < 0 || row >= high || column < 0 || column >= wide) continue;
          const from = (row * wide + column) * d;
          near.set(x.subarray(from, from + d), (h * 9 + cell) * d);
        }
      }
      this.linear(`hyper_decoder.grow.${index}`, near, wide, S, grown);
      for (let h = 0; h < wide; h += 1) {
        for (let corner = 0; corner < 4; corner += 1) {
          const to = (2 * v + (corner >> 1)) * 2 * wide + 2 * h + (corner & 1);
          out.set(grown.subarray((4 * h + corner) * d, (4 * h + corner + 1) * d), to * d);
        }
      }
    }
    return out;
  }

  /** Begins the context transformer: `symbols` has 4 or 16 numbers k - j / 32 for each position. */
  embed(symbols, count) {
    const { K } = this.grids;
    const width = symbols.length / count;
    const inputs = new Int16Array(2 * symbols.length);
    for (let at = 0; at < count; at += 1) {
      for (let i = 0; i < width; i += 1) {
        const known = symbols[at * width + i];
        inputs[2 * at * width + i] = snap(known * 2 ** K.fraction, K);
        inputs[(2 * at + 1) * width + i] = snap(known * this.inverse[i % CHANNELS] * 2 ** K.fraction, K);
      }
    }
    return this.linear("context.embed", inputs, count, S, new Int32Array(count * this.d), this.rates.context);
  }

  /** Rows of S on the grid of contexts. */
  asContext(x) {
    const { N } = this.grids;
    return Int16Array.from(x, (v) => snap(v * 2 ** (N.fraction - S.fraction), N));
  }

  /** The context of the positions `wanted` of a tile in parallel order, from symbols that are zero but for anchors. */
  context(symbols, rows, columns, wanted) {
    const { depth } = this.settings;
    let x = this.embed(symbols, rows * columns);
    for (let index = 0; index < depth; index += 1) {
      x = this.block("context", index, x, rows, columns, 32, index === depth - 1 ? wanted : null);
    }
    return this.asContext(depth > 0 ? x : gathered(x, wanted, this.d));
  }

  /** A position's context in serial order; `symbols` is (rows + 1) x (columns + 2) x 4 with zeros around the tile. */
  serialContext(cache, symbols, v, h, columns) {
    const { d } = this;
    const near = [[v, h], [v, h + 1], [v, h + 2], [v + 1, h]].map(([row, column]) => row * (columns + 2) + column);
    const inputs = Float64Array.from({ length: 16 }, (_, i) => symbols[CHANNELS * near[i >> 2] + (i & 3)]);
    const x = this.embed(inputs, 1);
    const [left, right] = [Math.max(0, h - REACH), Math.min(columns, h + REACH + 1)];
    const keys = [];
    for (let row = Math.max(0, v - REACH); row <= v; row += 1) {
      for (let column = left; column < (row < v ? right : h + 1); column += 1) keys.push([row, column]);
    }
    for (let index = 0; index < this.settings.depth; index += 1) {
      const name = `context.blocks.${index}`;
      const parts = this.project(name, x, 1);
      cache[index].set(parts.subarray(d), 2 * d * (v * columns + h));
      this.merge(name, x, attendOne(this, parts, cache[index], keys, v, h, columns), 1);
    }
    return this.asContext(x);
  }

  /** Begins the parameter net for positions whose norm(hyper) and context, or null for zeros, are given. */
  parameters(hyper, context, count) {
    return new Parameters(this, hyper, context, count);
  }
}

/** Columns first..last - 1 of a matrix with `inputs` columns. */
function part(data, inputs, first, last) {
  const rows = data.length / inputs;
  const width = last - first;
  return Int16Array.from({ length: rows * width }, (_, i) => data[Math.floor(i / width) * inputs + first + (i % width)]);
}

/** The rows of x at `places`. */
export function gathered(x, places, width) {
  const out = new x.constructor(places.length * width);
  places.forEach((place, at) => out.set(x.subarray(place * width, (place + 1) * width), at * width));
  return out;
}

/** The offsets (dv, dh) of a diamond's cells in raster order. */
function diamond(reach) {
  const cells = [];
  for (let v = -reach; v <= reach; v += 1) {
    for (let h = -reach; h <= reach; h += 1) if (Math.abs(v) + Math.abs(h) <= reach) cells.push([v, h]);
  }
  return cells;
}
