// An assembler for the subset of WebAssembly's text format that kernel.wat uses: plain instructions, named locals,
// functions and labels, one imported memory. (WebAssembly core specification 2.0, sections 5 and 6.)

const TYPES = { i32: 0x7f, f64: 0x7c, v128: 0x7b };
// opcodes with the kind of their operand; numbers above 0xff are of the vector prefix 0xfd
const VECTOR = 0xfd00;
const INSTRUCTIONS = {
  loop: [0x03, "block"], if: [0x04, "block"], else: [0x05], end: [0x0b], br_if: [0x0d, "label"], call: [0x10, "function"],
  select: [0x1b], "local.get": [0x20, "local"], "local.set": [0x21, "local"], "local.tee": [0x22, "local"],
  "i32.const": [0x41, "integer"], "f64.const": [0x44, "double"],
  "i32.lt_u": [0x49], "i32.add": [0x6a], "i32.sub": [0x6b], "i32.mul": [0x6c],
  "v128.load": [VECTOR, "memory"], "v128.load32_splat": [VECTOR + 9, "memory"], "v128.store": [VECTOR + 11, "memory"],
  "i8x16.shuffle": [VECTOR + 13, "lanes"], "i32x4.splat": [VECTOR + 17], "f64x2.splat": [VECTOR + 20],
  "i32x4.add": [VECTOR + 174], "i32x4.dot_i16x8_s": [VECTOR + 186], "f64x2.add": [VECTOR + 240], "f64x2.mul": [VECTOR + 242],
  "f64x2.convert_low_i32x4_s": [VECTOR + 254],
};
const ALIGNMENT = { "v128.load32_splat": 2 };

/** Returns the bytes of the module that `text` describes; throws an Error that names what it does not know. */
export function assemble(text) {
  const tokens = text.replace(/;;.*/g, "").match(/[()]|"[^"]*"|[^\s()]+/g);
  const module = nested(tokens, 1)[0];
  if (module[0] !== "module") throw new Error(`kernel: ${module[0]} is no module`);
  const imports = module.filter((item) => item[0] === "import");
  const functions = module.filter((item) => item[0] === "func").map(parts);
  const numbers = new Map(functions.map((one, number) => [one.name, number]));
  const signatures = functions.map((one) => [0x60, ...vector(one.parameters.map((of) => [TYPES[of[2]]])), 0]);
  const memories = imports.map(([, from, name, memory]) => [...string(from), ...string(name), 2, 0, ...unsigned(+memory[1])]);
  const exported = functions.flatMap((one, number) => (one.export ? [[...string(one.export), 0, ...unsigned(number)]] : []));
  const bodies = functions.map((one) => sized(body(one, numbers)));
  return new Uint8Array([
    0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, signatures),
    ...section(2, memories),
    ...section(3, functions.map((_, number) => unsigned(number))),
    ...section(7, exported),
    ...section(10, bodies),
  ]);
}

/** Parses from a token after an opening parenthesis to its closing one; returns the list and the next place. */
function nested(tokens, place) {
  const list = [];
  while (tokens[place] !== ")") {
    if (tokens[place] === undefined) throw new Error("kernel: a parenthesis is not closed");
    if (tokens[place] === "(") {
      const [inner, next] = nested(tokens, place + 1);
      list.push(inner);
      place = next;
    } else {
      list.push(tokens[place]);
      place += 1;
    }
  }
  return [list, place + 1];
}

function parts(list) {
  const named = (kind) => list.filter((item) => item[0] === kind);
  const exports = named("export");
  return {
    name: list[1],
    export: exports.length ? exports[0][1] : null,
    parameters: named("param"),
    locals: named("local"),
    code: list.slice(2).filter((item) => typeof item === "string"),
  };
}

function body(one, numbers) {
  const places = new Map([...one.parameters, ...one.locals].map(([, name], place) => [name, place]));
  const bytes = vector(one.locals.map(([, , type]) => [1, TYPES[type]]));
  const labels = [];
  for (let place = 0; place < one.code.length; place += 1) {
    const name = one.code[place];
    const [opcode, operand] = INSTRUCTIONS[name] ?? [];
    if (opcode === undefined) throw new Error(`kernel: the instruction ${name} is not known`);
    bytes.push(...(opcode >= VECTOR ? [0xfd, ...unsigned(opcode - VECTOR)] : [opcode]));
    const following = () => one.code[(place += 1)];
    if (operand === "block") {
      labels.push(one.code[place + 1].startsWith("$") ? following() : "");
      bytes.push(0x40);
    }
    if (name === "end") labels.pop();
    if (operand === "label") bytes.push(...unsigned(labels.length - 1 - labels.lastIndexOf(following())));
    if (operand === "function") bytes.push(...unsigned(numbers.get(following())));
    if (operand === "local") bytes.push(...unsigned(places.get(following())));
    if (operand === "integer") bytes.push(...signed(+following()));
    if (operand === "double") bytes.push(...new Uint8Array(new Float64Array([+following()]).buffer));
    if (operand === "memory") {
      const offset = one.code[place + 1]?.startsWith("offset=") ? +following().slice(7) : 0;
      bytes.push(...unsigned(ALIGNMENT[name] ?? 4), ...unsigned(offset));
    }
    if (operand === "lanes") for (let lane = 0; lane < 16; lane += 1) bytes.push(+following());
  }
  return [...bytes, 0x0b];
}

function unsigned(value) {
  if (!(value >= 0)) throw new Error("kernel: a name is not known");
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return [...bytes, value];
}

function signed(value) {
  const bytes = [];
  for (;;) {
    const low = value & 127;
    value >>= 7;
    const isLast = (value === 0 && !(low & 64)) || (value === -1 && low & 64);
    bytes.push(isLast ? low : low | 128);
    if (isLast) return bytes;
  }
}

const vector = (items) => [...unsigned(items.length), ...items.flat()];
const sized = (bytes) => [...unsigned(bytes.length), ...bytes];
const section = (number, items) => [number, ...sized(vector(items))];

function string(quoted) {
  const bytes = [...quoted.slice(1, -1)].map((letter) => letter.charCodeAt(0));
  return sized(bytes);
}
