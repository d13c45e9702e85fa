// The interactive figure: one box and the arguments of roi_align, and what follows from them.

const ONES = "a map of ones: the share of samples on the map";
const ANNOUNCE_AFTER = 700; // ms without a change, so that a screen reader is not told of each step of a drag
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** A number as a person would write it. */
const plain = (value) => String(Number(value.toPrecision(6)));

/** A scale as typed: a number, or one number divided by another; null where it is neither, or not above zero. */
function parseScale(text) {
  const parts = text.trim().split("/").map((part) => (part.trim() === "" ? NaN : Number(part)));
  const value = parts.length === 1 ? parts[0] : parts.length === 2 ? parts[0] / parts[1] : NaN;
  return Number.isFinite(value) && value > 0 && value < 3e38 ? value : null;
}

class Figure {
  /**
   * @param {HTMLElement} root
   * @param {Object} data what playground.py made
   * @param {(place: ?number) => {name: string, values: Float32Array}[]} channelsOf
   */
  constructor(root, data, channelsOf) {
    Object.assign(this, { root, data, channelsOf });
    this.find = (name) => root.querySelector(`[data-part="${name}"]`);
    this.stage = new Stage(this.find("stage"));
    this.pooled = new PooledTable(this.find("pooled"));
    const largest = Math.max(...data.frame_hw);
    this.step = largest >= 100 ? 1 : largest >= 10 ? 0.1 : 0.01;
    root.querySelector(".ramp").style.background = rampGradient();
    this.prepareControls();
    this.prepareDragging();
    this.use(0);
    new ResizeObserver(() => {
      this.stage.measure();
      this.draw();
    }).observe(this.find("stage"));
  }

  prepareControls() {
    const on = (name, act) => this.find(name)?.addEventListener("input", act);
    on("spatial_scale", () => this.take("spatial_scale", parseScale));
    on("sampling_ratio", () => this.change({ sampling_ratio: Number(this.find("sampling_ratio").value) }));
    on("aligned", () => this.change({ aligned: this.find("aligned").checked }));
    for (const [i, side] of ["height", "width"].entries()) {
      on(side, () => this.take(side, (text) => {
        const bins = Number(text);
        if (!Number.isInteger(bins) || bins < 1 || bins > 64) return null;
        return this.options.output_size.map((old, j) => (j === i ? bins : old));
      }, "output_size"));
    }
    for (const [i, name] of ["x1", "y1", "x2", "y2"].entries()) {
      const input = this.find(name);
      const take = () => this.take(name, (text) => {
        const value = text.trim() === "" ? NaN : Number(text);
        return Number.isFinite(value) ? this.box.map((old, j) => (j === i ? value : old)) : null;
      }, "box");
      input.addEventListener("input", take);
      input.addEventListener("keydown", (event) => {
        if (!event.shiftKey || !ARROWS[event.key]?.[1]) return;
        event.preventDefault();
        input.value = plain(Number(input.value) - 10 * this.step * ARROWS[event.key][1]);
        take();
      });
    }
    on("channel", () => this.change({}));
    on("under", () => this.change({}));
    on("zoom", () => this.change({}, true));
    on("row", () => this.pick(Number(this.find("row").value)));
    this.root.querySelectorAll("[data-preset]").forEach((button) =>
      button.addEventListener("click", () => this.use(Number(button.dataset.preset))));
  }

  /** Read a control; what cannot be used is marked, and the figure stays as it is. */
  take(control, parse, name = control) {
    const input = this.find(control);
    const value = parse(input.value);
    input.setAttribute("aria-invalid", String(value === null));
    this.find("scale-error").hidden = this.find("spatial_scale").getAttribute("aria-invalid") !== "true";
    if (value !== null) this.change(name === "box" ? { box: value } : { [name]: value }, true);
  }

  prepareDragging() {
    this.grab(this.stage.box, [0, 1, 2, 3]);
    this.stage.handles.forEach((handle, i) => this.grab(handle, [i % 2 ? 2 : 0, i < 2 ? 1 : 3]));
  }

