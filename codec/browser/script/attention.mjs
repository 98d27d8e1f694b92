// Attention of the entropy model: the top_k largest exact scores of each query and head (FORMAT.md section 6).
import { rint } from "./grids.mjs";
import { BLOCK, Layout } from "./kernel.mjs";

const PLACES = 8192; // a sort key is score * PLACES + place of the key; below 2^53

/** Keeps the largest of what it is given, and weighs values by them. */
class Selection {
  constructor(model) {
    this.model = model;
    this.heap = new Float64Array(model.settings.top_k); // the smallest comes first
    this.total = new Float64Array(model.size);
    this.unit = 32 * model.scale * 2 ** (-2 * model.grids.Q.fraction);
  }

  /** Takes the scores from `first` to `last` - 1 of an array; the place of a key is counted from `first`. */
  choose(scores, first, last) {
    const { heap } = this;
    const kept = Math.min(heap.length, last - first);
    this.kept = kept;
    for (let place = 0; place < kept; place += 1) heap[place] = scores[first + place] * PLACES + place;
    for (let node = (kept >> 1) - 1; node >= 0; node -= 1) this.sink(heap[node], node);
    let least = heap[0];
    for (let at = first + kept; at < last; at += 1) {
      const key = scores[at] * PLACES + (at - first);
      if (key > least) {
        this.sink(key, 0);
        least = heap[0];
      }
    }
  }

  sink(key, node) {
    const { heap, kept } = this;
    for (;;) {
      let child = 2 * node + 1;
      if (child >= kept) break;
      if (child + 1 < kept && heap[child + 1] < heap[child]) child += 1;
      if (heap[child] >= key) break;
      heap[node] = heap[child];
      node = child;
    }
    heap[node] = key;
  }

  /** Writes the result of a head to `out` from `at` on; value(place) says where the value of a key begins in `values`. */
  write(values, value, out, at) {
    const { heap, kept, total, unit, model } = this;
    const { exponential, size } = model;
    const { limit, fraction } = model.grids.M;
    let largest = -Infinity;
    for (let i = 0; i < kept; i += 1) if (heap[i] > largest) largest = heap[i];
    largest = Math.floor(largest / PLACES);
    total.fill(0);
    let sum = 0;
    for (let i = 0; i < kept; i += 1) {
      const score = Math.floor(heap[i] / PLACES);
      const weight = exponential[Math.min(512, rint(unit * (largest - score)))];
      if (weight === 0) continue;
      sum += weight;
      const from = value(heap[i] - score * PLACES);
      for (let n = 0; n < size; n += 1) total[n] += weight * values[from + n];
    }
    const scale = 2 ** (fraction - model.grids.Q.fraction);
    for (let n = 0; n < size; n += 1) {
      const v = (total[n] / sum) * scale;
      out[at + n] = rint(v > limit ? limit : v < -limit ? -limit : v);
    }
  }
}

/** The spans of windows along a side, the first one half as long if shifted. */
export function spans(length, size, isShifted) {
  const out = [];
  for (let start = 0, stop = isShifted ? size / 2 : size; start < length; start = stop, stop += size) {
    out.push([start, Math.min(stop, length)]);
  }
  return out;
}

/**
 * Attention in windows: `parts` has the query, key and value of rows x columns positions, each d numbers on Q. Results,
 * on M, stand at their positions; those not `wanted` (null: all are) stay zero. The context transformer's keys are anchors.
 */
export function attendWindows(model, net, parts, rows, columns, size, isShifted, wanted) {
  const out = new Int16Array(rows * columns * model.d);
  const isWanted = wanted === null ? null : new Uint8Array(rows * columns);
  if (isWanted) for (const place of wanted) isWanted[place] = 1;
  const selection = new Selection(model);
  for (const [top, bottom] of spans(rows, size, isShifted)) {
    for (const [left, right] of spans(columns, size, isShifted)) {
      const window = new Window(model, net, top, bottom, left, right, columns, isWanted);
      if (window.queries.length) for (let head = 0; head < model.heads; head += 1) window.attend(head, parts, selection, out);
    }
  }
  return out;
}

/** One window: its queries and keys, by position in the array and place in the window. */
class Window {
  constructor(model, net, top, bottom, left, right, columns, isWanted) {
    Object.assign(this, { model, net, top, left, columns, width: right - left, height: bottom - top });
    this.hasAnchors = net === "context";
    this.queries = [];
    this.keys = [];
    this.keyAt = new Int32Array(this.width * this.height).fill(-1);
    for (let v = top; v < bottom; v += 1) {
      for (let h = left; h < right; h += 1) {
        if (isWanted === null || isWanted[v * columns + h]) this.queries.push([v, h]);
        if (this.hasAnchors && (v + h) % 2 === 0) continue;
        this.keyAt[(v - top) * this.width + h - left] = this.keys.length;
        this.keys.push(v * columns + h);
      }
    }
  }

