// Decodes the symbols of a file (FORMAT.md sections 2 and 6), and computes a bundle's known answer (section 7).
import { gathered } from "./entropy_model.mjs";
import { CHANNELS } from "./grids.mjs";
import { spans } from "./attention.mjs";
import { RangeDecoder } from "./range_coder.mjs";

const TILE = 128;

/** The offset j of a symbol in 1/32, by its place in the whole picture's latent. */
export function offsetOf(c, v, h) {
  // below 2^53, as v and h are below 2^17
  const n = (3242174889 * v + 2447445414 * h + 2 ** 30 * c) % 2 ** 32;
  return Math.floor(n / 2 ** 27) - 16;
}

/** The symbols of a file, Int32Array by channel, row, column; `progress(share)` is called now and then. */
export function decodeSymbols(file, model, progress = () => {}) {
  model.choose(file.alphaCodes);
  const height = Math.ceil(file.height / 8);
  const width = Math.ceil(file.width / 8);
  const symbols = new Int32Array(CHANNELS * height * width);
  const decoder = new RangeDecoder(file.stream, model.tables);
  const tiles = spans(height, TILE, false).flatMap((rows) => spans(width, TILE, false).map((columns) => [rows, columns]));
  const hyperLatents = tiles.map((tile) => decodeHyperLatent(decoder, model, tile));
  let done = 0;
  tiles.forEach(([[top, bottom], [left, right]], number) => {
    const [rows, columns] = [bottom - top, right - left];
    const hasDither = model.settings.dither ?? false;
    const offset = (c, place) =>
      hasDither ? offsetOf(c, top + Math.floor(place / columns), left + (place % columns)) : 0;
    const keep = (c, place, k) => {
      symbols[(c * height + top + Math.floor(place / columns)) * width + left + (place % columns)] = k;
    };
    const hyper = model.hyperDecoder(hyperLatents[number], rows, columns);
    const decodeTile = model.settings.order === "serial" ? decodeSerial : decodeParallel;
    decodeTile(decoder, model, hyper, rows, columns, offset, keep);
    done += rows * columns;
    progress(done / (height * width));
  });
  decoder.finish(file.version > 1);
  return symbols;
}

function decodeHyperLatent(decoder, model, [[top, bottom], [left, right]]) {
  const { hyper_channels: channels, halvings } = model.settings;
  const count = Math.ceil((bottom - top) / 2 ** halvings) * Math.ceil((right - left) / 2 ** halvings);
  const { m, s } = model.prior();
  const z = new Int32Array(channels * count);
  for (let i = 0; i < z.length; i += 1) {
    const c = Math.floor(i / count);
    z[i] = decoder.symbol(m[c], s[c], 63);
  }
  return z;
}

/** The positions of a tile whose row + column is odd, or even. */
function positions(rows, columns, parity) {
  const found = [];
  for (let place = 0; place < rows * columns; place += 1) {
    if ((Math.floor(place / columns) + (place % columns)) % 2 === parity) found.push(place);
  }
  return Int32Array.from(found);
}

/** Calls known(c, m, s, place, at), which returns k - j / 32, for positions channel by channel. */
function channelByChannel(model, hyper, context, places, known) {
  const net = model.parameters(gathered(hyper, places, model.d), context, places.length);
  const values = new Float64Array(places.length);
  for (let c = 0; c < CHANNELS; c += 1) {
    const { m, s } = net.channel(c);
    for (let at = 0; at < places.length; at += 1) values[at] = known(c, m[at], s[at], places[at]);
    if (c + 1 < CHANNELS) net.know(c, values);
  }
}

function decodeParallel(decoder, model, hyper, rows, columns, offset, keep) {
  const symbols = new Float64Array(rows * columns * CHANNELS); // k - j / 32
  const anchors = positions(rows, columns, 1);
  const others = positions(rows, columns, 0);
  const decode = (c, m, s, place) => {
    const j = offset(c, place);
    const k = decoder.symbol(m + j, s);
    keep(c, place, k);
    return (symbols[place * CHANNELS + c] = k - j / 32);
  };
  channelByChannel(model, hyper, null, anchors, decode);
  const context = model.context(symbols, rows, columns, others);
  channelByChannel(model, hyper, context, others, decode);
}

function decodeSerial(decoder, model, hyper, rows, columns, offset, keep) {
  serially(model, hyper, rows, columns, (c, m, s, place) => {
    const j = offset(c, place);
    const k = decoder.symbol(m + j, s);
    keep(c, place, k);
    return k - j / 32;
  });
}

/** Runs a serial model over a tile; `known` as in channelByChannel. */
function serially(model, hyper, rows, columns, known) {
  const { d } = model;
  const symbols = new Float64Array((rows + 1) * (columns + 2) * CHANNELS);
  const cache = Array.from({ length: model.settings.depth }, () => new Int16Array(rows * columns * 2 * d));
  for (let place = 0; place < rows * columns; place += 1) {
    const [v, h] = [Math.floor(place / columns), place % columns];
    const context = model.serialContext(cache, symbols, v, h, columns);
    channelByChannel(model, hyper, context, Int32Array.of(place), (c, m, s) => {
      const value = known(c, m, s, place);
      symbols[((v + 1) * (columns + 2) + h + 1) * CHANNELS + c] = value;
      return value;
    });
  }
}

/** The numbers of section 7 whose SHA-256 is a bundle's known answer, as int32. */
export function knownAnswer(model) {
  model.choose([100, 128, 140, 170]);
  const [rows, columns] = [37, 41];
  const { settings } = model;
  const pattern = (length) => Int32Array.from({ length }, (_, i) => ((7919 * i) % 23) - 11);
  const coarse = [rows, columns].map((length) => Math.ceil(length / 2 ** settings.halvings));
  const hyper = model.hyperDecoder(pattern(settings.hyper_channels * coarse[0] * coarse[1]), rows, columns);
  const symbols = Float64Array.from(pattern(rows * columns * CHANNELS));
  const { m, s } = model.prior();
  const hashed = [...m, ...s];
  const collect = (run) => {
    const [ms, ss] = [new Int32Array(symbols.length), new Int32Array(symbols.length)];
    run((c, mean, level, place) => {
      ms[c * rows * columns + place] = mean;
      ss[c * rows * columns + place] = level;
      return symbols[place * CHANNELS + c];
    });
    hashed.push(...ms, ...ss);
  };
  if (settings.order === "serial") {
    collect((known) => serially(model, hyper, rows, columns, known));
    return Int32Array.from(hashed);
  }
  const all = Int32Array.from({ length: rows * columns }, (_, place) => place);
  collect((known) => channelByChannel(model, hyper, null, all, known));
  const anchors = symbols.map((value, i) => {
    const place = i >> 2;
    return (Math.floor(place / columns) + (place % columns)) % 2 === 1 ? value : 0;
  });
  collect((known) => channelByChannel(model, hyper, model.context(anchors, rows, columns, all), all, known));
  return Int32Array.from(hashed);
}
