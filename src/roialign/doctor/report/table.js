// Tables that sort: each column header becomes a button. The rows' first order is the server's.

/** Numbers by size, text by alphabet; what is not known comes last in both directions. */
function compareCells(a, b, direction) {
  const [x, y] = [a, b].map((text) => (text.trim() === "" ? NaN : Number(text)));
  const [no_x, no_y] = [a, b].map((text) => /^(nan|unknown|)$/i.test(text.trim()));
  if (no_x || no_y) return Number(no_x) - Number(no_y);
  const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y || 0;
  return direction * order;
}

/** @param {HTMLTableElement} table */
function makeSortable(table) {
  const headers = [...table.tHead.rows[0].cells].filter((header) => !header.hasAttribute("data-unsorted"));
  const body = table.tBodies[0];
  const key = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent;

  function sortBy(header) {
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    headers.forEach((other) => other.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const column = header.cellIndex;
    const rows = [...body.rows].sort((a, b) => compareCells(key(a, column), key(b, column), ascending ? 1 : -1));
    body.append(...rows);
  }

  for (const header of headers) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    header.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sortBy(header));
  }
}
