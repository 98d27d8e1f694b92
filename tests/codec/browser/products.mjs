// Products of random matrices at the limits of 16 bits, by the kernel and by whole numbers.
import { Kernel, Matrix } from "/page/kernel.mjs";

const text = await (await fetch("/page/kernel.wat")).text();

/** The largest difference from exact sums, and whether the weights' bytes were apart, for each [inputs, weight, input]. */
export function products(cases) {
  let state = 1;
  const random = (limit) => {
    state = (state * 48271) % 2147483647;
    // mostly the limits themselves, so that sums are as large as they can be
    return state % 3 ? (state % 2 ? limit : -limit) : (state % (2 * limit + 1)) - limit;
  };
  return cases.map(([inputs, weight, input, isOneSided]) => {
    const [rows, outputs] = [67, 13];
    const sign = (value) => (isOneSided ? Math.abs(value) : value);
    const x = Int16Array.from({ length: rows * inputs }, () => sign(random(input)));
    const w = Int16Array.from({ length: outputs * inputs }, () => sign(random(weight)));
    const start = Float64Array.from({ length: outputs }, () => random(2 ** 30));
    const matrix = new Matrix(new Kernel(text), w, outputs, inputs, input);
    let largest = 0;
    matrix.apply(x, rows, start, (sums, count, first) => {
      for (let row = 0; row < count; row += 1) {
        for (let n = 0; n < outputs; n += 1) {
          let sum = start[n];
          for (let i = 0; i < inputs; i += 1) sum += x[(first + row) * inputs + i] * w[n * inputs + i];
          largest = Math.max(largest, Math.abs(sum - sums[row * matrix.width + n]));
        }
      }
    });
    return [largest, matrix.layout.isSplit];
  });
}
