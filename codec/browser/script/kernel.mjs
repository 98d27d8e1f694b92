// Exact products of 16-bit matrices by kernel.wat.
import { assemble } from "./assembler.mjs";

export const BLOCK = 64; // rows that are multiplied at once
const MOST = 2 ** 31 - 1; // of a 32-bit sum

/** The compiled kernel, and the memory in which it finds matrices. */
export class Kernel {
  constructor(text) {
    this.memory = new WebAssembly.Memory({ initial: 1 });
    const module = new WebAssembly.Module(assemble(text));
    this.multiply = new WebAssembly.Instance(module, { page: { memory: this.memory } }).exports.multiply;
    this.used = 0;
    this.x = new Area(this, Int16Array);
    this.out = new Area(this, Float64Array);
    this.keys = new Area(this, Int16Array);
  }

  /** Views of the areas of inputs and results. Growing the memory would detach views that were taken before. */
  views(inputs, results) {
    this.x.reserve(inputs);
    this.out.reserve(results);
    return { x: this.x.view(inputs), out: this.out.view(results) };
  }

  /** Reserves bytes for good and returns where. */
  allocate(bytes) {
    const place = this.used;
    this.used += Math.ceil(bytes / 16) * 16;
    const missing = this.used - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / 65536));
    return place;
  }
}

/** A part of the kernel's memory that is written anew for each call, and grows. */
class Area {
  constructor(kernel, Type) {
    this.kernel = kernel;
    this.Type = Type;
    this.place = 0;
    this.size = 0;
  }

  reserve(length) {
    if (length <= this.size) return;
    this.size = length;
    this.place = this.kernel.allocate(length * this.Type.BYTES_PER_ELEMENT);
  }

  view(length) {
    this.reserve(length);
    return new this.Type(this.kernel.memory.buffer, this.place, length);
  }
}

/**
 * How a matrix lies in the kernel's memory, by the largest sum that a row of it can reach with inputs of magnitude
 * `largest`: whole, or with its weights' bytes apart and its columns in portions, so that no sum leaves 32 bits.
 */
export class Layout {
  constructor(columns, largest, rowSum) {
    this.isSplit = rowSum * largest > MOST;
    this.group = this.isSplit ? 4 : 8;
    this.pairs = Math.ceil(columns / 2);
    // low bytes are -128..127 and high bytes at most 128 in magnitude
    this.portion = this.isSplit ? Math.floor(MOST / (128 * largest) / 2) : this.pairs;
  }

  /** Writes `rows` x `columns` numbers of `source` for the kernel: portions of pairs, in them groups, in them pairs. */
  write(target, source, rows, columns) {
    const groups = Math.ceil(rows / this.group);
    const at = (row, column) => (row < rows && column < columns ? source(row, column) : 0);
    let place = 0;
    for (let first = 0; first < this.pairs; first += this.portion) {
      const last = Math.min(this.pairs, first + this.portion);
      for (let group = 0; group < groups; group += 1) {
        for (let pair = first; pair < last; pair += 1, place += 16) {
          for (let lane = 0; lane < 8; lane += 1) {
            const row = group * this.group + (lane >> 1);
            const column = 2 * pair + (lane & 1);
            const weight = at(row, column);
            const low = ((weight + 128) & 255) - 128;
            target[place + lane] = this.isSplit ? low : weight;
            target[place + 8 + lane] = this.isSplit ? (weight - low) / 256 : at(row + 4, column);
          }
        }
      }
    }
    return groups;
  }

  length(rows) {
    return Math.ceil(rows / this.group) * this.pairs * 16;
  }

  /** Adds the products of `rows` rows in the kernel's x to its out, both of which the caller has filled. */
  multiply(kernel, place, rows, groups) {
    const stride = 4 * this.pairs;
    const width = 8 * groups * this.group;
    const padded = Math.ceil(rows / 4) * 4;
    for (let first = 0; first < this.pairs; first += this.portion) {
      const pairs = Math.min(this.portion, this.pairs - first);
      const x = kernel.x.place + 4 * first;
      kernel.multiply(x, stride, place, kernel.out.place, width, padded, pairs, groups, this.isSplit ? 1 : 0);
      place += groups * pairs * 32;
    }
  }
}

/** int16 weights, outputs x inputs, ready for inputs of magnitude at most `largest`. */
export class Matrix {
  constructor(kernel, weights, outputs, inputs, largest) {
    let rowSum = 0;
    for (let row = 0; row < outputs; row += 1) {
      let sum = 0;
      for (let column = 0; column < inputs; column += 1) sum += Math.abs(weights[row * inputs + column]);
      rowSum = Math.max(rowSum, sum);
    }
    this.kernel = kernel;
    this.outputs = outputs;
    this.inputs = inputs;
    this.layout = new Layout(inputs, largest, rowSum);
    const length = this.layout.length(outputs);
    this.place = kernel.allocate(2 * length);
    const target = new Int16Array(kernel.memory.buffer, this.place, length);
    this.groups = this.layout.write(target, (row, column) => weights[row * inputs + column], outputs, inputs);
    this.width = this.groups * this.layout.group; // columns of the result, of which `outputs` are of use
  }

  /**
   * Calls `finish(sums, rows, first)` for every block of rows of x: `sums` has this.width numbers for each of `rows`
   * rows, the first of them row `first` of x; to begin with each is `start[output]`.
   */
  apply(x, count, start, finish) {
    const { kernel, inputs, width, outputs } = this;
    const padded = 2 * this.layout.pairs;
    for (let first = 0; first < count; first += BLOCK) {
      const rows = Math.min(BLOCK, count - first);
      const { x: input, out: sums } = kernel.views(BLOCK * padded, BLOCK * width);
      if (padded === inputs) {
        input.set(x.subarray(first * inputs, (first + rows) * inputs));
      } else {
        for (let row = 0; row < rows; row += 1) {
          const from = (first + row) * inputs;
          input.set(x.subarray(from, from + inputs), row * padded);
        }
      }
      sums.fill(0);
      if (start) for (let row = 0; row < rows; row += 1) sums.set(start.subarray(0, outputs), row * width);
      this.layout.multiply(kernel, this.place, rows, this.groups);
      finish(sums, rows, first);
    }
  }
}
