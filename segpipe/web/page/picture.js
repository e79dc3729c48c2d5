// A segmented picture on a canvas.

const BLACK = [0, 0, 0];

// look: {opacity from 0 to 1, confidence: whether to show it, only: one class or null}
function paint(canvas, picture, look, palette) {
  const {pixels, mask, confidence} = picture, {width, height, data: from} = pixels;
  const shown = new ImageData(width, height), to = shown.data;
  for (let p = 0, i = 0; p < mask.length; p++, i += 4) {
    const hidden = look.only !== null && mask[p] !== look.only;
    const grey = 255 * (confidence?.[p] ?? 0);
    const [r, g, b] = look.confidence && confidence ? [grey, grey, grey] : palette[mask[p]] ?? BLACK;
    const over = hidden ? Math.min(0.6, look.opacity) : look.opacity, colour = hidden ? BLACK : [r, g, b];
    for (let c = 0; c < 3; c++) to[i + c] = from[i + c] * (1 - over) + colour[c] * over;
    to[i + 3] = 255;
  }
  Object.assign(canvas, {width, height});
  canvas.getContext("2d").putImageData(shown, 0, 0);
}

function sharesOf(mask, classes) {
  const counts = new Array(classes).fill(0);
  for (const label of mask) counts[label]++;
  return counts.map((count) => count / mask.length);
}
