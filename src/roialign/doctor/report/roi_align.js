// RoIAlign of one channel of one image, as roialign.roi_align computes it (docs/semantics.md).
//
// Positions are rounded after each step as the operator rounds them, for whether a sample is on the map, and how
// many samples a bin has, is decided on the rounded number. Sums are made in double precision.

const MAX_ADAPTIVE_GRID = 2 ** 24; // the operator refuses more samples in a bin along one axis

/**
 * Where the samples of a box lie along one axis, in cells of the map; the centre of cell c is at c.
 * @typedef {Object} AxisSamples
 * @property {number} start where the box begins
 * @property {number} bin length of one output bin; negative when the box is inverted
 * @property {number} grid samples in each bin; none if below 1
 * @property {number} bins output bins
 * @property {number} extent cells of the map
 * @property {(bin: number, sample: number) => number} position
 */

/**
 * @param {number} low the box's first coordinate
 * @param {number} high the box's second coordinate
 * @param {number} bins
 * @param {number} extent
 * @param {{sampling_ratio: number, aligned: boolean}} options
 * @param {(value: number) => number} round Math.fround for an operator that computes in float32
 * @param {[number, number]} cells scale and shift: cell = coordinate * scale - shift
 * @returns {AxisSamples}
 */
function axisSamples(low, high, bins, extent, options, round, cells) {
  const [scale, shift] = cells.map(round);
  const start = round(round(round(low) * scale) - shift);
  const size = round(round(round(round(high) * scale) - shift) - start);
  const bin = round((options.aligned ? size : Math.max(size, 1)) / bins);
  const grid = options.sampling_ratio > 0 ? options.sampling_ratio : Math.ceil(bin);
  const position = (index, sample) =>
    round(round(start + round(index * bin)) + round(round((sample + 0.5) * bin) / grid));
  return { start, bin, grid, bins, extent, position };
}

/** First and past-the-last sample of a bin on the map, [-1, extent]; by bisection, for a bin may have millions. */
function runOnMap(samples, index) {
  const { bin, grid, extent, position } = samples;
  const reached = (i) => (bin >= 0 ? position(index, i) >= -1 : position(index, i) <= extent);
  const passed = (i) => (bin >= 0 ? position(index, i) > extent : position(index, i) < -1);
  return [firstWhere(reached, grid), firstWhere(passed, grid)];
}

function firstWhere(holds, end) {
  let low = 0;
  let high = Math.max(end, 0);
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (holds(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** The cells that each bin reads along one axis, with the weight of each: {cells, weights, first, last}. */
function axisTaps(samples) {
  const { grid, bins, extent, position } = samples;
  return Array.from({ length: bins }, (_, index) => {
    const [first, last] = runOnMap(samples, index);
    const taps = new Map();
    const add = (cell, weight) => taps.set(cell, (taps.get(cell) ?? 0) + weight);
    for (let i = first; i < last; i++) {
      const inside = Math.max(position(index, i), 0);
      const low = Math.floor(inside);
      if (low >= extent - 1) {
        add(extent - 1, 1);
      } else {
        add(low, 1 - (inside - low));
        add(low + 1, inside - low);
      }
    }
    const weights = [...taps.values()].map((weight) => weight / grid);
    return { cells: [...taps.keys()], weights, first, last };
  });
}

/**
 * @param {?ArrayLike<number>} values the channel, row by row; null stands for a map of ones, whose pooled values are
 *   the share of each bin's samples on the map
 * @param {[number, number]} map_hw
 * @param {[number, number, number, number]} box x1, y1, x2, y2
 * @param {{output_size: [number, number], spatial_scale: number, sampling_ratio: number, aligned: boolean,
 *   cells: ?number[]}} options `cells`, where a grid is given in place of the scale: scale and shift of rows, columns
 * @param {boolean} single whether the operator computes in float32, as it does for all but float64 features
 */
function roiAlign(values, map_hw, box, options, single = true) {
  const round = single ? Math.fround : (value) => value;
  const [[height, width], [bins_y, bins_x]] = [map_hw, options.output_size];
  const given = [options.spatial_scale, options.aligned ? 0.5 : 0];
  const [scale_y, shift_y, scale_x, shift_x] = options.cells ?? [...given, ...given];
  const rows = axisSamples(box[1], box[3], bins_y, height, options, round, [scale_y, shift_y]);
  const columns = axisSamples(box[0], box[2], bins_x, width, options, round, [scale_x, shift_x]);
  const countable = (axis) =>
    Number.isFinite(axis.start) && Number.isFinite(axis.bin) &&
    (options.sampling_ratio > 0 || Math.abs(axis.grid) <= MAX_ADAPTIVE_GRID);
  if (!countable(rows) || !countable(columns)) return { rows, columns, refused: true };
  const [row_taps, column_taps] = [axisTaps(rows), axisTaps(columns)];
  const pooled = new Float64Array(bins_y * bins_x);
  for (let y = 0; y < bins_y; y++) {
    for (let x = 0; x < bins_x; x++) {
      pooled[y * bins_x + x] = bilinearSum(values, width, row_taps[y], column_taps[x]);
    }
  }
  const share = (taps, axis) =>
    taps.reduce((sum, tap) => sum + tap.last - tap.first, 0) / Math.max(axis.grid * axis.bins, 1);
  const coverage = share(row_taps, rows) * share(column_taps, columns);
  return { rows, columns, row_taps, column_taps, pooled, coverage, refused: false };
}

/** The weighted sum over the cells that a bin reads; the weights of the samples off the map are missing from it. */
function bilinearSum(values, width, row_tap, column_tap) {
  let total = 0;
  row_tap.cells.forEach((row, i) => {
    column_tap.cells.forEach((column, j) => {
      total += row_tap.weights[i] * column_tap.weights[j] * (values ? values[row * width + column] : 1);
    });
  });
  return total;
}
