// The range coder and its tables (FORMAT.md sections 2 and 3). Whole numbers below 2^64 are BigInt.
import { check } from "./errors.mjs";

const BITS_32 = 0xffffffffn;
const TWO_32 = 2n ** 32n;
const TWO_64 = 2n ** 64n;
const HALVES = Float64Array.of(0, 2 ** 23, 2 ** 24);

/** Running sums 0, C_1, ..., 2^24 and the reach R of the table (s, f), at 32 s + f. */
export function readTables(counts) {
  const tables = [];
  let start = 0;
  for (let s = 0; s < 128; s += 1) {
    // sigma is 64 at level 127; the subtraction keeps a rounding error there from counting
    const reach = Math.ceil(6 * 0.06 * (64 / 0.06) ** (s / 127) - 1e-9) + 2;
    const size = 2 * reach + 2;
    for (let f = 0; f < 32; f += 1, start += size) {
      const sums = new Float64Array(size + 1);
      for (let e = 0; e < size; e += 1) sums[e + 1] = sums[e] + counts[start + e];
      tables.push({ sums, reach });
    }
  }
  check(start === counts.length, "the bundle's tables have a wrong length");
  return tables;
}

/** Decodes symbols from a stream, and encodes them again beside it: a stream has one form only. */
export class RangeDecoder {
  constructor(stream, tables) {
    const view = new DataView(stream.buffer, stream.byteOffset, stream.length);
    this.words = Uint32Array.from({ length: stream.length / 4 }, (_, word) => view.getUint32(4 * word, true));
    this.tables = tables;
    this.next = 2;
    this.range = TWO_64 - 1n;
    this.offset = (BigInt(this.words[0]) << 32n) | BigInt(this.words[1] ?? 0);
    this.information = 0;
    this.again = new RangeEncoder();
  }

  /** Decodes the next entry of the table with these running sums. */
  entry(sums) {
    const scale = this.range >> 24n;
    const target = Number(this.offset / scale);
    check(target < 2 ** 24, "the stream is damaged");
    let e = 0;
    for (let above = sums.length - 1; above - e > 1; ) {
      const middle = (e + above) >> 1;
      if (sums[middle] <= target) e = middle;
      else above = middle;
    }
    const count = sums[e + 1] - sums[e];
    this.offset -= scale * BigInt(sums[e]);
    this.range = scale * BigInt(count);
    this.again.entry(BigInt(sums[e]), BigInt(count));
    this.information += 24 - Math.log2(count);
    check(this.information <= 32 * this.words.length + 1, "the stream ran out");
    if (this.range < TWO_32) {
      this.range <<= 32n;
      this.offset = (this.offset << 32n) | BigInt(this.words[this.next] ?? 0);
      this.next += 1;
    }
    return e;
  }

  /** Decodes the next symbol, which has mean m in 1/32 and scale level s. */
  symbol(m, s, limit = 2 ** 15 - 1) {
    const q = Math.floor(m / 32);
    const { sums, reach } = this.tables[32 * s + m - 32 * q];
    let r = this.entry(sums) - reach;
    if (r > reach) {
      const v = this.escaped();
      r = (Math.floor(v / 2) + reach + 1) * (v % 2 ? -1 : 1);
    }
    check(Math.abs(r + q) <= limit, "a symbol is too large");
    return r + q;
  }

  escaped() {
    let zeros = 0;
    while (this.entry(HALVES) === 0) {
      zeros += 1;
      check(zeros <= 17, "an escape is too long");
    }
    let value = 1;
    for (let bit = 0; bit < zeros; bit += 1) value = 2 * value + this.entry(HALVES);
    return value - 1;
  }

  /** Throws FdcError unless every word was needed, and the stream is the one of its symbols. */
  finish(isCanonical) {
    check(this.next >= this.words.length, "the stream has words that nothing needs");
    check(this.offset < 2n ** 33n - 1n, "the stream's end is damaged");
    if (!isCanonical) return;
    const written = this.again.finish();
    const isSame = written.length === this.words.length && written.every((word, place) => word === this.words[place]);
    check(isSame, "the stream is not the one of its symbols");
  }
}

class RangeEncoder {
  constructor() {
    this.words = [];
    this.low = 0n;
    this.range = TWO_64 - 1n;
  }

  entry(below, count) {
    const scale = this.range >> 24n;
    this.add(scale * below);
    this.range = scale * count;
    if (this.range < TWO_32) {
      this.range <<= 32n;
      this.words.push(Number(this.low >> 32n));
      this.low = (this.low & BITS_32) << 32n;
    }
  }

  /** Adds to `low`, and a carry to the words before it. */
  add(value) {
    this.low += value;
    if (this.low < TWO_64) return;
    this.low -= TWO_64;
    let place = this.words.length - 1;
    for (; this.words[place] === 0xffffffff; place -= 1) this.words[place] = 0;
    this.words[place] += 1;
  }

  finish() {
    const last = (this.low + this.range) >> 32n;
    this.add(TWO_32 - 1n);
    this.words.push(Number(this.low >> 32n));
    if (Number(last & BITS_32) === this.words.at(-1)) this.words.push(0);
    return this.words;
  }
}
