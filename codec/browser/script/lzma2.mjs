// LZMA2 data, the payload of chunks (FORMAT.md section 1; the xz file format 1.2.1, filter 0x21).
import { check } from "./errors.mjs";

const DICTIONARY = 2 ** 20;
const DAMAGED = "a chunk is damaged";

/** Decodes LZMA2 data, the whole of `data`, which must hold from `least` to `most` bytes. */
export function unpack(data, least, most) {
  const coder = new Lzma(data, most);
  let place = 0;
  let hasDictionary = false;
  for (;;) {
    check(place < data.length, DAMAGED);
    const control = data[place];
    if (control === 0) break;
    check(place + 3 <= data.length, DAMAGED);
    const size = data[place + 1] * 256 + data[place + 2] + 1;
    if (control < 3) {
      // bytes as they are; 1 also resets the dictionary
      check((hasDictionary || control === 1) && place + 3 + size <= data.length, DAMAGED);
      if (control === 1) coder.resetDictionary();
      hasDictionary = true;
      coder.copy(place + 3, size);
      place += 3 + size;
      continue;
    }
    check(control >= 0x80 && place + 6 <= data.length, DAMAGED);
    const reset = (control >> 5) & 3;
    check(hasDictionary || reset === 3, DAMAGED);
    if (reset === 3) coder.resetDictionary();
    hasDictionary = true;
    const unpacked = (control & 31) * 65536 + size;
    const packed = data[place + 3] * 256 + data[place + 4] + 1;
    place += 5;
    if (reset >= 2) {
      check(coder.setProperties(data[place]), DAMAGED);
      place += 1;
    }
    check(coder.hasProperties, DAMAGED);
    if (reset >= 1) coder.resetState();
    check(coder.hasState && place + packed <= data.length, DAMAGED);
    coder.run(place, packed, unpacked);
    place += packed;
  }
  check(place + 1 === data.length, "a chunk does not end with its LZMA2 data");
  check(coder.length >= least, "a chunk's content has a wrong length");
  return coder.out.slice(0, coder.length);
}

const bits = (count) => new Uint16Array(count).fill(1024);

/** A decoder of LZMA, whose output grows as far as `most`. */
class Lzma {
  constructor(data, most) {
    this.data = data;
    this.most = most;
    this.out = new Uint8Array(Math.min(most, Math.max(4096, 4 * data.length)));
    this.length = 0;
    this.start = 0; // of the dictionary
    this.hasProperties = false;
    this.hasState = false;
  }

  resetDictionary() {
    this.start = this.length;
    this.hasProperties = false;
    this.hasState = false;
  }

  setProperties(byte) {
    this.lc = byte % 9;
    this.lp = Math.floor(byte / 9) % 5;
    this.pb = Math.floor(byte / 45);
    this.hasProperties = byte < 225 && this.lc + this.lp <= 4;
    return this.hasProperties;
  }

  resetState() {
    this.hasState = true;
    this.state = 0;
    this.reps = [0, 0, 0, 0];
    this.literal = bits(0x300 << (this.lc + this.lp));
    this.isMatch = bits(12 * 16);
    this.isRep = bits(12);
    this.isRep0 = bits(12);
    this.isRep1 = bits(12);
    this.isRep2 = bits(12);
    this.isRep0Long = bits(12 * 16);
    this.slots = bits(4 * 64);
    this.special = bits(128);
    this.align = bits(16);
    this.lengths = { choice: bits(2), low: bits(16 * 8), middle: bits(16 * 8), high: bits(256) };
    this.repLengths = { choice: bits(2), low: bits(16 * 8), middle: bits(16 * 8), high: bits(256) };
  }

  reserve(size) {
    check(this.length + size <= this.most, "a chunk's content has a wrong length");
    if (this.length + size <= this.out.length) return;
    const larger = new Uint8Array(Math.min(this.most, Math.max(this.length + size, 2 * this.out.length)));
    larger.set(this.out.subarray(0, this.length));
    this.out = larger;
  }

  copy(place, size) {
    this.reserve(size);
    this.out.set(this.data.subarray(place, place + size), this.length);
    this.length += size;
  }

  /** Decodes `unpacked` bytes from `packed` ones at `place`. */
  run(place, packed, unpacked) {
    this.reserve(unpacked);
    this.place = place + 5;
    this.limit = place + packed;
    check(packed >= 5 && this.data[place] === 0, DAMAGED);
    this.range = 0xffffffff;
    this.code = 0;
    for (let i = 1; i < 5; i += 1) this.code = ((this.code << 8) | this.data[place + i]) >>> 0;
    const end = this.length + unpacked;
    while (this.length < end) this.step(end);
    this.normalize();
    check(this.place === this.limit && this.code === 0, DAMAGED);
  }

