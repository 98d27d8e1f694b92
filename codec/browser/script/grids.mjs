// The fixed-point grids of the entropy model (FORMAT.md section 6).

const WIDE = [16, 9];
export const GRIDS = {
  wide: { N: WIDE, Q: WIDE, M: WIDE, H: WIDE, K: WIDE, Z: WIDE, G: WIDE },
  narrow: { N: [11, 7], Q: [8, 4], M: [11, 7], H: [11, 7], K: [11, 5], Z: [11, 4], G: [9, 4] },
};
export const MAGIC = 1.5 * 2 ** 52;
export const CHANNELS = 4;

/** Rounds to the nearest whole number, ties to even; |x| < 2^51. */
export const rint = (x) => x + MAGIC - MAGIC;

/** A grid's largest magnitude in units, and its fractional bits. */
export const grid = ([bits, fraction]) => ({ limit: 2 ** (bits - 1) - 1, fraction });
export const S = grid([20, 9]);
export const O = grid([20, 12]);

/** Rounds x, in units, to whole units within a grid. */
export function snap(x, { limit }) {
  return rint(x > limit ? limit : x < -limit ? -limit : x);
}
