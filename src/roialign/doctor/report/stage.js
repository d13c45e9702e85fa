// The picture with the feature grid, the box, and where it is read, in pixels of the image.

const FURTHEST_VIEW = 1; // what lies further than this many images away is pointed at
const MAX_DRAWN_SAMPLES = 2500;
const MIN_SAMPLE_GAP = 6; // CSS pixels
const CORNERS = [["x1", "y1"], ["x2", "y1"], ["x1", "y2"], ["x2", "y2"]];

function svgElement(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  return element;
}

const rectangle = ([x1, y1, x2, y2]) => `M${x1} ${y1}H${x2}V${y2}H${x1}Z`;
const ordered = ([x1, y1, x2, y2]) =>
  [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];

/** Draws; what is drawn is told by `show`. */
class Stage {
  /** @param {SVGSVGElement} svg */
  constructor(svg) {
    this.svg = svg;
    this.layers = {};
    this.measure();
    svg.append((this.layers.canvas = svgElement("rect", { class: "canvas" })));
    svg.append((this.layers.picture = svgElement("g")));
    const under = ["grid", "map", "cells", "bins", "casing", "read"];
    const over = ["off", "dot-casing", "on", "arrow-casing", "arrow"];
    for (const name of [...under, ...over]) svg.append((this.layers[name] = svgElement("path", { class: name })));
    this.box = this.grip("box", "rect");
    this.handles = CORNERS.map(() => this.grip("handle", "circle"));
  }

  /** Something to drag and to focus: what is seen, and a larger thing to hit. */
  grip(kind, shape) {
    const group = svgElement("g", { class: kind, tabindex: 0, role: "application" });
    group.append(svgElement(shape, { class: "hit" }), svgElement(shape, { class: "casing" }));
    group.append(svgElement(shape, { class: "seen" }));
    this.svg.append(group);
    return group;
  }

  /** Note the width in CSS pixels; to be called when it changed, for asking for it takes the browser long. */
  measure() {
    this.width = this.svg.clientWidth || 480;
  }

  /** Pixels of the image for one CSS pixel. */
  get unit() {
    return (this.view[2] - this.view[0]) / this.width;
  }

  /** The point of the image under a pointer. */
  pointAt(event) {
    const frame = this.svg.getBoundingClientRect();
    const share = (this.view[2] - this.view[0]) / frame.width;
    return [this.view[0] + (event.clientX - frame.left) * share, this.view[1] + (event.clientY - frame.top) * share];
  }

  /** Choose what is in view: the image, with the box and what is read where they are near; or the box alone. */
  frame(scene, zoom) {
    const [height, width] = scene.frame_hw;
    const whole = [0, 0, width, height];
    let [left, top, right, bottom] = zoom ? roomAround(ordered(scene.box), Math.max(height, width)) : whole;
    const [far_x, far_y] = [FURTHEST_VIEW * (right - left), FURTHEST_VIEW * (bottom - top)];
    for (const [x1, y1, x2, y2] of [ordered(scene.box), ordered(this.readBox(scene))]) {
      if (!(x1 >= left - far_x && x2 <= right + far_x && y1 >= top - far_y && y2 <= bottom + far_y)) continue;
      [left, top] = [Math.min(left, x1), Math.min(top, y1)];
      [right, bottom] = [Math.max(right, x2), Math.max(bottom, y2)];
    }
    const longest = Math.max(right - left, bottom - top);
    const pad_x = Math.max(0.06 * longest, (0.75 * longest - (right - left)) / 2);
    const pad_y = Math.max(0.06 * longest, (0.4 * longest - (bottom - top)) / 2);
    this.view = [left - pad_x, top - pad_y, right + pad_x, bottom + pad_y];
    const size = [this.view[2] - this.view[0], this.view[3] - this.view[1]];
    this.svg.setAttribute("viewBox", [this.view[0], this.view[1], ...size].join(" "));
    const canvas = { x: this.view[0], y: this.view[1], width: size[0], height: size[1] };
    for (const [name, value] of Object.entries(canvas)) this.layers.canvas.setAttribute(name, String(value));
  }

  /** The rectangle that the samples fill. */
  readBox({ result, map_hw, frame_hw }) {
    const along = (axis, i) => {
      const pixels = frame_hw[i] / map_hw[i];
      return [axis.start, axis.start + axis.bin * axis.bins].map((cell) => (cell + 0.5) * pixels);
    };
    const [[x1, x2], [y1, y2]] = [along(result.columns, 1), along(result.rows, 0)];
    return [x1, y1, x2, y2];
  }

