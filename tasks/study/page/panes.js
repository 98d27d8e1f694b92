// Pictures beside each other that are zoomed and moved in step. All panes share one view: a scale, and the position of
// the picture's corner in parts of the pane, so that panes of any size show the same piece.

const MOST = 32;
const STEP = 1.25;

export class Panes {
  constructor(elements) {
    this.elements = elements;
    this.images = elements.map((element) => element.querySelector("img"));
    this.pointers = new Map();
    for (const element of elements) {
      element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
      element.addEventListener("pointerdown", (event) => this.down(event));
      element.addEventListener("pointermove", (event) => this.move(event));
      for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, (event) => this.up(event));
      element.addEventListener("dblclick", (event) => {
        if (this.scale > 1) this.reset();
        else this.zoom(4, ...this.place(event));
      });
    }
    this.reset();
  }

  // Show pictures, all at once, at the full view. Resolves when they are on the screen.
  async show(addresses) {
    this.reset();
    const wanted = (this.wanted = addresses.join());
    for (const element of this.elements) element.classList.add("waiting");
    await Promise.all(this.images.map((image, number) => loaded(image, addresses[number])));
    if (this.wanted !== wanted) return false;
    for (const element of this.elements) element.classList.remove("waiting");
    return true;
  }

  reset() {
    Object.assign(this, { scale: 1, x: 0, y: 0 });
    this.apply();
  }

  // Multiply the scale; the point (x, y), in parts of the pane, stays where it is.
  zoom(factor, x = 0.5, y = 0.5) {
    const scale = Math.min(MOST, Math.max(1, this.scale * factor));
    const ratio = scale / this.scale;
    this.x = x - (x - this.x) * ratio;
    this.y = y - (y - this.y) * ratio;
    this.scale = scale;
    this.apply();
  }

  pan(x, y) {
    this.x += x;
    this.y += y;
    this.apply();
  }

  apply() {
    const inside = (value) => Math.min(0, Math.max(1 - this.scale, value));
    [this.x, this.y] = [inside(this.x), inside(this.y)];
    for (const image of this.images) {
      image.style.transform = `translate(${this.x * 100}%, ${this.y * 100}%) scale(${this.scale})`;
      image.classList.toggle("pixels", this.scale * image.clientWidth > 2 * image.naturalWidth);
    }
  }

  // The keys of the view; true if it was one.
  key(name) {
    const keys = {
      "+": () => this.zoom(STEP), "=": () => this.zoom(STEP), "-": () => this.zoom(1 / STEP), 0: () => this.reset(),
      ArrowLeft: () => this.pan(0.1, 0), ArrowRight: () => this.pan(-0.1, 0),
      ArrowUp: () => this.pan(0, 0.1), ArrowDown: () => this.pan(0, -0.1),
    };
    if (!Object.hasOwn(keys, name)) return false;
    keys[name]();
    return true;
  }

  wheel(event) {
    event.preventDefault();
    const pixels = event.deltaY * [1, 16, 400][event.deltaMode];
    this.zoom(Math.exp(-pixels / (event.ctrlKey ? 100 : 400)), ...this.place(event));
  }

  down(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    event.currentTarget.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.place(event));
  }

  move(event) {
    if (!this.pointers.has(event.pointerId)) return;
    const before = [...this.pointers.values()].slice(0, 2);
    this.pointers.set(event.pointerId, this.place(event));
    const after = [...this.pointers.values()].slice(0, 2);
    const [from, to] = [middle(before), middle(after)];
    this.pan(to[0] - from[0], to[1] - from[1]);
    if (after.length === 2) this.zoom(distance(after) / Math.max(distance(before), 0.01), ...to);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
  }

  // Where an event is, in parts of its pane.
  place(event) {
    const box = event.currentTarget.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }
}

async function loaded(image, address) {
  image.src = address;
  await image.decode();
}

const middle = (points) => [0, 1].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
const distance = ([one, other]) => Math.hypot(one[0] - other[0], one[1] - other[1]);
