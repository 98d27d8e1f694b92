/** What is wrong with a file or a bundle: one line that its reader can act on. */
export class FdcError extends Error {}

/** Throws an FdcError with the message unless the condition holds. */
export function check(condition, message) {
  if (!condition) throw new FdcError(message);
}