  /** Lay the image, or a picture of one channel, under the map; or nothing. */
  lay(picture, [height, width], pixelated) {
    this.layers.picture.replaceChildren();
    if (!picture) return;
    const image = svgElement(picture.startsWith("#") ? "use" : "image", { href: picture });
    for (const [name, value] of Object.entries({ width: 1, height: 1, preserveAspectRatio: "none" })) {
      image.setAttribute(name, String(value));
    }
    image.setAttribute("transform", `scale(${width} ${height})`);
    image.setAttribute("class", pixelated ? "energy" : "photo");
    this.layers.picture.append(image);
  }

  show(scene) {
    const { map_hw, frame_hw, box, result } = scene;
    const pixels = [frame_hw[0] / map_hw[0], frame_hw[1] / map_hw[1]];
    const draw = (name, path) => this.layers[name].setAttribute("d", path);
    draw("map", rectangle([0, 0, frame_hw[1], frame_hw[0]]));
    draw("grid", this.gridLines(map_hw, pixels));
    const read = this.readBox(scene);
    const reach = this.near(read);
    draw("cells", reach && !result.refused ? cellsRead(result, pixels) : "");
    draw("bins", reach && !result.refused ? this.binLines(read, result) : "");
    draw("casing", reach ? rectangle(reach) : "");
    draw("read", reach ? rectangle(reach) : "");
    const samples = reach && !result.refused ? this.samples(result, pixels) : null;
    draw("on", samples?.on ?? "");
    draw("dot-casing", samples?.on ?? "");
    draw("off", samples?.off ?? "");
    const arrow = this.arrow(ordered(read), frame_hw);
    draw("arrow", arrow);
    draw("arrow-casing", arrow);
    this.placeBox(box);
    return { samplesDrawn: samples !== null, pointedAt: arrow !== "" };
  }

  /** The rectangle, cut off where it is far outside: browsers draw larger numbers wrongly. */
  near(read) {
    if (!read.every(Number.isFinite)) return null;
    const [left, top, right, bottom] = this.view;
    const far = 2 * Math.max(right - left, bottom - top);
    const cut = (value, low, high) => Math.min(Math.max(value, low - far), high + far);
    return ordered(read).map((value, i) => (i % 2 ? cut(value, top, bottom) : cut(value, left, right)));
  }

  gridLines([height, width], [pixels_y, pixels_x]) {
    const step = (pixels) => Math.max(1, 2 ** Math.ceil(Math.log2((5 * this.unit) / pixels)));
    let path = "";
    for (let x = step(pixels_x); x < width; x += step(pixels_x)) path += `M${x * pixels_x} 0V${height * pixels_y}`;
    for (let y = step(pixels_y); y < height; y += step(pixels_y)) path += `M0 ${y * pixels_y}H${width * pixels_x}`;
    return path;
  }

  binLines([x1, y1, x2, y2], { rows, columns }) {
    const [step_x, step_y] = [(x2 - x1) / columns.bins, (y2 - y1) / rows.bins];
    if (Math.min(Math.abs(step_x), Math.abs(step_y)) < 4 * this.unit) return "";
    if (Math.max(Math.abs(x2 - x1), Math.abs(y2 - y1)) > 1e5 * this.unit) return "";
    let path = "";
    for (let i = 1; i < columns.bins; i++) path += `M${x1 + i * step_x} ${y1}V${y2}`;
    for (let i = 1; i < rows.bins; i++) path += `M${x1} ${y1 + i * step_y}H${x2}`;
    return path;
  }

  /** Dots for the samples on the map, crosses for those off it; null where they are too many or too dense. */
  samples({ rows, columns, row_taps, column_taps }, [pixels_y, pixels_x]) {
    const number = Math.max(rows.grid, 0) * rows.bins * Math.max(columns.grid, 0) * columns.bins;
    const gap = Math.min(Math.abs(rows.bin / rows.grid) * pixels_y, Math.abs(columns.bin / columns.grid) * pixels_x);
    if (number > MAX_DRAWN_SAMPLES || (number && gap < MIN_SAMPLE_GAP * this.unit)) return null;
    const [ys, xs] = [samplePlaces(rows, row_taps, pixels_y), samplePlaces(columns, column_taps, pixels_x)];
    const arm = 2.2 * this.unit;
    let [on, off] = ["", ""];
    for (const y of ys) {
      for (const x of xs) {
        if (y.on && x.on) on += `M${x.at} ${y.at}h0`;
        else off += `M${x.at - arm} ${y.at - arm}l${2 * arm} ${2 * arm}m0 ${-2 * arm}l${-2 * arm} ${2 * arm}`;
      }
    }
    return { on, off };
  }