  /** Let an element move these coordinates of the box, by pointer and by arrow keys. */
  grab(element, places) {
    const moved = (from, by) => from.map((value, i) => (places.includes(i) ? value + by[i % 2] : value));
    // Chromium pans the page all the same with touch-action on parts of an SVG
    element.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
    element.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      event.preventDefault();
      element.focus({ preventScroll: true });
      element.setPointerCapture(event.pointerId);
      this.dragged = { box: this.box, from: this.stage.pointAt(event) };
    });
    element.addEventListener("pointermove", (event) => {
      if (!this.dragged || !element.hasPointerCapture(event.pointerId)) return;
      const to = this.stage.pointAt(event);
      const by = to.map((value, i) => value - this.dragged.from[i]);
      this.change({ box: this.tidy(moved(this.dragged.box, by), places) });
    });
    for (const end of ["pointerup", "pointercancel"]) {
      element.addEventListener(end, () => {
        this.dragged = null;
        if (this.find("zoom").checked) this.change({}, true);
      });
    }
    element.addEventListener("keydown", (event) => {
      if (!ARROWS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      const step = this.step * (event.shiftKey ? 10 : 1);
      this.change({ box: this.tidy(moved(this.box, ARROWS[event.key].map((way) => way * step)), places) },
        this.find("zoom").checked);
    });
  }

  /** The box with the coordinates that were moved rounded to tenths of a step. */
  tidy(box, places) {
    const digits = Math.round(10 / this.step);
    return box.map((value, i) => (places.includes(i) ? Math.round(value * digits) / digits : value));
  }

  /** Begin again from one of the calls of the page, with the box of the row that is chosen. */
  use(preset) {
    this.preset = this.data.presets[preset];
    const { output_size, spatial_scale, sampling_ratio, aligned, values, cells } = this.preset;
    this.channels = [...this.channelsOf(values), { name: ONES, values: null }];
    fillOptions(this.find("channel"), this.channels.map((channel) => channel.name));
    this.find("values-note").textContent = this.preset.values_note;
    for (const name of ["spatial_scale", "aligned"]) this.find(name).disabled = cells !== null;
    this.options = { output_size, spatial_scale, sampling_ratio, aligned };
    this.change({ box: this.rowBox() }, true);
  }

  /** The box of the row that is chosen, or one in the middle where the call has none that could be drawn. */
  rowBox() {
    const row = Number(this.find("row")?.value ?? 0);
    const [height, width] = this.data.frame_hw;
    return this.preset.boxes[row] ?? [width / 4, height / 4, (3 * width) / 4, (3 * height) / 4];
  }

  pick(row) {
    this.find("row").value = String(row);
    this.change({ box: this.rowBox() }, true);
  }

  /** Take over what changed, and show what follows; `reframe` also chooses anew how much of the picture is shown. */
  change({ box = this.box, ...options }, reframe = false) {
    this.box = box;
    this.options = { ...this.options, ...options };
    const channel = this.channels[this.find("channel").selectedIndex];
    const { map_hw, cells } = this.preset;
    const result = roiAlign(channel.values, map_hw, box, { ...this.options, cells }, this.data.single);
    this.scene = { map_hw, frame_hw: this.data.frame_hw, box, result };
    this.range = channel.values ? rangeOf(channel.values) : [0, 1];
    if (reframe) this.stage.frame(this.scene, this.find("zoom").checked);
    this.layPicture(channel);
    this.draw();
    this.pooled.show(result, this.options.output_size, this.range);
    this.showControls();
    this.tell(result);
  }

  layPicture(channel) {
    const photo = this.find("under")?.value === "photo" && this.root.dataset.photo;
    const wanted = photo || channel;
    if (this.laid === wanted) return;
    this.laid = wanted;
    const features = channel.values && channelPicture(channel.values, this.preset.map_hw, this.range);
    this.stage.lay(photo || features, this.data.frame_hw, !photo);
  }

  draw() {
    const drawn = this.stage.show(this.scene);
    const dense = drawn.samplesDrawn ? "" : "The samples are too many or too close to be drawn; zoom may help.";
    this.find("drawn").textContent = drawn.pointedAt ? "The arrow points to where it reads, off the picture." : dense;
  }

  showControls() {
    const { spatial_scale, sampling_ratio, aligned, output_size } = this.options;
    const write = (name, text) => {
      const control = this.find(name);
      if (control !== document.activeElement) {
        control.value = text;
        control.removeAttribute("aria-invalid");
      }
    };
    const scale = this.find("spatial_scale");
    write("spatial_scale", scaleText(spatial_scale));
    this.find("scale-error").hidden = scale.getAttribute("aria-invalid") !== "true";
    const stride = plain(1 / spatial_scale);
    this.find("stride").textContent = this.preset.cells ? "the map's grid is given in its place"
      : `a cell is ${stride} ${stride === "1" ? "unit" : "units"} of boxes wide`;
    const ratio = this.find("sampling_ratio");
    if (![...ratio.options].some((option) => Number(option.value) === sampling_ratio)) {
      ratio.add(new Option(String(sampling_ratio), String(sampling_ratio)));
    }
    ratio.value = String(sampling_ratio);
    this.find("aligned").checked = aligned;
    ["height", "width"].forEach((side, i) => write(side, String(output_size[i])));
    ["x1", "y1", "x2", "y2"].forEach((name, i) => write(name, plain(this.box[i])));
    const corners = ["x1", "y1", "x2", "y2"].map((name, i) => `${name} ${plain(this.box[i])}`).join(", ");
    this.stage.box.setAttribute("aria-label", `Box, ${corners}. Arrow keys move it, with Shift ten times as far.`);
    this.stage.handles.forEach((handle, i) =>
      handle.setAttribute("aria-label", `Corner ${CORNERS[i].join(", ")} of the box. Arrow keys move it.`));
    this.root.querySelectorAll("[data-preset]").forEach((button) => {
      const preset = this.data.presets[button.dataset.preset];
      const same = Object.keys(this.options).every((name) => String(preset[name]) === String(this.options[name]));
      const pressed = preset === this.preset && same && String(this.box) === String(this.rowBox());
      button.setAttribute("aria-pressed", String(pressed));
    });
  }

  /** Say in words what is seen. */
  tell(result) {
    const coverage = result.refused ? "The call is refused" : `Coverage ${coverageText(result.coverage)}`;
    const words = result.refused ? refusal(this.options) : whatIsRead(result, this.box, this.options);
    this.find("coverage").textContent = coverage;
    this.find("words").textContent = words;
    this.find("line").textContent = callLine(this.options, this.preset);
    const [low, high] = this.range.map(shortNumber);
    this.find("low").textContent = low;
    this.find("high").textContent = high;
    clearTimeout(this.announcing);
    this.announcing = setTimeout(() => (this.find("announce").textContent = `${coverage}. ${words}`), ANNOUNCE_AFTER);
  }
}

