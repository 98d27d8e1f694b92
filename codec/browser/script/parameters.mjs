// The parameter net of the entropy model: means and scales of symbols (FORMAT.md section 6).
import { CHANNELS, MAGIC, O, snap } from "./grids.mjs";

/** The parameter net on some positions, channel by channel. */
export class Parameters {
  constructor(model, hyper, context, count) {
    this.model = model;
    this.count = count;
    this.inner = model.maps.get("parameter_net.inner");
    this.hidden = this.inner.outputs;
    this.sums = new Float64Array(count * this.hidden);
    this.accumulate(this.inner.hyper, hyper, this.inner.bias);
    if (context !== null) this.accumulate(this.inner.context, context, null);
  }

  accumulate(matrix, x, bias) {
    matrix.apply(x, this.count, bias, (sums, rows, first) => {
      for (let row = 0; row < rows; row += 1) {
        const at = (first + row) * this.hidden;
        const from = row * matrix.width;
        for (let n = 0; n < this.hidden; n += 1) this.sums[at + n] += sums[from + n];
      }
    });
  }

  /** m and s of channel c, from the channels before it that `know` was told. */
  channel(c) {
    const { model, hidden, count } = this;
    const { limit, fraction } = model.grids.H;
    const scale = this.inner.units.map((unit) => unit * 2 ** fraction);
    const u = new Int16Array(count * hidden);
    for (let at = 0; at < count; at += 1) {
      for (let n = 0; n < hidden; n += 1) {
        let v = this.sums[at * hidden + n] * scale[n];
        v = v > limit ? limit : v < -limit ? -limit : v;
        v = v + MAGIC - MAGIC;
        u[at * hidden + n] = v < 0 ? 0.2 * v + MAGIC - MAGIC : v;
      }
    }
    const out = model.linear("parameter_net.outer", u, count, O, new Int32Array(count * 2 * CHANNELS));
    const [m, s] = [new Int32Array(count), new Int32Array(count)];
    for (let at = 0; at < count; at += 1) {
      m[at] = model.meanOf(out[2 * CHANNELS * at + c], model.alpha[c]);
      s[at] = model.levelOf(out[2 * CHANNELS * at + CHANNELS + c], model.codes[c]);
    }
    return { m, s };
  }

  /** Adds what the channels after c see of its symbols k - j / 32, one for each position. */
  know(c, symbols) {
    const { model, inner, hidden } = this;
    if (!model.settings.channel_conditioning) return;
    const { K, N } = model.grids;
    const unit = 2 ** (N.fraction - K.fraction);
    const column = (of) => Float64Array.from({ length: hidden }, (_, n) => inner.data[n * inner.inputs + of]);
    const first = column(2 * model.d + c);
    const second = column(2 * model.d + CHANNELS + c);
    for (let at = 0; at < this.count; at += 1) {
      const known = snap(symbols[at] * 2 ** K.fraction, K) * unit;
      const scaled = snap(symbols[at] * model.inverse[c] * 2 ** K.fraction, K) * unit;
      if (known === 0 && scaled === 0) continue;
      for (let n = 0; n < hidden; n += 1) this.sums[at * hidden + n] += first[n] * known + second[n] * scaled;
    }
  }
}