  step(end) {
    const positionBits = (this.length - this.start) & ((1 << this.pb) - 1);
    const at = this.state * 16 + positionBits;
    if (!this.bit(this.isMatch, at)) {
      this.literalByte();
      return;
    }
    let length;
    if (this.bit(this.isRep, this.state)) {
      if (!this.bit(this.isRep0, this.state)) {
        if (!this.bit(this.isRep0Long, at)) {
          this.state = this.state < 7 ? 9 : 11;
          this.repeat(1, end);
          return;
        }
      } else {
        const which = !this.bit(this.isRep1, this.state) ? 1 : 2 + this.bit(this.isRep2, this.state);
        const [distance] = this.reps.splice(which, 1);
        this.reps.unshift(distance);
      }
      length = this.matchLength(this.repLengths, positionBits);
      this.state = this.state < 7 ? 8 : 11;
    } else {
      length = this.matchLength(this.lengths, positionBits);
      this.state = this.state < 7 ? 7 : 10;
      this.reps = [this.distance(length), this.reps[0], this.reps[1], this.reps[2]];
    }
    this.repeat(length, end);
  }

  literalByte() {
    const position = this.length - this.start;
    const before = position > 0 ? this.out[this.length - 1] : 0;
    const context = ((position & ((1 << this.lp) - 1)) << this.lc) + (before >> (8 - this.lc));
    const base = 0x300 * context;
    let symbol = 1;
    if (this.state >= 7) {
      check(this.reps[0] < position, DAMAGED);
      let match = this.out[this.length - this.reps[0] - 1];
      while (symbol < 0x100) {
        const expected = (match >> 7) & 1;
        match <<= 1;
        const bit = this.bit(this.literal, base + ((1 + expected) << 8) + symbol);
        symbol = symbol * 2 + bit;
        if (bit !== expected) break;
      }
    }
    while (symbol < 0x100) symbol = symbol * 2 + this.bit(this.literal, base + symbol);
    this.out[this.length] = symbol & 255;
    this.length += 1;
    this.state = this.state < 4 ? 0 : this.state < 10 ? this.state - 3 : this.state - 6;
  }

  repeat(length, end) {
    const distance = this.reps[0] + 1;
    check(distance <= this.length - this.start && distance <= DICTIONARY && this.length + length <= end, DAMAGED);
    for (let i = 0; i < length; i += 1, this.length += 1) this.out[this.length] = this.out[this.length - distance];
  }

  matchLength(coder, positionBits) {
    if (!this.bit(coder.choice, 0)) return 2 + this.tree(coder.low, 8 * positionBits, 3);
    if (!this.bit(coder.choice, 1)) return 10 + this.tree(coder.middle, 8 * positionBits, 3);
    return 18 + this.tree(coder.high, 0, 8);
  }

  distance(length) {
    const slot = this.tree(this.slots, 64 * Math.min(length - 2, 3), 6);
    if (slot < 4) return slot;
    const count = (slot >> 1) - 1;
    const high = (2 | (slot & 1)) * 2 ** count;
    if (slot < 14) return high + this.reversed(this.special, high - slot, count);
    let direct = 0;
    for (let i = 0; i < count - 4; i += 1) {
      this.normalize();
      this.range >>>= 1;
      const bit = this.code >= this.range ? 1 : 0;
      if (bit) this.code -= this.range;
      direct = direct * 2 + bit;
    }
    return high + direct * 16 + this.reversed(this.align, 0, 4);
  }

  tree(probabilities, base, count) {
    let symbol = 1;
    for (let i = 0; i < count; i += 1) symbol = symbol * 2 + this.bit(probabilities, base + symbol);
    return symbol - (1 << count);
  }

  reversed(probabilities, base, count) {
    let symbol = 1;
    let value = 0;
    for (let i = 0; i < count; i += 1) {
      const bit = this.bit(probabilities, base + symbol);
      symbol = symbol * 2 + bit;
      value |= bit << i;
    }
    return value;
  }

  normalize() {
    if (this.range >= 2 ** 24) return;
    check(this.place < this.limit, DAMAGED);
    this.range = (this.range << 8) >>> 0;
    this.code = ((this.code << 8) | this.data[this.place]) >>> 0;
    this.place += 1;
  }

  bit(probabilities, at) {
    this.normalize();
    const bound = (this.range >>> 11) * probabilities[at];
    if (this.code < bound) {
      this.range = bound;
      probabilities[at] += (2048 - probabilities[at]) >> 5;
      return 0;
    }
    this.range -= bound;
    this.code -= bound;
    probabilities[at] -= probabilities[at] >> 5;
    return 1;
  }
}