function fillOptions(select, names) {
  const chosen = Math.min(Math.max(select.selectedIndex, 0), names.length - 1);
  select.replaceChildren(...names.map((name) => new Option(name)));
  select.selectedIndex = chosen;
}

/** The scale as 1 / stride where the stride is a whole number. */
function scaleText(scale) {
  const stride = 1 / scale;
  const whole = stride > 1.5 && stride < 1e6 && Math.abs(stride - Math.round(stride)) < 1e-6 * stride;
  return whole ? `1/${Math.round(stride)}` : plain(scale);
}

function coverageText(coverage) {
  if (coverage > 0 && coverage < 0.01) return "<0.01";
  return coverage > 0.99 && coverage < 1 ? ">0.99" : coverage.toFixed(2);
}

const refusal = ({ sampling_ratio }) =>
  `roi_align raises an error for such a box${sampling_ratio > 0 ? "" : ": a bin would have more than 2^24 samples"}.`;

function whatIsRead({ rows, columns, coverage }, box, { aligned }) {
  const number = Math.max(rows.grid, 0) * rows.bins * Math.max(columns.grid, 0) * columns.bins;
  const said = [];
  if (box[2] < box[0] || box[3] < box[1]) said.push("The box is inverted: its second corner comes before its first.");
  if (number === 0) said.push("Such a box has no samples, so every value is zero.");
  else if (coverage === 0) said.push(`All ${number} samples lie off the map, where they are zero.`);
  else if (coverage < 1) {
    said.push(`${Math.round(number * (1 - coverage))} of ${number} samples lie off the map and count as zero.`);
  }
  else said.push(`All ${number} samples lie on the map.`);
  if (number === 0) return said.join(" ");
  const span = (axis) => `${plain(axis.start)} to ${plain(axis.start + axis.bin * axis.bins)}`;
  said.push(`It reads cells ${span(columns)} in x, where the map has 0 to ${columns.extent - 1}, and ` +
    `${span(rows)} in y, where it has 0 to ${rows.extent - 1}.`);
  const bins = rows.bins * columns.bins === 1 ? "The one bin" : `Each of the ${rows.bins} x ${columns.bins} bins`;
  said.push(`${bins} averages ${rows.grid} x ${columns.grid} samples.`);
  const widened = !aligned && [rows, columns].some((axis) => Math.fround(axis.bin * axis.bins) <= 1);
  if (widened) said.push("With aligned=False a box is read at least one cell wide and high.");
  return said.join(" ");
}

function callLine({ output_size: [height, width], spatial_scale, sampling_ratio, aligned }, { cells }) {
  const size = height === width ? String(height) : `(${height}, ${width})`;
  const ratio = sampling_ratio > 0 ? `, sampling_ratio=${sampling_ratio}` : "";
  if (cells) return `pool_regions(features, boxes, ${size}, grids${ratio})`;
  return `roi_align(features, boxes, output_size=${size}, spatial_scale=${scaleText(spatial_scale)}${ratio}` +
    `${aligned ? ", aligned=True" : ""})`;
}