  attend(head, parts, selection, out) {
    const { model, keys, columns } = this;
    const { kernel, d, size } = model;
    const { matrix } = model.relative[this.net];
    const row = 3 * d;
    const offset = head * size;
    const limit = model.grids.Q.limit;
    const layout = new Layout(size, limit, size * limit);
    const target = kernel.keys.view(layout.length(keys.length));
    const groups = layout.write(target, (key, i) => parts[keys[key] * row + d + offset + i], keys.length, size);
    const width = groups * layout.group;
    const padded = 2 * layout.pairs;
    const input = new Int16Array(BLOCK * size);
    const values = (place) => keys[place] * row + 2 * d + offset;
    for (let first = 0; first < this.queries.length; first += BLOCK) {
      const block = this.queries.slice(first, first + BLOCK);
      block.forEach(([v, h], at) => {
        const from = (v * columns + h) * row + offset;
        input.set(parts.subarray(from, from + size), at * size);
      });
      let near = null;
      matrix.apply(input, block.length, null, (sums) => (near = sums.slice()));
      const { x, out: scores } = kernel.views(BLOCK * padded, BLOCK * width);
      for (let at = 0; at < block.length; at += 1) x.set(input.subarray(at * size, (at + 1) * size), at * padded);
      scores.fill(0);
      if (keys.length) layout.multiply(kernel, kernel.keys.place, block.length, groups);
      const own = new Float64Array(keys.length + 1);
      block.forEach(([v, h], at) => {
        const start = at * width;
        this.addNear(scores, start, near, at * matrix.width, v, h);
        const to = (v * columns + h) * d + offset;
        if (!this.hasAnchors || (v + h) % 2 === 1) {
          selection.choose(scores, start, start + keys.length);
          selection.write(parts, values, out, to);
          return;
        }
        // a query that is no anchor has its own key behind the anchors
        own.set(scores.subarray(start, start + keys.length));
        own[keys.length] = this.ownScore(parts, (v * columns + h) * row + offset, near, at * matrix.width);
        selection.choose(own, 0, own.length);
        const ownValue = (v * columns + h) * row + 2 * d + offset;
        selection.write(parts, (place) => (place < keys.length ? values(place) : ownValue), out, to);
      });
    }
  }

  /** Adds the relative part of scores; what all keys of a query have in common is left out. */
  addNear(scores, start, near, from, v, h) {
    const { cells } = this.model;
    const beyond = near[from + cells.length];
    for (let cell = 0; cell < cells.length; cell += 1) {
      const row = v + cells[cell][0] - this.top;
      const column = h + cells[cell][1] - this.left;
      if (row < 0 || row >= this.height || column < 0 || column >= this.width) continue;
      const key = this.keyAt[row * this.width + column];
      if (key >= 0) scores[start + key] += near[from + cell] - beyond;
    }
  }

  ownScore(parts, from, near, at) {
    const { d, size, cells } = this.model;
    let score = near[at + (cells.length - 1) / 2] - near[at + cells.length];
    for (let i = 0; i < size; i += 1) score += parts[from + i] * parts[from + d + i];
    return score;
  }
}

/** Attention of one position (v, h) in serial order; `cache` has key and value of each position before it. */
export function attendOne(model, query, cache, keys, v, h, columns) {
  const { d, size, cells } = model;
  const out = new Int16Array(d);
  const selection = new Selection(model);
  const { data: relative } = model.relative.context;
  const scores = new Float64Array(keys.length);
  const cellOf = new Map(cells.map(([dv, dh], cell) => [64 * dv + dh, cell]));
  const beyond = cells.length;
  for (let head = 0; head < model.heads; head += 1) {
    const offset = head * size;
    keys.forEach(([row, column], place) => {
      const near = Math.abs(column - h) < 32 ? (cellOf.get(64 * (row - v) + column - h) ?? beyond) : beyond;
      const key = 2 * d * (row * columns + column) + offset;
      let score = 0;
      for (let i = 0; i < size; i += 1) score += query[offset + i] * (cache[key + i] + relative[near * size + i]);
      scores[place] = score;
    });
    selection.choose(scores, 0, keys.length);
    const value = (place) => 2 * d * (keys[place][0] * columns + keys[place][1]) + d + offset;
    selection.write(cache, value, out, offset);
  }
  return out;
}
