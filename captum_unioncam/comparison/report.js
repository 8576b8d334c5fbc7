"use strict";
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const colors = bytes(document.querySelector("main").dataset.colors);
const sliders = Object.fromEntries([...document.querySelectorAll("input")].map((slider) => [slider.id, slider]));

// As torch.nn.functional.interpolate with align_corners=False, then min-max scaled.
function resized(canvas) {
  const { rows, columns, heat } = canvas.dataset;
  const view = new DataView(bytes(heat).buffer), height = canvas.height, width = canvas.width;
  const at = (i, j) => view.getUint16(2 * (i * columns + j), true) / 65535;
  const steps = (length, cells) => Array.from({ length }, (_, i) => {
    const from = Math.max(0, ((i + 0.5) * cells) / length - 0.5), low = Math.floor(from);
    return [low, Math.min(low + 1, cells - 1), from - low];
  });
  const across = steps(width, +columns), values = new Float32Array(height * width);
  steps(height, +rows).forEach(([top, bottom, down], i) => across.forEach(([left, right, along], j) => {
    const upper = at(top, left) + along * (at(top, right) - at(top, left));
    const lower = at(bottom, left) + along * (at(bottom, right) - at(bottom, left));
    values[i * width + j] = upper + down * (lower - upper);
  }));
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  return high > low ? values.map((value) => (value - low) / (high - low)) : values;
}

// As captum_unioncam.visualization.boxes: tight around pixels that touch, be it at a corner.
function boxes(width, height, isAbove) {
  const found = [], seen = new Uint8Array(width * height);
  for (let start = 0; start < seen.length; start++) {
    if (seen[start] || !isAbove(start)) continue;
    const box = [width, height, 0, 0], left = [start];
    seen[start] = 1;
    while (left.length) {
      const n = left.pop(), x = n % width, y = (n - x) / width;
      [box[0], box[1]] = [Math.min(box[0], x), Math.min(box[1], y)];
      [box[2], box[3]] = [Math.max(box[2], x + 1), Math.max(box[3], y + 1)];
      for (let i = Math.max(0, y - 1); i <= Math.min(height - 1, y + 1); i++) {
        for (let j = Math.max(0, x - 1); j <= Math.min(width - 1, x + 1); j++) {
          const next = i * width + j;
          if (seen[next] || !isAbove(next)) continue;
          seen[next] = 1;
          left.push(next);
        }
      }
    }
    found.push(box);
  }
  return found;
}

const kept = new Map();
function draw(canvas) {
  const { width, height } = canvas, picture = document.getElementById(canvas.dataset.picture);
  if (!kept.has(canvas)) kept.set(canvas, resized(canvas));
  const values = kept.get(canvas), opacity = +sliders.opacity.value, threshold = +sliders.threshold.value;
  const layer = new ImageData(width, height), pixels = layer.data;
  const isAbove = (n) => threshold === 0 || values[n] > threshold;
  let above = 0;
  for (let n = 0; n < values.length; n++) {
    if (!isAbove(n)) continue;
    above++;
    const column = n % width;
    const isEdge = (column && !isAbove(n - 1)) || (column < width - 1 && !isAbove(n + 1))
      || (n >= width && !isAbove(n - width)) || (n + width < values.length && !isAbove(n + width));
    const color = 3 * Math.min(255, Math.floor(256 * values[n]));
    for (let c = 0; c < 3; c++) pixels[4 * n + c] = isEdge ? 255 : colors[color + c];
    pixels[4 * n + 3] = isEdge ? 255 : Math.round(255 * opacity * Math.min(1, 2 * values[n]));
  }
  const sheet = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  sheet.getContext("2d").putImageData(layer, 0, 0);
  context.drawImage(picture, 0, 0, width, height);
  context.drawImage(sheet, 0, 0);
  const around = sliders.boxes.checked && threshold > 0 ? boxes(width, height, isAbove) : [];
  for (const [ink, line] of [["black", 3], ["white", 1]]) {
    [context.strokeStyle, context.lineWidth] = [ink, line];
    for (const [x, y, right, bottom] of around) context.strokeRect(x + 0.5, y + 0.5, right - x - 1, bottom - y - 1);
  }
  canvas.title = around.map((box) => box.join(", ")).join("\n");
  canvas.parentElement.querySelector(".above").textContent = `${((100 * above) / values.length).toFixed(1)} %`;
}

const canvases = [...document.querySelectorAll("canvas")], state = () => `${sliders.opacity?.value} ${sliders.threshold?.value} ${sliders.boxes?.checked}`;
// Only what is on the screen or near it is drawn, so that a slider stays quick in a long report.
function update(everything) {
  for (const canvas of canvases) {
    const { top, bottom } = canvas.getBoundingClientRect();
    const isNear = bottom > -innerHeight && top < 2 * innerHeight;
    if (canvas.dataset.drawn === state() || !(isNear || everything)) continue;
    draw(canvas);
    canvas.dataset.drawn = state();
  }
  for (const told of document.querySelectorAll("output")) told.textContent = `${Math.round(100 * sliders[told.htmlFor].value)} %`;
}
addEventListener("beforeprint", () => update(true));
addEventListener("scroll", () => update(false), { passive: true });
addEventListener("resize", () => update(false));

// The fragment sets the sliders: report.html#opacity=0.8&threshold=0.5&boxes=1
for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
  if (!Object.hasOwn(sliders, name)) continue;
  if (name === "boxes") sliders.boxes.checked = value !== "0";
  else sliders[name].value = value;
}
Object.values(sliders).forEach((slider) => slider.addEventListener("input", () => update(false)));
Promise.all([...document.images].map((image) => image.decode())).then(() => update(false));

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0], column = head.cellIndex;
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const order = (a, b) => {
      const [x, y] = [a, b].map((row) => row.cells[column].dataset.value);
      // What is not known comes last in both directions.
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (head.className ? x.localeCompare(y) : x - y);
    };
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    body.append(...[...body.rows].sort(order));
  });
}