  /** From the map towards what is read, where that is out of view. */
  arrow([x1, y1, x2, y2], [height, width]) {
    const [left, top, right, bottom] = this.view;
    const seen = x2 >= left && x1 <= right && y2 >= top && y1 <= bottom;
    if (seen || ![x1, y1, x2, y2].every(Number.isFinite)) return "";
    const [from_x, from_y] = [width / 2, height / 2];
    const [step_x, step_y] = [(x1 + x2) / 2 - from_x, (y1 + y2) / 2 - from_y];
    const inset = 12 * this.unit;
    const limit = (step, from, low, high) =>
      step ? ((step > 0 ? high - inset : low + inset) - from) / step : Infinity;
    const end = Math.min(limit(step_x, from_x, left, right), limit(step_y, from_y, top, bottom));
    const [tip_x, tip_y] = [from_x + end * step_x, from_y + end * step_y];
    const angle = Math.atan2(step_y, step_x);
    const barb = (turn) => [14 * this.unit * Math.cos(angle + turn), 14 * this.unit * Math.sin(angle + turn)];
    const start = `M${from_x + 0.6 * end * step_x} ${from_y + 0.6 * end * step_y}L${tip_x} ${tip_y}`;
    return start + [2.6, -2.6].map((turn) => `M${tip_x} ${tip_y}l${barb(turn).join(" ")}`).join("");
  }

  placeBox(box) {
    const [x1, y1, x2, y2] = ordered(box);
    const set = (element, attributes) => {
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
    };
    const unit = this.unit;
    for (const rect of this.box.children) {
      const room = rect.classList.contains("hit") ? 10 * unit : 0;
      set(rect, { x: x1 - room, y: y1 - room, width: x2 - x1 + 2 * room, height: y2 - y1 + 2 * room });
    }
    // the handles of a small box stand off, so that the box between them can be held
    const stand_off = (low, high) => Math.max(0, (28 * unit - (high - low)) / 2);
    const [off_x, off_y] = [stand_off(x1, x2), stand_off(y1, y2)];
    this.handles.forEach((handle, i) => {
      const [x, y] = [CORNERS[i][0] === "x1" ? box[0] : box[2], CORNERS[i][1] === "y1" ? box[1] : box[3]];
      const outward = (value, low, high, first) => (value < high || (low === high && first) ? -1 : 1);
      const cx = x + off_x * outward(x, x1, x2, CORNERS[i][0] === "x1");
      const cy = y + off_y * outward(y, y1, y2, CORNERS[i][1] === "y1");
      [18, 7, 6].forEach((radius, j) => set(handle.children[j], { cx, cy, r: radius * unit }));
    });
  }
}

/** A box with half its size around it, and at least a hundredth of the image. */
function roomAround([x1, y1, x2, y2], largest) {
  const room = Math.max((x2 - x1) / 2, (y2 - y1) / 2, largest / 100);
  return [x1 - room, y1 - room, x2 + room, y2 + room];
}

/** The positions of one axis in pixels of the image, and whether they are on the map. */
function samplePlaces(axis, taps, pixels) {
  const places = [];
  for (let bin = 0; bin < axis.bins; bin++) {
    for (let i = 0; i < axis.grid; i++) {
      places.push({ at: (axis.position(bin, i) + 0.5) * pixels, on: i >= taps[bin].first && i < taps[bin].last });
    }
  }
  return places;
}

/** The cells whose values are read, as rectangles of neighbouring rows and columns. */
function cellsRead({ row_taps, column_taps }, [pixels_y, pixels_x]) {
  const runs = (taps) => {
    const cells = [...new Set(taps.flatMap((tap) => tap.cells))].sort((a, b) => a - b);
    const found = [];
    for (const cell of cells) {
      if (found.length && found[found.length - 1][1] === cell) found[found.length - 1][1] = cell + 1;
      else found.push([cell, cell + 1]);
    }
    return found;
  };
  const columns = runs(column_taps);
  return runs(row_taps)
    .flatMap(([y1, y2]) => columns.map(([x1, x2]) => [x1 * pixels_x, y1 * pixels_y, x2 * pixels_x, y2 * pixels_y]))
    .map(rectangle)
    .join("");
}
