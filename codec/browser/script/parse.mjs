// Takes a file apart: header, chunks, checksum (FORMAT.md sections 1 and 8).
import { check, FdcError } from "./errors.mjs";
import { unpack } from "./lzma2.mjs";

export const MAX_PIXELS = 100_000_000;
const SIGNATURE = [0x8f, 0x46, 0x44, 0x43, 0x0d, 0x0a, 0x1a, 0x0a];
const ONCE = new Set(["ALPH", "ICCP", "exIf", "ipTc", "phYs", "prEV", "xmPp"]);
const REPEATED = new Set(["auXP", "coMm", "psIr", "teXt", "unKn", "xeXt"]);
const MOST_CONTENT = 2 ** 24;
const MOST_CONTENTS = 2 ** 26;

/** Takes the bytes of a file apart, of either version; throws FdcError. */
export function parse(data) {
  const startsWith = (bytes) => bytes.every((byte, place) => data[place] === byte);
  if (startsWith([0x46, 0x44, 0x43, 1])) return parseVersion1(data);
  check(startsWith(SIGNATURE), "this is no .fdc file");
  check(data[8] === 2, `format version ${data[8]} is not known; this page reads 1 and 2`);
  const rest = checked(data, 10);
  const flags = rest.byte();
  check(flags < 4, "an unknown flag is set");
  const file = { version: 2, gray: Boolean(flags & 2), ...header(rest, flags & 1) };
  const codes = new Set(file.alphaCodes);
  check(!(flags & 1) || codes.size > 1, "four equal alpha codes");
  file.orientation = rest.byte();
  check(file.orientation >= 1 && file.orientation <= 8, "the orientation is none");
  return { ...file, ...readChunks(rest, file) };
}

function parseVersion1(data) {
  const rest = checked(data, 4);
  const flags = rest.byte();
  check(flags < 32, "an unknown flag is set");
  const file = { version: 1, gray: Boolean(flags & 2), orientation: 1, ...header(rest, flags & 1) };
  const parts = [4, 8, 16].map((bit) => (flags & bit ? rest.take(rest.varint()) : null));
  check(rest.isAtEnd(), "there are bytes before the checksum that belong to no part");
  const chunks = new Map();
  if (parts[0]) chunks.set("ALPH", [alphaPlane(parts[0], file)]);
  if (parts[1]) chunks.set("ICCP", [unpack(parts[1], 1, MOST_CONTENT)]);
  if (parts[2]) chunks.set("exIf", [unpack(parts[2], 1, MOST_CONTENT)]);
  return { ...file, chunks, skipped: [] };
}

/** The fields from bundle id to stream, which both versions have. */
function header(rest, hasFour) {
  const bundleId = hexadecimal(rest.take(8));
  const width = rest.varint();
  const height = rest.varint();
  const isPossible = width > 0 && height > 0 && Math.max(width, height) < 2 ** 20 && width * height <= 2 ** 30;
  check(isPossible, "the size is out of its range");
  check(width * height <= MAX_PIXELS, `the file declares ${width} x ${height} pixels, more than this page decodes`);
  const qualityCode = rest.byte();
  const timestepCode = rest.byte() + 256 * rest.byte();
  check(timestepCode <= 999 * 8, "the timestep is out of its range");
  const codes = [...rest.take(hasFour ? 4 : 1)];
  const alphaCodes = hasFour ? codes : [codes[0], codes[0], codes[0], codes[0]];
  const stream = rest.take(rest.varint());
  check(stream.length > 0 && stream.length % 4 === 0, "the stream is not whole words, or none");
  return { bundleId, width, height, qualityCode, timestepCode, alphaCodes, stream };
}

function readChunks(rest, file) {
  const chunks = new Map();
  const skipped = [];
  let last = { tag: "", index: -1, rank: "" };
  let total = 0;
  for (let count = 1; !rest.isAtEnd(); count += 1) {
    check(count <= 256, "there are too many chunks");
    const tag = String.fromCharCode(...rest.take(4));
    check(/^[A-Za-z]{2}[A-Z][A-Za-z]$/.test(tag), "a tag is none");
    const payload = new Reader(rest.take(rest.varint()), 0);
    const index = REPEATED.has(tag) ? payload.varint() : 0;
    const isAncillary = tag[0] >= "a";
    const rank = (isAncillary ? "1" : "0") + tag;
    check(rank > last.rank || (rank === last.rank && index > last.index), "a chunk is repeated or out of order");
    check(index === (last.tag === tag ? last.index + 1 : 0), "an index is not the next");
    last = { tag, index, rank };
    if (!ONCE.has(tag) && !REPEATED.has(tag)) {
      check(isAncillary, `the critical chunk ${tag} is not known`);
      skipped.push(tag);
      continue;
    }
    const coded = payload.rest();
    if (tag === "ALPH") {
      chunks.set(tag, [alphaPlane(coded, file)]);
      continue;
    }
    const content = unpack(coded, 1, MOST_CONTENT);
    total += content.length;
    check(total <= MOST_CONTENTS, "the chunks hold too much");
    chunks.set(tag, [...(chunks.get(tag) ?? []), content]);
  }
  return { chunks, skipped };
}

/** The values of an alpha plane in raster order, from differences where its mode says so. */
function alphaPlane(coded, { width, height }) {
  check(coded.length > 0 && coded[0] <= 2, "the alpha plane has an unknown coding mode");
  const plane = unpack(coded.subarray(1), width * height, width * height);
  if (coded[0] === 1) for (let i = 0; i < plane.length; i += 1) if (i % width) plane[i] += plane[i - 1];
  if (coded[0] === 2) for (let i = width; i < plane.length; i += 1) plane[i] += plane[i - width];
  return plane;
}

/** A reader of what lies before the checksum, which is tested first. */
function checked(data, start) {
  check(data.length > start + 4, "the file is cut short");
  const end = data.length - 4;
  const stated = new DataView(data.buffer, data.byteOffset).getUint32(end, true);
  check(crc32(data.subarray(0, end)) === stated, "the checksum is wrong: the file is damaged");
  return new Reader(data.subarray(0, end), start);
}

class Reader {
  constructor(data, place) {
    this.data = data;
    this.place = place;
  }

  isAtEnd() {
    return this.place === this.data.length;
  }

  take(length) {
    check(this.place + length <= this.data.length, "a part reaches into the checksum");
    this.place += length;
    return this.data.subarray(this.place - length, this.place);
  }

  rest() {
    return this.take(this.data.length - this.place);
  }

  byte() {
    return this.take(1)[0];
  }

  varint() {
    let value = 0;
    for (let place = 0; place < 5; place += 1) {
      const byte = this.byte();
      value += (byte & 127) * 2 ** (7 * place);
      if (byte < 128) {
        check(byte > 0 || place === 0, "a varint is longer than needed");
        return value;
      }
    }
    throw new FdcError("a varint is longer than five bytes");
  }
}

export const hexadecimal = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");

const CRC = new Uint32Array(256).map((_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/** CRC-32 as in PNG. */
export function crc32(data) {
  let value = 0xffffffff;
  for (const byte of data) value = CRC[(value ^ byte) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}
