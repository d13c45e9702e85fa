// Brings the page to life; without it, it can still be read.

function start() {
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  const data = JSON.parse(document.getElementById("figures").textContent);
  const decoded = new Map();

  function channelsOf(place) {
    if (place === null) return [];
    if (!decoded.has(place)) {
      decoded.set(place, data.maps[place].map(({ name, values }) => ({ name, values: decodeFloats(values) })));
    }
    return decoded.get(place);
  }

  const figures = new Map();

  function figureOf(root) {
    if (!figures.has(root)) figures.set(root, new Figure(root, data.figures[root.dataset.figure], channelsOf));
    return figures.get(root);
  }

  // A page may have many figures: only the first is made at once, the others when they come near.
  const near = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      near.unobserve(entry.target);
      figureOf(entry.target);
    }),
    { rootMargin: "1200px" },
  );

  document.querySelectorAll(".playground").forEach((root, place) => {
    root.hidden = false;
    root.previousElementSibling.hidden = true; // which says that scripts are wanted
    if (place === 0) figureOf(root);
    else near.observe(root);
    root.closest("article").querySelectorAll("[data-pick]").forEach((button) => {
      button.hidden = false;
      button.addEventListener("click", () => {
        figureOf(root).pick(Number(button.dataset.pick));
        root.scrollIntoView({ block: "nearest" });
        figureOf(root).stage.box.focus({ preventScroll: true });
      });
    });
  });
}

/** Float32 values, as the page holds them in base64; the processors that browsers run on are little-endian. */
function decodeFloats(text) {
  const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

start();
