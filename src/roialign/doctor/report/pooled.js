// What comes out of the call, as a table of coloured numbers.

const RAMP = [[20, 26, 74], [30, 82, 138], [38, 138, 141], [122, 190, 120], [247, 230, 150]]; // dark to light

/** The colour of a value from 0 to 1, as [red, green, blue]. */
function rampColour(level) {
  const place = Math.min(Math.max(level, 0), 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[low].map((from, i) => Math.round(from + (place - low) * (RAMP[low + 1][i] - from)));
}

/** Black or white, whichever is easier to read on the colour (WCAG: at least 4.5 to 1 for any colour). */
function inkOn(colour) {
  const [r, g, b] = colour.map((byte) => {
    const share = byte / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

/** The ramp as a CSS background. */
const rampGradient = () => `linear-gradient(to right, ${RAMP.map((colour) => `rgb(${colour})`).join(", ")})`;

/** The least and the largest finite value. */
function rangeOf(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (Number.isFinite(value)) [low, high] = [Math.min(low, value), Math.max(high, value)];
  }
  return low <= high ? [low, high] : [0, 0];
}

/** Where a value lies in a range, from 0 to 1; in the middle of a range of one value. */
const levelIn = (value, [low, high]) => (high > low ? (value - low) / (high - low) : 0.5);

/** A number in the few letters that a cell has room for. */
function shortNumber(value) {
  const size = Math.abs(value);
  if (!Number.isFinite(value)) return String(value).replace("Infinity", "inf");
  if (value === 0) return "0";
  if (size < 0.001 || size >= 1e4) return value.toExponential(0).replace("e+", "e");
  return value.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0);
}

const BINS_WITH_NUMBERS = 14; // along a side; the numbers of more bins are too small to read

/** A table with one cell for each bin. */
class PooledTable {
  /** @param {HTMLTableElement} table */
  constructor(table) {
    this.table = table;
    this.size = "";
  }

  /** Show what `roiAlign` gave, coloured within the range of the whole channel. */
  show(result, [bins_y, bins_x], range) {
    if (this.size !== `${bins_y} x ${bins_x}`) this.build(bins_y, bins_x);
    this.table.classList.toggle("refused", result.refused);
    const numbers = Math.max(bins_y, bins_x) <= BINS_WITH_NUMBERS;
    this.cells.forEach((cell, place) => {
      const [y, x] = [Math.floor(place / bins_x), place % bins_x];
      if (result.refused) showBin(cell, NaN, false, "the call is refused", range);
      else showBin(cell, result.pooled[place], numbers, samplesOnMap(result, y, x), range);
      cell.title = `bin row ${y}, column ${x}: ${cell.title}`;
    });
  }

  build(bins_y, bins_x) {
    this.size = `${bins_y} x ${bins_x}`;
    const rows = Array.from({ length: bins_y }, () => {
      const row = document.createElement("tr");
      row.append(...Array.from({ length: bins_x }, () => document.createElement("td")));
      return row;
    });
    this.table.tBodies[0].replaceChildren(...rows);
    this.table.classList.toggle("dense", Math.max(bins_y, bins_x) > BINS_WITH_NUMBERS);
    this.table.classList.toggle("many", bins_x > 9);
    this.table.style.setProperty("--columns", String(bins_x));
    this.cells = [...this.table.querySelectorAll("td")];
  }
}

function showBin(cell, value, numbers, samples, range) {
  const off = samples === 0;
  const colour = off || !Number.isFinite(value) ? null : rampColour(levelIn(value, range));
  cell.className = off ? "off" : colour ? "" : "bad";
  cell.style.backgroundColor = colour ? `rgb(${colour})` : "";
  cell.style.color = colour ? inkOn(colour) : "";
  cell.textContent = numbers ? shortNumber(value) : "";
  cell.dataset.value = String(value);
  cell.title = typeof samples === "string" ? samples : `${value} from ${samples} samples on the map`;
}

function samplesOnMap({ row_taps, column_taps }, y, x) {
  return (row_taps[y].last - row_taps[y].first) * (column_taps[x].last - column_taps[x].first);
}

/** A channel as a picture of one pixel for each cell, in the colours of the table; NaN and infinity red. */
function channelPicture(values, [height, width], range) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let cell = 0; cell < width * height; cell++) {
    const colour = Number.isFinite(values[cell]) ? rampColour(levelIn(values[cell], range)) : [217, 26, 89];
    pixels.data.set([...colour, 255], 4 * cell);
  }
  context.putImageData(pixels, 0, 0);
  return canvas.toDataURL();
}
